"""A layer's two rules as one differentiable function, and the checks that the functions share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from fbp.backprop import attach_rule
from fbp.combinators.lines import wait_for
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
    """A layer whose recomputations wait for the cotangent (see `fbp.combinators.lines.wait_for`).

    Attributes:
        layer: the layer inside.
    """

    layer: Layer

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """That of the layer inside."""
        return self.layer.forward(params, A, key)

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """That of the layer inside, from a cache that depends on dA_out."""
        return self.layer.backward(params, wait_for(dA_out, cache), dA_out)


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


def as_dense_params(name: str, x: Array, W: Float[Array, "n_in n_out"], b: Any) -> dict[str, Array]:
    """The parameters of a `Dense` in the dtype of x.

    Args:
        name: of b, for a message.
        x: the input.
        W: its weights.
        b: its biases, or None.

    Raises:
        FbpError: b has not one entry for each column of W.
    """
    params = {"W": W.astype(x.dtype)}
    return params if b is None else params | {"b": as_vector(name, b, params["W"])}
