"""Layers: immutable data with `forward` beside `backward`."""

from fbp.layers.attention import Attention as Attention
from fbp.layers.attention import Rotary as Rotary
from fbp.layers.basic import Activation as Activation
from fbp.layers.basic import Affine as Affine
from fbp.layers.basic import Dense as Dense
from fbp.layers.basic import Dropout as Dropout
from fbp.layers.basic import Flatten as Flatten
from fbp.layers.embedding import Embedding as Embedding
from fbp.layers.embedding import LearnedPositions as LearnedPositions
from fbp.layers.embedding import SinusoidalPositions as SinusoidalPositions
from fbp.layers.embedding import Unembedding as Unembedding
from fbp.layers.joining import Add as Add
from fbp.layers.joining import Concatenate as Concatenate
from fbp.layers.joining import Gated as Gated
from fbp.layers.joining import Multiply as Multiply
from fbp.layers.low_rank import LowRank as LowRank
from fbp.layers.normalization import BatchNorm as BatchNorm
from fbp.layers.normalization import LayerNorm as LayerNorm
from fbp.layers.normalization import RMSNorm as RMSNorm
