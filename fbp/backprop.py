"""Whole networks: the loss and its gradients, the network as a JAX function, gradient norms at any depth."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from fbp.cotangent import Cotangent, log10_norm
from fbp.errors import FbpError
from fbp.layers import Dense
from fbp.losses import Loss
from fbp.tree import stack
from fbp.typing import Activations, Key, Layer, Params, Probe, Visit


def loss_value(
    net: Layer,
    loss: Loss,
    params: Params,
    X: Activations,
    Y: Num[Array, "..."],
    weights: Float[Array, " m"] | None = None,
    key: Key | None = None,
) -> Float[Array, ""]:
    """The loss of a network, by the forward pass alone: what autodiff differentiates when it judges us."""
    return loss.value(net.forward(params, X, key)[0], Y, weights)


def value_and_grad(net: Layer, loss: Loss, probe: Probe | None = None) -> Callable[..., tuple[Any, Params]]:
    """The hand-written counterpart of `jax.value_and_grad`.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        probe: a pure function of each layer's `Visit` in the reverse loop.

    Returns:
        A pure function (params, X, Y, weights=None, key=None) -> (value, d_params), where d_params has the structure,
        shapes and dtypes of params. With a probe, ((value, readings), d_params): readings have the network's shape
        (see `fbp.tree`). X is (m, n_0), Y what the loss takes, weights (m,), key the randomness of dropout.
    """

    def compute(
        params: Params,
        X: Activations,
        Y: Num[Array, "..."],
        weights: Float[Array, " m"] | None = None,
        key: Key | None = None,
    ) -> tuple[Any, Params]:
        check_batch(X, Y)
        Z, cache = net.forward(params, X, key)
        value, dZ = loss.value_and_dZ(Z, Y, weights)
        d_params, _, readings = net.sweep(params, cache, Cotangent(dZ), probe)
        return (value, d_params) if probe is None else ((value, readings), d_params)

    return compute


def as_function(net: Layer) -> Callable[..., Activations]:
    """The network as an ordinary JAX function f(params, A, key=None) whose derivative is the hand-written one.

    It may stand inside any JAX code (Flax, Equinox, plain functions), and under jit, vmap, scan, remat and sharding.
    Forward-mode differentiation is not defined, as for every `jax.custom_vjp`.

    Args:
        net: a network or a single layer.
    """

    @jax.custom_vjp
    def apply(params: Params, A: Activations, key: Key | None) -> Activations:
        return net.forward(params, A, key)[0]

    def forward(params: Params, A: Activations, key: Key | None) -> tuple[Activations, Any]:
        out, cache = net.forward(params, A, key)
        return out, (params, cache)

    def backward(residuals: Any, dA_out: Activations) -> tuple[Params, Activations, None]:
        params, cache = residuals
        return (*net.backward(params, cache, dA_out), None)

    apply.defvjp(forward, backward)

    def function(params: Params, A: Activations, key: Key | None = None) -> Activations:
        return apply(params, A, key)

    return function


class GradientNorms(NamedTuple):
    """log10 of Euclidean norms, one per dense layer in forward order: arrays of shape (L,).

    Attributes:
        dZ: of the gradient with respect to the dense layer's output Z_l, over the whole batch.
        dA: of the gradient with respect to its input A_{l-1}.
        dW: of the gradient with respect to W_l.
        db: of the gradient with respect to b_l.
    """

    dZ: Float[Array, " L"]
    dA: Float[Array, " L"]
    dW: Float[Array, " L"]
    db: Float[Array, " L"]


def log10_gradient_norms(net: Layer, loss: Loss) -> Callable[..., GradientNorms]:
    """Gradient norms by layer, exact at depths where the gradients themselves under- or overflow.

    The reverse loop carries the cotangent with its power of two beside it. The forward pass is the network's own: where
    an activation underflows to zero, dW is zero, and its logarithm minus infinity.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.

    Returns:
        A pure function (params, X, Y, weights=None, key=None) -> `GradientNorms`.
    """

    def compute(
        params: Params,
        X: Activations,
        Y: Num[Array, "..."],
        weights: Float[Array, " m"] | None = None,
        key: Key | None = None,
    ) -> GradientNorms:
        check_batch(X, Y)
        Z, cache = net.forward(params, X, key)
        _, dZ = loss.value_and_dZ(Z, Y, weights)
        return sweep_norms(net, params, cache, dZ)

    return compute


def sweep_norms(net: Layer, params: Params, cache: Any, dZ: Activations) -> GradientNorms:
    """`GradientNorms` for any cotangent dZ of the network's output, from the cache of its forward pass."""
    start = Cotangent(dZ, jnp.int32(0)).normalized()
    _, _, readings = net.sweep(params, cache, start, _norms_of_dense)
    norms = stack(net, readings)
    if norms is None:
        raise FbpError("gradient norms are those of dense layers; received a network without one")
    return norms


def _norms_of_dense(visit: Visit) -> GradientNorms | None:
    if not isinstance(visit.layer, Dense):
        return None
    d = visit.d_params
    return GradientNorms(*(log10_norm(x, visit.exponent) for x in (visit.dA_out, visit.dA_in, d["W"], d["b"])))


def check_batch(X: Activations, Y: Num[Array, "..."]) -> None:
    """Refuse inputs that are no batch of floats with one target each.

    Raises:
        FbpError: X is not floating point, has no axis of examples, or differs from Y in their number.
    """
    if not jnp.issubdtype(X.dtype, jnp.floating):
        raise FbpError(f"X is floating point; received {X.dtype}; convert it, X.astype('float32')")
    if X.ndim < 2 or Y.ndim < 1 or X.shape[0] != Y.shape[0] or X.shape[0] == 0:
        raise FbpError(f"X and Y have one row per example, and at least one; received X {X.shape} and Y {Y.shape}")
