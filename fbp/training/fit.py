"""Training over many epochs; each epoch is one compiled call."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import ArrayLike

from fbp.calibration import with_population_statistics
from fbp.errors import FbpError, Status, check_count, check_seed
from fbp.losses import Loss
from fbp.training.evaluation import Evaluation, Totals, make_batches, sum_batches, sum_examples, take_means
from fbp.training.inputs import prepare_data
from fbp.training.step import Metrics, State, initial_state, train_step
from fbp.typing import Activations, Layer, Params, Targets


class Epoch(NamedTuple):
    """What one epoch measured.

    Attributes:
        epoch: its number, from 1.
        loss: the mean over the training examples, each with the parameters of its own step.
        accuracy: the fraction classified correctly, likewise, in [0, 1]; None unless the targets are labels, (m,).
        validation_loss: the mean over the validation examples after the epoch; None without validation.
        validation_accuracy: likewise.
        seconds: the time of training alone, without compilation and validation.
        examples_per_second: training examples per second of that time.
    """

    epoch: int
    loss: float
    accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float
    examples_per_second: float


class Fitted(NamedTuple):
    """What `fit` returns.

    Attributes:
        params: the parameters after the last epoch.
        history: one record per epoch.
    """

    params: Params
    history: tuple[Epoch, ...]


class Diverged(FbpError):
    """The loss or a parameter became infinite or NaN, and training stopped after that epoch.

    Attributes:
        fitted: the parameters with which the failed epoch began, all finite, and the history, which ends with the
            record of the failed epoch.
    """

    exit_status = Status.DIVERGED
    fitted: Fitted


def fit(
    net: Layer,
    loss: Loss,
    params: Params,
    X: ArrayLike,
    Y: ArrayLike,
    *,
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    gradient: str = "manual",
    validation: tuple[ArrayLike, ArrayLike] | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> Fitted:
    """Train a network: every epoch uses all examples once, in a new order.

    An epoch is one compiled call on data that stay on the device. It is compiled once for all epochs, and again only
    for another network, loss, optimizer object or shape. The last batch of an epoch is filled up with examples of
    weight 0. Validation uses the population statistics of batch normalization, and no dropout.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        params: where training starts; they are not changed.
        X: (m, n_0), any float dtype; the computation runs in that of the parameters.
        Y: targets, as the loss takes them, one row per example.
        optimizer: an optax gradient transformation, e.g. `optimizer("adam", 0.001)`.
        epochs: the number of epochs, at least 1.
        batch_size: the number of examples per step, at least 1; at most m are used.
        seed: fixes the orders and dropout: the same seed gives the same result, bit for bit on one machine.
        gradient: "manual" for the hand-written backward pass, or "autodiff".
        validation: (X, Y) to evaluate after every epoch.
        on_epoch: called with each epoch's record, e.g. the callback of `progress`.

    Returns:
        A `Fitted`, a tuple (params, history).

    Raises:
        FbpError: an argument does not fit the others, a value is not finite, or a label is out of range.
        Diverged: the loss or a parameter became infinite or NaN; it carries the last finite parameters.

    Example:
        >>> digits = fbp.data.load()
        >>> net = fbp.mlp((784, 32, 10))
        >>> params, _ = net.init(jax.random.key(0))
        >>> params, history = fbp.training.fit(
        ...     net,
        ...     fbp.SoftmaxCrossEntropy(),
        ...     params,
        ...     digits.train_X[:1000],
        ...     digits.train_Y[:1000],
        ...     optimizer=fbp.training.optimizer("adam", 0.003),
        ...     epochs=3,
        ...     batch_size=32,
        ... )
        >>> history[-1].accuracy > 0.85
        True
    """
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    check_seed(seed)
    # An epoch donates the memory of its state to the next one, so the caller's parameters are copied.
    params = jax.tree.map(jnp.array, params)
    data = prepare_data(net, loss, params, X, Y)
    held_out = None if validation is None else prepare_data(net, loss, params, *validation)
    m = data[0].shape[0]
    size = min(int(batch_size), m)
    steps = epochs * -(-m // size)
    if steps >= _SHUFFLE:
        raise FbpError(f"epochs must be of fewer than {_SHUFFLE} steps in all, got {epochs} of {steps}; use fewer")
    if held_out is not None:
        # What validation would reject is rejected before the first epoch, not after it.
        jax.eval_shape(lambda *args: with_population_statistics(net, *args, batch_size=size)[1], params, data[0])
    state = initial_state(params, optimizer, jax.random.key(int(seed)))
    run_epoch = partial(_epoch, net=net, loss=loss, optimizer=optimizer, gradient=gradient, batch_size=size)
    # Compiled ahead, so that the time of the first epoch is comparable to the others.
    _epoch.lower(state, *data, **run_epoch.keywords).compile()
    history: list[Epoch] = []
    for number in range(1, epochs + 1):
        start_params = jax.tree.map(jnp.copy, state.params)
        start = time.perf_counter()
        state, sums, finite = run_epoch(state, *data)
        trained = take_means(sums, m)
        seconds = time.perf_counter() - start
        validated = (None, None) if held_out is None else _validate(net, loss, state.params, data[0], *held_out, size)
        history.append(Epoch(number, *trained, *validated, seconds, m / seconds))
        if on_epoch is not None:
            on_epoch(history[-1])
        if not (finite and math.isfinite(trained.loss) and math.isfinite(validated[0] or 0)):
            raise _make_diverged(Fitted(start_params, tuple(history)))
    return Fitted(state.params, tuple(history))


@jax.jit(static_argnames=("net", "loss", "optimizer", "gradient", "batch_size"), donate_argnames="state")
def _epoch(
    state: State,
    X: Activations,
    Y: Targets,
    *,
    net: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    gradient: str,
    batch_size: int,
) -> tuple[State, Totals, Bool[Array, ""]]:
    step = train_step(net, loss, optimizer, gradient=gradient)

    def take(state: State, batch: tuple[Int[Array, " b"], Float[Array, " b"]]) -> tuple[State, Metrics]:
        rows, weights = batch
        return step(state, X[rows], Y[rows], weights)

    order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(state.key, _SHUFFLE), state.step), X.shape[0])
    # Rows are gathered batch by batch: as fast as permuting all of X first, and without a second copy of it.
    state, metrics = jax.lax.scan(take, state, make_batches(order, batch_size))
    finite = jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state.params)])
    return state, sum_batches(loss, metrics), jnp.all(finite)


# Steps draw from fold_in(key, step); no training reaches this step.
_SHUFFLE = 2**31 - 1


def _validate(
    net: Layer, loss: Loss, params: Params, X: Activations, X_val: Activations, Y_val: Array, batch_size: int
) -> Evaluation:
    net, params = with_population_statistics(net, params, X, batch_size=batch_size)
    size = min(1000, len(X_val))
    return take_means(sum_examples(params, X_val, Y_val, net=net, loss=loss, batch_size=size), len(X_val))


def _make_diverged(fitted: Fitted) -> Diverged:
    last = fitted.history[-1]
    validation = "" if last.validation_loss is None else f", validation loss {last.validation_loss:g}"
    error = Diverged(
        f"the loss and the parameters must stay finite in training, got loss {last.loss:g}{validation} and values "
        f"that are not finite in epoch {last.epoch}; use a smaller learning rate, or scale the inputs"
    )
    error.fitted = fitted
    return error
