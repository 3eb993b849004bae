"""Training over many epochs, each of them one compiled call."""

import math
import time
from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Num
from numpy.typing import ArrayLike

from fbp.calibration import with_population_statistics
from fbp.errors import FbpError, check_count
from fbp.losses import Loss
from fbp.training.evaluation import Evaluation, Totals, batches, means, summed, totals
from fbp.training.inputs import prepared
from fbp.training.step import Metrics, State, initial_state, train_step
from fbp.typing import Activations, Layer, Params


class Epoch(NamedTuple):
    """What one epoch measured.

    Attributes:
        epoch: its number, from 1.
        loss: the mean over the training examples, each with the parameters of its own step.
        accuracy: the same for the part classified rightly, in [0, 1]; None where the targets are not labels (m,).
        validation_loss: the mean over the validation examples after the epoch; None without validation.
        validation_accuracy: likewise.
        seconds: of the training alone, without compilation and validation.
        examples_per_second: training examples in that time.
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
        params: after the last epoch.
        history: one record an epoch.
    """

    params: Params
    history: tuple[Epoch, ...]


class Diverged(FbpError):
    """The loss or a parameter became infinite or NaN, and training stopped after that epoch.

    Attributes:
        fitted: the parameters with which the failed epoch began, all of them finite, and the history with the failed
            epoch's record last.
    """

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
    """Train a network: every epoch takes all examples once, in a new order.

    An epoch is one compiled call on data that stay on the device. It is compiled once for all epochs, and again only
    for another network, loss, optimizer object or shape. The last batch of an epoch is filled up with examples of
    weight 0. Validation uses the population statistics of batch normalization, and no dropout.

    Args:
        net: a network.
        loss: a loss of its last pre-activation.
        params: where training starts; they are left as they are.
        X: (m, n_0), any float dtype; it is computed in that of the parameters.
        Y: what the loss takes, one row an example.
        optimizer: an optax gradient transformation, e.g. `optimizer("adam", 0.001)`.
        epochs: at least 1.
        batch_size: at least 1; m where it is larger.
        seed: of the orders and of dropout: the same seed gives the same result, bit for bit on one machine.
        gradient: "manual", the hand-written backward pass, or "autodiff".
        validation: (X, Y) to evaluate after every epoch.
        on_epoch: called with each epoch's record, e.g. the one of `progress`.

    Raises:
        FbpError: an argument does not fit the others, a value is not finite, or a label is out of range.
        Diverged: the loss or a parameter became infinite or NaN; it carries what was reached.
    """
    check_count("epochs", epochs)
    check_count("batch_size", batch_size)
    if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise FbpError(f"a seed is an integer in 0..{2**32 - 1}; received {seed!r}; take 0")
    # An epoch gives the memory of its state to the next one; the caller's parameters are not ours to give.
    params = jax.tree.map(jnp.array, params)
    data = prepared(net, loss, params, X, Y)
    held_out = None if validation is None else prepared(net, loss, params, *validation)
    m = data[0].shape[0]
    size = min(int(batch_size), m)
    if held_out is not None:
        # What validation will refuse is refused before the first epoch, not after it.
        jax.eval_shape(lambda params, X: with_population_statistics(net, params, X, size)[1], params, data[0])
    state = initial_state(params, optimizer, int(seed))
    run_epoch = partial(_epoch, net=net, loss=loss, optimizer=optimizer, gradient=gradient, batch_size=size)
    # Compiled ahead, so that the first epoch's time is like the others'.
    _epoch.lower(state, *data, **run_epoch.keywords).compile()
    history: list[Epoch] = []
    for number in range(1, epochs + 1):
        start_params = jax.tree.map(jnp.copy, state.params)
        start = time.perf_counter()
        state, sums, finite = run_epoch(state, *data)
        trained = means(sums, m)
        seconds = time.perf_counter() - start
        validated = (None, None) if held_out is None else _validated(net, loss, state.params, data[0], *held_out, size)
        history.append(Epoch(number, *trained, *validated, seconds, m / seconds))
        if on_epoch is not None:
            on_epoch(history[-1])
        if not (finite and math.isfinite(trained.loss) and math.isfinite(validated[0] or 0)):
            raise _diverged(Fitted(start_params, tuple(history)))
    return Fitted(state.params, tuple(history))


@jax.jit(static_argnames=("net", "loss", "optimizer", "gradient", "batch_size"), donate_argnames="state")
def _epoch(
    state: State,
    X: Activations,
    Y: Num[Array, "..."],
    *,
    net: Layer,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    gradient: str,
    batch_size: int,
) -> tuple[State, Totals, Bool[Array, ""]]:
    step = train_step(net, loss, optimizer, gradient)

    def take(state: State, batch: tuple[Int[Array, " b"], Float[Array, " b"]]) -> tuple[State, Metrics]:
        rows, weights = batch
        return step(state, X[rows], Y[rows], weights)

    order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(state.key, _SHUFFLE), state.step), X.shape[0])
    # Rows are gathered batch by batch: as fast as permuting all of X first, without a second copy of it.
    state, metrics = jax.lax.scan(take, state, batches(order, batch_size))
    finite = jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state.params)])
    return state, summed(loss, metrics), jnp.all(finite)


# A step draws from fold_in(key, step); no training comes as far as this one.
_SHUFFLE = 2**31 - 1


def _validated(
    net: Layer, loss: Loss, params: Params, X: Activations, X_val: Activations, Y_val: Array, batch_size: int
) -> Evaluation:
    net, params = with_population_statistics(net, params, X, batch_size=batch_size)
    size = min(1000, len(X_val))
    return means(totals(params, X_val, Y_val, net=net, loss=loss, batch_size=size), len(X_val))


def _diverged(fitted: Fitted) -> Diverged:
    last = fitted.history[-1]
    validation = "" if last.validation_loss is None else f", validation loss {last.validation_loss:g}"
    error = Diverged(
        f"the loss and the parameters stay finite in training; epoch {last.epoch} ended with loss {last.loss:g}"
        f"{validation}, and values that are not finite; take a smaller learning rate, or scale the inputs"
    )
    error.fitted = fitted
    return error
