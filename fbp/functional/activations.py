"""Activation functions that keep one array for the backward pass."""

import operator

import jax.numpy as jnp
from jaxtyping import Array, Float

from fbp.errors import FbpError
from fbp.functional.rule import apply_rule, as_floating
from fbp.layers import Activation, Gated


def gelu(x: Float[Array, "*shape"], approximate: bool = True) -> Float[Array, "*shape"]:
    """x Phi(x), with the normal distribution function Phi, or its tanh form: as `jax.nn.gelu`, of which only x is kept.

        dx = dy (Phi(x) + x Phi'(x))

    Forward mode is not defined. Hendrycks & Gimpel (2016).

    Args:
        x: of any shape.
        approximate: whether Phi(x) is (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3))) / 2.

    Returns:
        An array like x.

    Raises:
        FbpError: x is not floating point.

    Example:
        >>> from fbp import functional as F
        >>> f"{F.gelu(1.0, approximate=False):.4f}"
        '0.8413'
        >>> float(jax.grad(F.gelu)(0.0))
        0.5
    """
    return apply_rule(Activation("gelu_tanh" if approximate else "gelu"), (), as_floating("x of gelu", x))


def silu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x sigmoid(x), also called swish: as `jax.nn.silu`, of which only x is kept.

        dx = dy s (1 + x (1 - s)),    s = sigmoid(x)

    Forward mode is not defined. Elfwing, Uchibe & Doya (2018).

    Args:
        x: of any shape.

    Returns:
        An array like x.

    Raises:
        FbpError: x is not floating point.

    Example:
        >>> round(float(fbp.functional.silu(1.0)), 4)
        0.7311
    """
    return apply_rule(Activation("silu"), (), as_floating("x of silu", x))


def swiglu(gate: Float[Array, "*shape"], value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """silu(gate) value, entry by entry; the two arguments are all that is kept.

        d_gate = dy value silu'(gate),    d_value = dy silu(gate)

    Forward mode is not defined. Shazeer (2020).

    Args:
        gate: of any shape.
        value: in the shape and dtype of gate.

    Returns:
        An array like gate.

    Raises:
        FbpError: the two differ in shape or dtype, or are not floating point.

    Example:
        >>> f"{fbp.functional.swiglu(1.0, 2.0):.4f}"
        '1.4621'
    """
    gate, value = as_floating("gate of swiglu", gate), as_floating("value of swiglu", value)
    if gate.shape != value.shape or gate.dtype != value.dtype:
        raise FbpError(
            f"gate and value of swiglu must agree, got {gate.dtype} {gate.shape} and {value.dtype} {value.shape}; "
            "make them by two products of one width"
        )
    return apply_rule(Gated("silu"), (), (gate, value))


def softmax(x: Float[Array, "*shape"], axis: int = -1) -> Float[Array, "*shape"]:
    """exp(x) / sum exp(x) along an axis: as `jax.nn.softmax`, of which only the result y is kept.

        dx = y (dy - sum(y dy))

    Forward mode is not defined. Bridle (1990).

    Args:
        x: of any shape with at least one axis.
        axis: where the results add up to 1.

    Returns:
        An array like x.

    Raises:
        FbpError: x is not floating point, or has no such axis.

    Example:
        >>> fbp.functional.softmax(jnp.zeros((2, 4)), axis=0)[:, 0].tolist()
        [0.5, 0.5]
    """
    x, axis = as_floating("x of softmax", x), operator.index(axis)
    if not -x.ndim <= axis < x.ndim:
        raise FbpError(f"axis of softmax must be one of the {x.ndim} axes of x, got {axis}; -1 is the last one")
    return jnp.moveaxis(apply_rule(Activation("softmax"), (), jnp.moveaxis(x, axis, -1)), -1, axis)
