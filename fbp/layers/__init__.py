"""Layers: immutable data with `forward` beside `backward`."""

from fbp.layers.basic import Activation as Activation
from fbp.layers.basic import Affine as Affine
from fbp.layers.basic import Dense as Dense
from fbp.layers.basic import Dropout as Dropout
from fbp.layers.basic import Flatten as Flatten
from fbp.layers.normalization import BatchNorm as BatchNorm
from fbp.layers.normalization import LayerNorm as LayerNorm
from fbp.layers.normalization import RMSNorm as RMSNorm
