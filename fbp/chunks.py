"""The last layer and the loss in chunks of rows, where all outputs at once would be the largest array of the step.

The scores of a language model, (m, T, vocabulary), are made, turned into the loss and its dZ, and multiplied back into
dA and d_params, some rows at a time: no more than a chunk of them ever exists. Hsu et al. (2024), Liger Kernel.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fbp.combinators import Combinator
from fbp.combinators.base import Detached
from fbp.cotangent import Cotangent
from fbp.losses import Loss
from fbp.precision import widen
from fbp.typing import Activations, Key, Layer, Params, Shape, Targets, Weights

CHUNK_FROM = 2**22
"""The number of outputs of a batch from which they are made in chunks."""
CHUNK = 2**20
"""The number of outputs in a chunk, about."""

Step = Callable[[Params, Activations, Targets, Weights, Key | None], tuple[Float[Array, ""], Params]]


def chunk_head(net: Layer, loss: Loss, shape: Shape | None, Y: Targets) -> Step | None:
    """The gradient step with the last layer and the loss in chunks of rows; None where that saves nothing.

    Args:
        net: a network.
        loss: a loss of its output.
        shape: of the output, batch included; None where it is not known.
        Y: targets.
    """
    if shape is None or math.prod(shape) < CHUNK_FROM:
        return None
    detached = net.detach_last() if isinstance(net, Combinator) else None
    if detached is None or not detached.last.acts_on_rows:
        return None
    Z = jax.ShapeDtypeStruct(shape, jnp.float32)
    loss.check_targets(Z, Y)
    losses = jax.eval_shape(loss.per_example, Z, Y)
    # Rows must be the items of the loss.
    return partial(_step, detached, loss) if losses.shape == Z.shape[:-1] else None


def _step(
    net: Detached,
    loss: Loss,
    params: Params,
    X: Activations,
    Y: Targets,
    weights: Weights,
    key: Key | None,
) -> tuple[Float[Array, ""], Params]:
    p_rest, p_last = net.divide(params)
    A, cache = net.rest.forward(p_rest, X, key)
    value, d_last, dA = run_chunks(net.last, loss, p_last, A, Y, weights)
    d_rest, _, _ = net.rest.sweep(p_rest, cache, Cotangent(dA))
    return value, net.unite(d_rest, d_last)


def run_chunks(
    last: Layer, loss: Loss, params: Params, A: Activations, Y: Targets, weights: Weights
) -> tuple[Float[Array, ""], Params, Activations]:
    """Run a layer and the loss forward and back, some rows at a time.

    Args:
        last: a layer that acts on rows.
        loss: a loss whose items are the rows of its output.
        params: of the layer.
        A: its input, (m, ..., n).
        Y: targets.
        weights: of the examples or items.

    Returns:
        (value, d_params, dA).
    """
    Z = jax.eval_shape(lambda params, A: last.forward(params, A)[0], params, A)
    losses = jax.eval_shape(loss.per_example, jax.eval_shape(widen, Z), Y)
    rows, outputs = math.prod(Z.shape[:-1]), Z.shape[-1]
    count = max(1, round(rows * outputs / CHUNK))
    size = -(-rows // count)

    def cut(x: Array, kept: int) -> Array:
        flat = x.reshape(rows, *x.shape[x.ndim - kept :])
        # Rows that fill up the last chunk have the coefficient zero.
        padded = jnp.pad(flat, ((0, count * size - rows), *((0, 0),) * kept))
        return padded.reshape(count, size, *flat.shape[1:])

    def run(carry: tuple[Array, Params], chunk: tuple[Array, Array, Array]) -> tuple[tuple[Array, Params], Any]:
        (value, d_params), (A, Y, c) = carry, chunk
        Z, cache = last.forward(params, A)
        own_value, dZ = loss.combine(Z, Y, c)
        d_own, dA = last.backward(params, cache, dZ)
        return (value + own_value, jax.tree.map(lambda total, d: total + widen(d), d_params, d_own)), dA

    chunks = cut(A, 1), cut(Y, Y.ndim - losses.ndim), cut(loss.coefficients(losses, weights), 0)
    # A sum over many chunks in half precision would lose the later ones.
    start = jnp.zeros((), losses.dtype), jax.tree.map(lambda p: jnp.zeros_like(widen(p)), params)
    (value, sums), dA = jax.lax.scan(run, start, chunks)
    d_params = jax.tree.map(lambda total, p: total.astype(p.dtype), sums, params)
    return value, d_params, dA.reshape(-1, A.shape[-1])[:rows].reshape(A.shape)
