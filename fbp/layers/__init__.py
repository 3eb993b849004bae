"""Layers: immutable data with `forward` beside `backward`."""

from fbp.layers.basic import Activation, Affine, Dense, Dropout, Flatten
from fbp.layers.normalization import BatchNorm, LayerNorm, RMSNorm

__all__ = ["Activation", "Affine", "BatchNorm", "Dense", "Dropout", "Flatten", "LayerNorm", "RMSNorm"]
