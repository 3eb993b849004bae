"""Normalizations that keep their input and two numbers for each set of statistics."""

from jaxtyping import Array, Float

from fbp.errors import FbpError
from fbp.functional.rule import apply_rule, as_floating, as_vector
from fbp.layers import BatchNorm, LayerNorm, RMSNorm


def layer_norm(
    x: Float[Array, "*m n"], scale: Float[Array, " n"], bias: Float[Array, " n"], eps: float = 1e-5
) -> Float[Array, "*m n"]:
    """scale x_hat + bias with x_hat = (x - mean) r, r = (variance + eps)^(-1/2), both over the last axis.

        dx = r (d - <d> - x_hat <d x_hat>),    d = dy scale,    d_scale = sum dy x_hat,    d_bias = sum dy

    with <.> the mean over the last axis. x, the mean and r are kept, not x_hat; statistics are taken in at least
    float32. Forward mode is not defined. Ba, Kiros & Hinton (2016).

    Args:
        x: (..., n).
        scale: (n,), used in the dtype of x.
        bias: (n,), likewise.
        eps: added to the variance; a Python number.

    Returns:
        An array like x.

    Raises:
        FbpError: a shape does not fit, something is not floating point, or eps is negative.

    Example:
        >>> y = fbp.functional.layer_norm(jnp.array([1.0, 2.0, 3.0]), jnp.ones(3), jnp.zeros(3))
        >>> print(y.round(2))
        [-1.22  0.    1.22]
    """
    return _normalize("layer_norm", LayerNorm(eps), x, scale, bias)


def rms_norm(x: Float[Array, "*m n"], scale: Float[Array, " n"], eps: float = 1e-5) -> Float[Array, "*m n"]:
    """scale x_hat with x_hat = x r, r = (mean of x**2 + eps)^(-1/2) over the last axis.

        dx = r (d - x_hat <d x_hat>),    d = dy scale,    d_scale = sum dy x_hat

    x and r are kept; statistics are taken in at least float32. Forward mode is not defined. Zhang & Sennrich (2019).

    Args:
        x: (..., n).
        scale: (n,), used in the dtype of x.
        eps: added to the mean square; a Python number.

    Returns:
        An array like x.

    Raises:
        FbpError: a shape does not fit, something is not floating point, or eps is negative.

    Example:
        >>> y = fbp.functional.rms_norm(jnp.array([3.0, 4.0]), jnp.ones(2))
        >>> bool(jnp.allclose(jnp.mean(jnp.square(y)), 1))
        True
    """
    return _normalize("rms_norm", RMSNorm(eps), x, scale)


def batch_norm(
    x: Float[Array, "*m n"], scale: Float[Array, " n"], bias: Float[Array, " n"], eps: float = 1e-5
) -> Float[Array, "*m n"]:
    """scale x_hat + bias as in `layer_norm`, with mean and variance over all axes but the last: those of this batch.

    What is kept, and the derivative, are those of `layer_norm`. For inference multiply and add with the population's
    statistics instead. Under `jax.vmap` the batch is that of one call. Forward mode is not defined. Ioffe & Szegedy
    (2015).

    Args:
        x: (..., n), with at least one axis of examples.
        scale: (n,), used in the dtype of x.
        bias: (n,), likewise.
        eps: added to the variance; a Python number.

    Returns:
        An array like x.

    Raises:
        FbpError: a shape does not fit, something is not floating point, or eps is negative.

    Example:
        >>> print(fbp.functional.batch_norm(jnp.array([[1.0], [3.0]]), jnp.ones(1), jnp.zeros(1)).round(3))
        [[-1.]
         [ 1.]]
    """
    x = as_floating("x of batch_norm", x)
    if x.ndim < 2:
        raise FbpError(f"x of batch_norm must have an axis of examples, got {x.shape}; use layer_norm for one example")
    return _normalize("batch_norm", BatchNorm(eps), x, scale, bias)


def _normalize(name: str, layer: BatchNorm | LayerNorm | RMSNorm, x: Array, scale: Array, *bias: Array) -> Array:
    x = as_floating(f"x of {name}", x)
    if not x.ndim:
        raise FbpError(f"x of {name} must have at least one axis, got a scalar; give (..., n)")
    params = {"gamma": as_vector(f"scale of {name}", scale, x)}
    for each in bias:
        params["beta"] = as_vector(f"bias of {name}", each, x)
    return apply_rule(layer, params, x)
