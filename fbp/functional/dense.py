"""Dense layers: with an activation, and two of them around one, of which only the pre-activation is kept."""

from typing import Any

from jaxtyping import Array, Float

from fbp.activations import Nonlinearity
from fbp.combinators import Serial
from fbp.errors import FbpError
from fbp.functional.rule import Late, apply_rule, as_dense_params, as_floating, as_vector
from fbp.layers import Activation, Dense, LayerNorm
from fbp.typing import Layer


def dense(
    x: Float[Array, "*m n_in"],
    W: Float[Array, "n_in n_out"],
    b: Float[Array, " n_out"] | None = None,
    activation: Nonlinearity | str | None = None,
) -> Float[Array, "*m n_out"]:
    """g(Z) with Z = x W + b, over the last axis of x.

        dZ = dy g'(Z),    dW = x^T dZ,    db = sum dZ,    dx = dZ W^T

    The activation's rule is the hand-written one and keeps one array. The product is left to JAX, whose transposition
    of it gives these formulas, and which sums dW over `jax.vmap` without making one for each example. With an
    activation forward mode is not defined.

    Args:
        x: (..., n_in).
        W: (n_in, n_out), used in the dtype of x; the weight of `eqx.nn.Linear` is its transpose.
        b: (n_out,), likewise, or None.
        activation: g, a name of `fbp.activation` or a `Nonlinearity`; None for the identity.

    Returns:
        (..., n_out), in the dtype of x.

    Raises:
        FbpError: a shape does not fit, something is not floating point, or the activation is unknown.

    Example:
        >>> x, W, b = jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.zeros(4)
        >>> fbp.functional.dense(x, W, b, "relu").shape
        (2, 4)
    """
    x = as_floating("x of dense", x)
    params = _as_params("dense", "", x, W, b)
    Z, _ = Dense(params["W"].shape[1], bias=b is not None).forward(params, x)
    return Z if activation is None else apply_rule(Activation(activation), (), Z)


def feed_forward(
    x: Float[Array, "*m n"],
    W_up: Float[Array, "n k"],
    b_up: Float[Array, " k"] | None,
    W_down: Float[Array, "k n_out"],
    b_down: Float[Array, " n_out"] | None,
    activation: Nonlinearity | str = "gelu_tanh",
    *,
    norm: tuple[Float[Array, " n"], Float[Array, " n"]] | None = None,
    eps: float = 1e-5,
) -> Float[Array, "*m n_out"]:
    """g(Z) W_down + b_down with Z = layer_norm(x) W_up + b_up: the block of a transformer between its skip connections.

    x and Z are all that is kept: layer_norm(x) and g(Z), the largest array of the block, are made again when the
    cotangent arrives. The derivative is that of `layer_norm` and `dense`, one after the other.

    Call it on the whole batch: under `jax.vmap` over examples a dW is made for each of them before they are summed.
    Forward mode is not defined.

    Args:
        x: (..., n).
        W_up: (n, k), used in the dtype of x, as all that follows.
        b_up: (k,), or None.
        W_down: (k, n_out).
        b_down: (n_out,), or None.
        activation: g, a name of `fbp.activation` or a `Nonlinearity`.
        norm: scale and bias of the layer normalization, (n,) each; None for none.
        eps: of the normalization.

    Returns:
        (..., n_out), in the dtype of x.

    Raises:
        FbpError: a shape does not fit, something is not floating point, or the activation is unknown.

    Example:
        >>> x, W_up, W_down = jnp.ones((2, 3)), jnp.ones((3, 8)), jnp.ones((8, 3))
        >>> fbp.functional.feed_forward(x, W_up, None, W_down, None, norm=(jnp.ones(3), jnp.zeros(3))).shape
        (2, 3)
    """
    x = as_floating("x of feed_forward", x)
    layers: list[Layer] = []
    params: list[Any] = []
    if norm is not None:
        gamma, beta = norm
        own = {
            "gamma": as_vector("scale of feed_forward", gamma, x),
            "beta": as_vector("bias of feed_forward", beta, x),
        }
        layers, params = [LayerNorm(eps)], [own]
    for kind, W, b in (("_up", W_up, b_up), ("_down", W_down, b_down)):
        own = _as_params("feed_forward", kind, x, W, b)
        params += [own, ()]
        layers += [Dense(own["W"].shape[1], bias=b is not None), Activation(activation)]
    return apply_rule(Late(Serial(*layers[:-1])), tuple(params[:-1]), x)


def _as_params(name: str, kind: str, x: Array, W: Any, b: Any) -> dict[str, Array]:
    W = as_floating(f"W{kind} of {name}", W)
    if W.ndim != 2:
        raise FbpError(f"W{kind} of {name} must have the shape (n_in, n_out), got {W.shape}; reshape it")
    if kind != "_down" and (not x.ndim or x.shape[-1] != W.shape[0]):
        raise FbpError(
            f"x of {name} must have the shape (..., {W.shape[0]}), because W{kind} is {W.shape}, got {x.shape}; "
            "transpose W, or reshape x"
        )
    return as_dense_params(f"b{kind} of {name}", x, W, b)
