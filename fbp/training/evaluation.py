"""The mean loss and the accuracy of a network over a data set, and what it makes of each item."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from fbp.calibration import freeze_statistics
from fbp.errors import FbpError, check_count
from fbp.losses import Loss
from fbp.precision import widen
from fbp.training.inputs import HeldOut, prepare_data, to_floats
from fbp.training.step import are_labels, measure_batch
from fbp.typing import Activations, Layer, Params, Targets


class Evaluation(NamedTuple):
    """Means over the examples of a data set.

    Attributes:
        loss: the mean of the examples' losses, for either reduction of the loss.
        accuracy: the fraction of correctly classified examples, in [0, 1]; None unless the targets are integer
            labels, (m,).
    """

    loss: float
    accuracy: float | None


class Items(NamedTuple):
    """What a network makes of each item of a data set: of each example, or of each position of each sequence.

    Attributes:
        losses: of the items, (m,) or (m, T).
        predicted: the class with the largest output; None unless the targets are integer labels.
        confidence: the output of that class, a probability where the loss makes the outputs probabilities; likewise.
        outputs: A_L, the predictions of the network, (m, n_L); None where the targets are integer labels.
    """

    losses: np.ndarray
    predicted: np.ndarray | None
    confidence: np.ndarray | None
    outputs: np.ndarray | None


LARGEST_BATCH = 1000
"""Of examples that are computed at a time, where nobody says how many."""


def evaluate(
    net: Layer, loss: Loss, params: Params, X: ArrayLike, Y: ArrayLike, *, batch_size: int = LARGEST_BATCH
) -> Evaluation:
    """The mean loss and the accuracy over all examples, without dropout.

    Compiled once for each network, loss and shape of a batch.

    Args:
        net: a network; batch normalization must have been replaced by population statistics.
        loss: a loss of its last pre-activation.
        params: its parameters.
        X: (m, n_0), any float dtype; the computation runs in that of the parameters.
        Y: targets, as the loss takes them, one row per example.
        batch_size: the number of examples computed at a time; it changes memory and speed, not the result.

    Returns:
        An `Evaluation`, a tuple (loss, accuracy).

    Raises:
        FbpError: the arrays do not fit the network or the loss, a value is not finite, a label is out of range, the
            network normalizes by its batch, or the batch size is below 1.

    Example:
        >>> net = fbp.mlp((784, 10), init="zeros")
        >>> params, _ = net.init(jax.random.key(0))
        >>> digits = fbp.data.load()
        >>> loss, accuracy = fbp.training.evaluate(
        ...     net, fbp.SoftmaxCrossEntropy(), params, digits.test_X, digits.test_Y
        ... )
        >>> round(loss, 3)  # ln 10, a guess
        2.303
    """
    data = _check_data(net, loss, params, X, Y, batch_size)
    [found] = evaluate_batches(net, loss, params, data, batch_size=batch_size)
    return found


def evaluate_items(
    net: Layer, loss: Loss, params: Params, X: ArrayLike, Y: ArrayLike, *, batch_size: int = LARGEST_BATCH
) -> Items:
    """What a network makes of each item, without dropout: which ones it gets wrong, and how sure it is.

    Args:
        net: a network; batch normalization must have been replaced by population statistics.
        loss: a loss of its last pre-activation.
        params: its parameters.
        X: (m, n_0), any float dtype; the computation runs in that of the parameters.
        Y: targets, as the loss takes them, one row per example.
        batch_size: the number of examples computed at a time; it changes memory and speed, not the result.

    Raises:
        FbpError: as `evaluate`.

    Example:
        >>> net = fbp.mlp((784, 10), init="zeros")
        >>> params, _ = net.init(jax.random.key(0))
        >>> digits = fbp.data.load()
        >>> part = digits.test_X[:5], digits.test_Y[:5]
        >>> items = fbp.training.evaluate_items(net, fbp.SoftmaxCrossEntropy(), params, *part)
        >>> items.losses.shape, round(float(items.confidence[0]), 3)
        ((5,), 0.1)
    """
    data = _check_data(net, loss, params, X, Y, batch_size)
    batches = [_compute_items(params, *data.take(rows), net=net, loss=loss) for rows, _ in _cut(data.size, batch_size)]
    return Items(*jax.tree.map(lambda *x: np.concatenate(x)[: data.size], *jax.device_get(batches)))


def _check_data(net: Layer, loss: Loss, params: Params, X: ArrayLike, Y: ArrayLike, batch_size: int) -> HeldOut:
    """The data on the device, for a network that does not look at its batch."""
    check_count("batch_size", batch_size)
    if freeze_statistics(net) != net:
        raise FbpError(
            "the result must not depend on the batches, got a network with batch normalization; first take "
            "net, params = fbp.with_population_statistics(net, params, X) with the training inputs"
        )
    return HeldOut(*prepare_data(net, loss, params, X, Y))


def evaluate_batches(
    net: Layer, loss: Loss, params: Params, data: HeldOut, *, batch_size: int = LARGEST_BATCH, several: bool = False
) -> list[Evaluation]:
    """What `evaluate` returns, of data that were checked.

    Args:
        net: a network that does not look at its batch.
        loss: a loss of its output.
        params: its parameters.
        data: the examples.
        batch_size: the number of examples computed at a time.
        several: whether the parameters, and the rows of the data where there are some, have a leading axis of runs.

    Returns:
        One of each run.
    """
    axes = (0, *[None if data.rows is None else 0] * 2) if several else None
    batches = [
        _measure(params, *data.take(rows), weights, net=net, loss=loss, axes=axes)
        for rows, weights in _cut(data.size, batch_size)
    ]
    losses, correct = zip(*jax.device_get(batches), strict=True)

    def take_means(sums: Any) -> list[float]:
        """Divided on the host: 731 of 1000 is then 0.731 in any dtype."""
        return (np.sum(np.asarray(sums, np.float64), axis=0).reshape(-1) / data.size).tolist()

    own_losses = take_means(losses)
    accuracies = [None] * len(own_losses) if correct[0] is None else take_means(correct)
    return [Evaluation(*pair) for pair in zip(own_losses, accuracies, strict=True)]


@partial(jax.jit, static_argnames=("net", "loss", "axes"))
def _measure(
    params: Params,
    X: Activations,
    Y: Targets,
    weights: Float[Array, " b"],
    *,
    net: Layer,
    loss: Loss,
    axes: tuple[int | None, ...] | None,
) -> tuple[Float[Array, "..."], Float[Array, "..."] | None]:
    """The sums of the losses and of the right answers over a batch; `axes` are those of the runs."""

    def measure(params: Params, X: Activations, Y: Targets) -> tuple[Array, Array | None]:
        Z, _ = net.forward(params, to_floats(net, params, X))
        found = measure_batch(loss.value(Z, Y, weights), Z, Y, weights)
        return found.loss * (found.examples if loss.reduction == "mean" else 1), found.correct

    return (measure if axes is None else jax.vmap(measure, axes))(params, X, Y)


@partial(jax.jit, static_argnames=("net", "loss"))
def _compute_items(params: Params, X: Activations, Y: Targets, *, net: Layer, loss: Loss) -> tuple[Array | None, ...]:
    """The fields of `Items`."""
    Z = widen(net.forward(params, to_floats(net, params, X))[0])
    losses, A = loss.per_example(Z, Y), loss.output(Z)
    if are_labels(Y, Z):
        return losses, jnp.argmax(Z, axis=-1), jnp.max(A, axis=-1), None
    return losses, None, None, A


def _cut(m: int, batch_size: int) -> Iterator[tuple[Int[np.ndarray, " b"], Float[np.ndarray, " b"]]]:
    """The places and weights of each batch; the last one is filled up with examples of weight 0."""
    size = min(int(batch_size), m)
    for first in range(0, m, size):
        place = np.arange(first, first + size)
        yield place % m, (place < m).astype(np.float32)
