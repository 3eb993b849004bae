"""The mean loss and the accuracy of a network over a data set, and what it makes of each item."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from fbp.calibration import freeze_statistics
from fbp.errors import FbpError, check_count
from fbp.losses import Loss
from fbp.precision import widen
from fbp.training.inputs import prepare_data, to_floats
from fbp.training.step import Metrics, are_labels, measure_batch
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


class Totals(NamedTuple):
    """Sums over the examples of a data set, on the device.

    Attributes:
        loss: the sum of the examples' losses.
        correct: the number of correctly classified examples; None unless the targets are labels.
    """

    loss: Float[Array, ""]
    correct: Float[Array, ""] | None


def evaluate(
    net: Layer, loss: Loss, params: Params, X: ArrayLike, Y: ArrayLike, *, batch_size: int = 1000
) -> Evaluation:
    """The mean loss and the accuracy over all examples, without dropout.

    Compiled once for each network, loss and shape of the data.

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
    X_device, Y_device = _check_data(net, loss, params, X, Y, batch_size)
    m = Y_device.shape[0]
    sums = sum_examples(params, X_device, Y_device, net=net, loss=loss, batch_size=min(int(batch_size), m))
    return take_means(sums, m)


def evaluate_items(
    net: Layer, loss: Loss, params: Params, X: ArrayLike, Y: ArrayLike, *, batch_size: int = 1000
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
    X_device, Y_device = _check_data(net, loss, params, X, Y, batch_size)
    m = Y_device.shape[0]
    computed = _compute_items(params, X_device, Y_device, net=net, loss=loss, batch_size=min(int(batch_size), m))
    return Items(*jax.tree.map(lambda x: np.asarray(x)[:m], computed))


def _check_data(
    net: Layer, loss: Loss, params: Params, X: ArrayLike, Y: ArrayLike, batch_size: int
) -> tuple[Activations, Targets]:
    """The data on the device, for a network that does not look at its batch."""
    check_count("batch_size", batch_size)
    if freeze_statistics(net) != net:
        raise FbpError(
            "the result must not depend on the batches, got a network with batch normalization; first take "
            "net, params = fbp.with_population_statistics(net, params, X) with the training inputs"
        )
    return prepare_data(net, loss, params, X, Y)


@jax.jit(static_argnames=("net", "loss", "batch_size"))
def sum_examples(
    params: Params,
    X: Activations,
    Y: Targets,
    index: Int[Array, " m"] | None = None,
    *,
    net: Layer,
    loss: Loss,
    batch_size: int,
) -> Totals:
    """The compiled part of `evaluate`, over all rows or those of an index."""
    m = Y.shape[0] if index is None else index.shape[0]

    def measure(batch: tuple[Int[Array, " b"], Float[Array, " b"]]) -> Metrics:
        rows, weights = batch
        rows = rows if index is None else index[rows]
        own_X, own_Y = jax.tree.map(lambda x: x[rows], (X, Y))
        Z, _ = net.forward(params, to_floats(net, params, own_X))
        return measure_batch(loss.value(Z, own_Y, weights), Z, own_Y, weights)

    metrics = jax.lax.map(measure, _make_batches(m, batch_size))
    per_batch = metrics.loss * metrics.examples if loss.reduction == "mean" else metrics.loss
    return Totals(jnp.sum(per_batch), None if metrics.correct is None else jnp.sum(metrics.correct))


@jax.jit(static_argnames=("net", "loss", "batch_size"))
def _compute_items(
    params: Params, X: Activations, Y: Targets, *, net: Layer, loss: Loss, batch_size: int
) -> tuple[Array | None, ...]:
    """The fields of `Items`."""

    def compute(rows: Int[Array, " b"]) -> tuple[Array | None, ...]:
        own_X, own_Y = jax.tree.map(lambda x: x[rows], (X, Y))
        Z = widen(net.forward(params, to_floats(net, params, own_X))[0])
        losses, A = loss.per_example(Z, own_Y), loss.output(Z)
        if are_labels(own_Y, Z):
            return losses, jnp.argmax(Z, axis=-1), jnp.max(A, axis=-1), None
        return losses, None, None, A

    found = jax.lax.map(compute, _make_batches(Y.shape[0], batch_size)[0])
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def _make_batches(m: int, batch_size: int) -> tuple[Int[Array, "count batch_size"], Float[Array, "count batch_size"]]:
    """The rows and weights of each batch; the last one is filled up with rows of weight 0."""
    position = jnp.arange(-(-m // batch_size) * batch_size).reshape(-1, batch_size)
    return position % m, (position < m).astype(jnp.float32)


def take_means(totals: Totals, m: int) -> Evaluation:
    """Divide totals by the m examples, on the host: 731 of 1000 is then 0.731 in any dtype."""
    loss, correct = jax.device_get(tuple(totals))
    return Evaluation(float(loss) / m, None if correct is None else float(correct) / m)
