"""Which axes are examples and which are units."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def is_shape(shape: Any) -> bool:
    """Whether this is the shape of one array, not a tuple or dictionary of shapes."""
    return isinstance(shape, tuple) and all(isinstance(n, int) for n in shape)


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["sizes"])
@dataclass(frozen=True)
class Sizes:
    """Lengths of axes in a cache, as static data."""

    sizes: tuple[int, ...]


def example_axes(A: Float[Array, "*m n"]) -> tuple[int, ...]:
    """All axes but the last: the axes that a parameter's gradient sums over."""
    return tuple(range(A.ndim - 1))


def per_unit(v: Float[Array, " n"], A: Float[Array, "*m k"]) -> Float[Array, "*ones n"]:
    """A vector over units as an array of A's rank: an explicit broadcast, as strict rank promotion requires."""
    return jnp.expand_dims(v, example_axes(A))
