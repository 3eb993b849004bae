"""The mean loss and the accuracy of a network over a data set."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num
from numpy.typing import ArrayLike

from fbp.errors import FbpError, check_count
from fbp.layers import Affine, BatchNorm
from fbp.losses import Loss
from fbp.training.inputs import prepared
from fbp.training.step import Metrics, measure
from fbp.tree import rebuild
from fbp.typing import Activations, Layer, Params


class Evaluation(NamedTuple):
    """Means over the examples of a data set.

    Attributes:
        loss: the mean of the examples' losses, whatever the loss's reduction.
        accuracy: the part of the examples whose largest output is at their label, in [0, 1]; None where the targets
            are not integer labels (m,).
    """

    loss: float
    accuracy: float | None


class Totals(NamedTuple):
    """Sums over the examples of a data set, on the device.

    Attributes:
        loss: of the examples' losses.
        correct: how many were classified rightly; None where the targets are not labels.
    """

    loss: Float[Array, ""]
    correct: Float[Array, ""] | None


def evaluate(net: Layer, loss: Loss, params: Params, X: ArrayLike, Y: ArrayLike, batch_size: int = 1000) -> Evaluation:
    """The mean loss and the accuracy over all examples, without dropout.

    Compiled once for each network, loss and shape of the data.

    Args:
        net: a network, its batch normalization (if any) already with population statistics.
        loss: a loss of its last pre-activation.
        params: of the network.
        X: (m, n_0), any float dtype; it is computed in that of the parameters.
        Y: what the loss takes, one row an example.
        batch_size: examples computed at a time; it changes memory and speed, not the result.

    Raises:
        FbpError: the arrays do not fit the network or the loss, a value is not finite, a label is out of range, the
            network normalizes by its batch, or the batch size is below 1.
    """
    check_count("batch_size", batch_size)
    if rebuild(net, lambda layer: Affine() if isinstance(layer, BatchNorm) else layer) != net:
        raise FbpError(
            "evaluation does not depend on how the examples are batched; received a network with batch normalization; "
            "first take net, params = fbp.with_population_statistics(net, params, X) with the training inputs"
        )
    data = prepared(net, loss, params, X, Y)
    size = min(int(batch_size), data[0].shape[0])
    return means(totals(params, *data, net=net, loss=loss, batch_size=size), data[0].shape[0])


@jax.jit(static_argnames=("net", "loss", "batch_size"))
def totals(params: Params, X: Activations, Y: Num[Array, "..."], *, net: Layer, loss: Loss, batch_size: int) -> Totals:
    """The compiled part of `evaluate`."""

    def one(batch: tuple[Int[Array, " b"], Float[Array, " b"]]) -> Metrics:
        rows, weights = batch
        Z, _ = net.forward(params, X[rows])
        return measure(loss.value(Z, Y[rows], weights), Z, Y[rows], weights)

    return summed(loss, jax.lax.map(one, batches(jnp.arange(X.shape[0]), batch_size)))


def batches(
    order: Int[Array, " m"], batch_size: int
) -> tuple[Int[Array, "count batch_size"], Float[Array, "count batch_size"]]:
    """Rows and weights of each batch: every example once with weight 1.

    The last batch is filled from the start of the order with weight 0: real examples, so that batch statistics stay
    those of the data.

    Args:
        order: of the examples.
        batch_size: at most m.
    """
    m = order.shape[0]
    position = jnp.arange(-(-m // batch_size) * batch_size).reshape(-1, batch_size)
    return order[position % m], (position < m).astype(jnp.float32)


def summed(loss: Loss, metrics: Metrics) -> Totals:
    """The totals of all batches, from their metrics, stack."""
    per_batch = metrics.loss * metrics.examples if loss.reduction == "mean" else metrics.loss
    return Totals(jnp.sum(per_batch), None if metrics.correct is None else jnp.sum(metrics.correct))


def means(totals: Totals, m: int) -> Evaluation:
    """Totals over m examples as means, on the host: 731 of 1000 is 0.731 in any dtype."""
    loss, correct = jax.device_get(tuple(totals))
    return Evaluation(float(loss) / m, None if correct is None else float(correct) / m)
