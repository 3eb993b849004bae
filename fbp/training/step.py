"""One step of training as a pure function of its state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Num

from fbp.backprop import loss_value, value_and_grad
from fbp.errors import unknown_name
from fbp.losses import Loss
from fbp.typing import Activations, Key, Layer, Params


class State(NamedTuple):
    """All that a step of training changes or draws from.

    Attributes:
        params: of the network.
        opt_state: of the optimizer.
        step: how many steps were taken.
        key: the randomness of the whole run; a step draws from fold_in(key, step).
    """

    params: Params
    opt_state: optax.OptState
    step: Int[Array, ""]
    key: Key


class Metrics(NamedTuple):
    """What a step measured, with the parameters that it began with.

    Attributes:
        loss: as the loss reduces it.
        examples: the sum of the weights, m without weights.
        correct: the sum of the weights of the examples whose largest output is at their label; None where the
            targets are not integer labels (m,).
    """

    loss: Float[Array, ""]
    examples: Float[Array, ""]
    correct: Float[Array, ""] | None


Step = Callable[..., tuple[State, Metrics]]


def initial_state(params: Params, optimizer: optax.GradientTransformation, seed: int = 0) -> State:
    """The state before the first step.

    Args:
        params: of the network; not copied.
        optimizer: an optax gradient transformation.
        seed: of the run's randomness.
    """
    return State(params, optimizer.init(params), jnp.int32(0), jax.random.key(seed))


def train_step(net: Layer, loss: Loss, optimizer: optax.GradientTransformation, gradient: str = "manual") -> Step:
    """One step: params + update(gradient of the loss).

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        optimizer: an optax gradient transformation.
        gradient: "manual", the hand-written backward pass, or "autodiff", `jax.value_and_grad` of the same forward
            pass with the same randomness.

    Returns:
        A pure function (state, X, Y, weights=None) -> (state, `Metrics`). X is (m, n_0), Y what the loss takes,
        weights (m,).

    Raises:
        FbpError: the gradient is neither.
    """
    value_and_gradient = _gradient(net, loss, gradient)

    def step(
        state: State, X: Activations, Y: Num[Array, "..."], weights: Float[Array, " m"] | None = None
    ) -> tuple[State, Metrics]:
        key = jax.random.fold_in(state.key, state.step)
        (value, Z), d_params = value_and_gradient(state.params, X, Y, weights, key)
        # optax counts on implicit promotion; a caller may have made JAX strict.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            updates, opt_state = optimizer.update(d_params, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        return State(params, opt_state, state.step + 1, state.key), measure(value, Z, Y, weights)

    return step


def measure(value: Array, Z: Activations, Y: Num[Array, "..."], weights: Float[Array, " m"] | None) -> Metrics:
    """The metrics of one batch.

    Args:
        value: the loss.
        Z: the network's output, (m, n_L).
        Y: targets, as the loss takes them.
        weights: one per example.
    """
    w = jnp.ones(Z.shape[0], value.dtype) if weights is None else weights.astype(value.dtype)
    correct = None
    if are_labels(Y):
        right = jnp.argmax(Z, axis=-1).astype(jnp.int32) == Y.astype(jnp.int32)
        correct = jnp.sum(jnp.where(right, w, jnp.zeros_like(w)))
    return Metrics(value, jnp.sum(w), correct)


def are_labels(Y: Num[Array, "..."]) -> bool:
    """Whether targets are one class number an example."""
    return Y.ndim == 1 and jnp.issubdtype(Y.dtype, jnp.integer)


@dataclass(frozen=True)
class _WithOutput:
    """A loss whose value is the pair (value, Z): the predictions then need no second forward pass."""

    loss: Loss

    def value(self, Z: Array, Y: Array, weights: Array | None) -> tuple[Array, Array]:
        return self.loss.value(Z, Y, weights), Z

    def value_and_dZ(self, Z: Array, Y: Array, weights: Array | None) -> tuple[tuple[Array, Array], Array]:
        value, dZ = self.loss.value_and_dZ(Z, Y, weights)
        return (value, Z), dZ


def _gradient(net: Layer, loss: Loss, gradient: str) -> Callable[..., tuple[tuple[Array, Array], Params]]:
    with_output = cast(Loss, _WithOutput(loss))
    if gradient == "manual":
        return value_and_grad(net, with_output)
    if gradient == "autodiff":

        def forward(params: Params, *batch: Any) -> Any:
            return loss_value(net, with_output, params, *batch)

        return jax.value_and_grad(forward, has_aux=True)
    raise unknown_name("gradient", gradient, ("manual", "autodiff"))
