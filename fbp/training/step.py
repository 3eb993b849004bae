"""One step of training as a pure function of its state."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from fbp.backprop import Only, check_arguments, differentiate, loss_value, name_of, select
from fbp.errors import FbpError, unknown_name
from fbp.losses import Loss
from fbp.partition import combine
from fbp.precision import cast
from fbp.quantities import clipped_grad
from fbp.typing import Activations, Key, Layer, Params, Targets, Weights

Gradient = Literal["manual", "autodiff", "both"]
GRADIENTS: tuple[Gradient, ...] = ("manual", "autodiff", "both")


class State(NamedTuple):
    """Everything that a step of training changes or draws from: one pytree, to be sharded or saved as such.

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
        correct: the sum of the weights of the correctly classified examples, for sequences of the right fraction of
            each; None unless the targets are integer labels and all outputs were made at once.
        disagreement: the largest relative difference between the two gradients in a parameter; None unless both are
            computed.
    """

    loss: Float[Array, ""]
    examples: Float[Array, ""]
    correct: Float[Array, ""] | None
    disagreement: Float[Array, ""] | None = None


class Step(Protocol):
    """(state, X, Y, weights=None) -> (state, metrics); see `train_step`."""

    def __call__(self, state: State, X: Activations, Y: Targets, weights: Weights = None) -> tuple[State, Metrics]: ...


Computed = tuple[Array, Activations | None, Params]
"""The loss, the outputs with which the predictions need no second forward pass, and the gradient."""


class Rule(Protocol):
    """What `Method.gradient` may be."""

    def __call__(
        self, net: Layer, loss: Loss, params: Params, X: Activations, Y: Targets, weights: Weights, key: Key, /
    ) -> Computed: ...


@dataclass(frozen=True)
class Method:
    """How a step computes: all that its compiled program depends on beside shapes.

    Attributes:
        net: a network.
        loss: a loss of its output.
        optimizer: an optax gradient transformation.
        gradient: "manual" for the hand-written backward pass, "autodiff" for `jax.value_and_grad` of the same forward
            pass with the same randomness, "both" to take the first and compare them; or a rule of your own, such as
            feedback alignment: a pure function (net, loss, params, X, Y, weights, key) -> (value, Z, d_params). Its Z
            is the network's output, from which the accuracy is taken, or None; its d_params has the structure of the
            parameters.
        trained: the parameters that are trained, by patterns of their names or a function of the name; None for all.
        compute: the dtype of the forward and backward pass, such as "bfloat16"; None is that of the parameters, which
            in any case keep theirs.
        clip_examples: the largest norm of each example's own gradient; None for no limit.

    Raises:
        FbpError: the gradient has another name, or a limit does not go with it.
    """

    net: Layer
    loss: Loss
    optimizer: optax.GradientTransformation
    gradient: Gradient | Rule = "manual"
    trained: Only = None
    compute: str | None = None
    clip_examples: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.gradient) and self.gradient not in GRADIENTS:
            raise unknown_name("gradient", self.gradient, GRADIENTS)
        if self.clip_examples is not None and self.gradient != "manual":
            raise FbpError(
                f"clip_examples must come with the manual gradient, got {self.gradient!r}; leave one of them out"
            )
        if isinstance(self.trained, list):
            object.__setattr__(self, "trained", tuple(self.trained))


def initial_state(
    params: Params, optimizer: optax.GradientTransformation, key: Key | None = None, trained: Only = None
) -> State:
    """The state before the first step.

    Args:
        params: the parameters of the network; not copied.
        optimizer: an optax gradient transformation.
        key: the randomness of the run, such as dropout; None is a fixed key.
        trained: the parameters that are trained, as in `Method`.
    """
    key = jax.random.key(0) if key is None else key
    return State(params, optimizer.init(select(params, trained)), jnp.int32(0), key)


def train_step(net: Layer, loss: Loss, optimizer: optax.GradientTransformation, **options: Any) -> Step:
    """One step of training: params + update(gradient of the loss).

    Args:
        net: a network.
        loss: a loss of its output.
        optimizer: an optax gradient transformation.
        options: the other attributes of `Method`: gradient, trained, compute, clip_examples.

    Returns:
        A pure function (state, X, Y, weights=None) -> (state, `Metrics`). X is (m, n_0), Y what the loss takes,
        weights (m,).

    Raises:
        FbpError: an option does not fit.
    """
    return partial(take_step, Method(net, loss, optimizer, **options))


def take_step(
    method: Method, state: State, X: Activations, Y: Targets, weights: Weights = None
) -> tuple[State, Metrics]:
    """The step of `train_step`.

    Args:
        method: how it computes.
        state: before it.
        X: inputs, (m, ...).
        Y: targets, as the loss takes them.
        weights: one per example, (m,).
    """
    metrics, d_params = measure_gradient(method, state, X, Y, weights)
    return update(method, state, d_params), metrics


def update(method: Method, state: State, d_params: Params) -> State:
    """The state after the optimizer's step along a gradient.

    Args:
        method: how a step computes.
        state: the state before.
        d_params: the gradient, with None for what is not trained.
    """
    own = select(state.params, method.trained)
    # optax relies on implicit promotion, but the caller may have made JAX strict.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        updates, opt_state = method.optimizer.update(d_params, state.opt_state, own)
        params = combine(optax.apply_updates(own, updates), state.params)
    return State(params, opt_state, state.step + 1, state.key)


def measure_gradient(
    method: Method, state: State, X: Activations, Y: Targets, weights: Weights
) -> tuple[Metrics, Params]:
    """The metrics and the gradient of a step, in the dtype of the parameters.

    Args:
        method: how a step computes.
        state: the state before the step.
        X: inputs, (m, ...).
        Y: targets, as the loss takes them.
        weights: one per example, (m,).
    """
    key = jax.random.fold_in(state.key, state.step)
    params = state.params
    if method.compute is not None:
        params, X = cast((params, X), method.compute)
    batch = params, X, Y, weights, key
    if method.clip_examples is not None:
        value, Z, d_params = _clip(method, *batch)
    elif callable(method.gradient):
        value, Z, d_params = _by_rule(method, method.gradient, *batch)
    elif method.gradient == "autodiff":
        value, Z, d_params = _by_autodiff(method, *batch)
    else:
        value, Z, d_params = _by_hand(method, *batch)
    metrics = measure_batch(value, Z, Y, weights)
    if method.gradient == "both":
        metrics = metrics._replace(disagreement=_disagreement(d_params, _by_autodiff(method, *batch)[2]))
    return metrics, jax.tree.map(lambda d, p: d.astype(p.dtype), d_params, select(state.params, method.trained))


def measure_batch(value: Array, Z: Activations | None, Y: Targets, weights: Weights) -> Metrics:
    """The metrics of one batch.

    Args:
        value: the loss.
        Z: the network's output, (m, ..., n_L); None where it was never there as a whole.
        Y: targets, as the loss takes them.
        weights: one per example, (m,).
    """
    w = jnp.ones(Y.shape[0], value.dtype) if weights is None else weights.astype(value.dtype)
    correct = None
    if Z is not None and are_labels(Y, Z):
        right = (jnp.argmax(Z, axis=-1).astype(jnp.int32) == Y.astype(jnp.int32)).astype(w.dtype)
        correct = jnp.sum(w * jnp.mean(right, axis=tuple(range(1, right.ndim))))
    return Metrics(value, jnp.sum(w), correct)


def are_labels(Y: Targets, Z: Activations | jax.ShapeDtypeStruct) -> bool:
    """Whether the targets are one class number for each row of outputs."""
    return Y.shape == Z.shape[:-1] and jnp.issubdtype(Y.dtype, jnp.integer)


def _by_hand(method: Method, params: Params, X: Activations, Y: Targets, weights: Weights, key: Key) -> Computed:
    value, Z, d_params = differentiate(method.net, method.loss, params, X, Y, weights, key)
    return value, Z, select(d_params, method.trained)


def _by_autodiff(method: Method, params: Params, X: Activations, Y: Targets, weights: Weights, key: Key) -> Computed:
    def forward(own: Params) -> tuple[Array, Array]:
        Z, _ = method.net.forward(combine(own, params), X, key)
        return method.loss.value(Z, Y, weights), Z

    (value, Z), d_params = jax.value_and_grad(forward, has_aux=True)(select(params, method.trained))
    return value, Z, d_params


def _by_rule(
    method: Method, rule: Rule, params: Params, X: Activations, Y: Targets, weights: Weights, key: Key
) -> Computed:
    check_arguments(method.net, params, X, Y)
    value, Z, d_params = rule(method.net, method.loss, params, X, Y, weights, key)
    own, received = (
        {name_of(path): x.shape for path, x in jax.tree.leaves_with_path(tree)} for tree in (params, d_params)
    )
    for name in own | received:
        if own.get(name) != received.get(name):
            raise FbpError(
                f"a rule must return a gradient with the shapes of the parameters, got {received.get(name)} for "
                f"{name}, which has {own.get(name)}; give zeros for what it does not train"
            )
    # A list in place of a tuple is no mistake.
    d_params = jax.tree.unflatten(jax.tree.structure(params), jax.tree.leaves(d_params))
    return value, Z, select(d_params, method.trained)


def _clip(method: Method, params: Params, X: Activations, Y: Targets, weights: Weights, key: Key) -> Computed:
    assert method.clip_examples is not None
    d_params = clipped_grad(method.net, method.loss, method.clip_examples)(params, X, Y, weights, key)
    # The compiler merges this forward pass with that of the gradient.
    value = loss_value(method.net, method.loss, params, X, Y, weights, key)
    return value, None, select(d_params, method.trained)


def _disagreement(d_params: Params, reference: Params) -> Array:
    def relative(a: Array, b: Array) -> Array:
        norm, off = (jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)))) for x in (b, a - b))
        # Zero against zero agrees; a NaN on one side alone must not.
        return jnp.where(norm + off == 0, 0.0, off / norm)

    found = jax.tree.leaves(jax.tree.map(relative, d_params, reference))
    return jnp.max(jnp.stack(found))
