"""A layer's two rules as one differentiable function, and the checks that the functions share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fbp.backprop import attach_rule
from fbp.errors import FbpError
from fbp.typing import Activations, Cache, Key, Layer, Params


@lru_cache(maxsize=256)
def _attach_rule(layer: Layer) -> Callable[[Params, Activations, Key | None], Activations]:
    # The same function for equal layers, so that JAX finds what it has traced.
    return attach_rule(layer)


def apply_rule(layer: Layer, params: Params, A: Activations) -> Activations:
    """The output of a layer, whose derivative is the layer's own.

    Args:
        layer: immutable data.
        params: its parameters.
        A: its input.
    """
    return _attach_rule(layer)(params, A, None)


@dataclass(frozen=True)
class Late(Layer):
    """A layer whose recomputations wait for the cotangent.

    Without that, the compiler is free to recompute an array as soon as it was dropped, and to keep it: on CPUs XLA
    removes `jax.lax.optimization_barrier` before it orders the operations of a program.

    Attributes:
        layer: the layer inside.
    """

    layer: Layer

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """That of the layer inside."""
        return self.layer.forward(params, A, key)

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """That of the layer inside, from a cache that depends on dA_out."""
        first = dA_out[..., :1]
        # A zero that no compiler can know to be one, because it is NaN for NaN.
        zero = jnp.where(first == first, jnp.zeros_like(first), first)

        def wait(leaf: Array) -> Array:
            is_row_by_row = leaf.ndim == zero.ndim and leaf.shape[:-1] == zero.shape[:-1]
            if not (is_row_by_row and jnp.issubdtype(leaf.dtype, jnp.floating)):
                return leaf
            return leaf + zero.astype(leaf.dtype)

        return self.layer.backward(params, jax.tree.map(wait, cache), dA_out)


def as_floating(name: str, x: Any) -> Float[Array, "..."]:
    """x as an array.

    Raises:
        FbpError: it is not floating point.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise FbpError(f"{name} must be floating point, got {x.dtype}; convert it, .astype('float32')")
    return x


def as_vector(name: str, v: Any, x: Float[Array, "*m n"]) -> Float[Array, " n"]:
    """v in the dtype of x.

    Raises:
        FbpError: it has not one entry for each entry of the last axis of x.
    """
    v = as_floating(name, v)
    if v.shape != x.shape[-1:]:
        raise FbpError(
            f"{name} must have one entry for each of the last axis, {x.shape[-1:]}, got {v.shape}; reshape it"
        )
    return v.astype(x.dtype)
