"""One step of training as a pure function of its state."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from fbp.backprop import forward_to_loss
from fbp.errors import unknown_name
from fbp.losses import Loss
from fbp.typing import Activations, Key, Layer, Params, Targets, Weights


class State(NamedTuple):
    """Everything that a step of training changes or draws from.

    Attributes:
        params: the parameters of the network.
        opt_state: the state of the optimizer.
        step: the number of steps taken.
        key: the randomness of the whole run; a step draws from fold_in(key, step).
    """

    params: Params
    opt_state: optax.OptState
    step: Int[Array, ""]
    key: Key


class Metrics(NamedTuple):
    """What a step measured, with the parameters that it began with.

    Attributes:
        loss: the value of the loss, with its own reduction.
        examples: the sum of the weights; m without weights.
        correct: the sum of the weights of the correctly classified examples; None unless the targets are integer
            labels, (m,).
    """

    loss: Float[Array, ""]
    examples: Float[Array, ""]
    correct: Float[Array, ""] | None


class Step(Protocol):
    """(state, X, Y, weights=None) -> (state, metrics); see `train_step`."""

    def __call__(self, state: State, X: Activations, Y: Targets, weights: Weights = None) -> tuple[State, Metrics]: ...


def initial_state(params: Params, optimizer: optax.GradientTransformation, key: Key | None = None) -> State:
    """The state before the first step.

    Args:
        params: the parameters of the network; not copied.
        optimizer: an optax gradient transformation.
        key: the randomness of the run, such as dropout; None is a fixed key.
    """
    return State(params, optimizer.init(params), jnp.int32(0), jax.random.key(0) if key is None else key)


def train_step(net: Layer, loss: Loss, optimizer: optax.GradientTransformation, *, gradient: str = "manual") -> Step:
    """One step of training: params + update(gradient of the loss).

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        optimizer: an optax gradient transformation.
        gradient: "manual" for the hand-written backward pass, "autodiff" for `jax.value_and_grad` of the same forward
            pass with the same randomness.

    Returns:
        A pure function (state, X, Y, weights=None) -> (state, `Metrics`). X is (m, n_0), Y what the loss takes,
        weights (m,).

    Raises:
        FbpError: the gradient has another name.
    """
    value_and_gradient = _value_and_gradient(net, loss, gradient)

    def step(state: State, X: Activations, Y: Targets, weights: Weights = None) -> tuple[State, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        (value, Z), d_params = value_and_gradient(state.params, X, Y, weights, key)
        # optax relies on implicit promotion, but the caller may have made JAX strict.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            updates, opt_state = optimizer.update(d_params, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        return State(params, opt_state, state.step + 1, state.key), measure_batch(value, Z, Y, weights)

    return step


def measure_batch(value: Array, Z: Activations, Y: Targets, weights: Weights) -> Metrics:
    """The metrics of one batch.

    Args:
        value: the loss.
        Z: the network's output, (m, n_L).
        Y: targets, as the loss takes them.
        weights: one per example, (m,).
    """
    w = jnp.ones(Z.shape[0], value.dtype) if weights is None else weights.astype(value.dtype)
    correct = None
    if are_labels(Y):
        right = jnp.argmax(Z, axis=-1).astype(jnp.int32) == Y.astype(jnp.int32)
        correct = jnp.sum(jnp.where(right, w, jnp.zeros_like(w)))
    return Metrics(value, jnp.sum(w), correct)


def are_labels(Y: Targets) -> bool:
    """Whether the targets are one class number per example."""
    return Y.ndim == 1 and jnp.issubdtype(Y.dtype, jnp.integer)


def _value_and_gradient(net: Layer, loss: Loss, gradient: str) -> Callable[..., tuple[tuple[Array, Array], Params]]:
    """((value, Z), d_params): with Z, the predictions need no second forward pass."""

    def by_hand(params: Params, *batch: Any) -> tuple[tuple[Array, Array], Params]:
        Z, cache, value, dZ = forward_to_loss(net, loss, params, *batch)
        return (value, Z), net.backward(params, cache, dZ)[0]

    def forward(params: Params, X: Array, Y: Array, weights: Array | None, key: Key) -> tuple[Array, Array]:
        Z, _ = net.forward(params, X, key)
        return loss.value(Z, Y, weights), Z

    if gradient == "manual":
        return by_hand
    if gradient == "autodiff":
        return jax.value_and_grad(forward, has_aux=True)
    raise unknown_name("gradient", gradient, ("manual", "autodiff"))
