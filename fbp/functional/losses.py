"""Softmax cross-entropy for each item, as Optax has it, and together with the linear layer before it."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fbp.chunks import run_chunks
from fbp.errors import FbpError
from fbp.functional.rule import as_dense_params, as_floating
from fbp.layers import Dense
from fbp.losses import SoftmaxCrossEntropy
from fbp.precision import widen
from fbp.typing import Weights


@jax.custom_vjp
def _per_item(logits: Array, labels: Array) -> Array:
    return SoftmaxCrossEntropy().per_example(widen(logits), labels).astype(logits.dtype)


def _forward(logits: Array, labels: Array) -> tuple[Array, tuple[Array, Array]]:
    return _per_item(logits, labels), (logits, labels)


def _backward(residuals: tuple[Array, Array], d: Array) -> tuple[Array, Array | None]:
    logits, labels = residuals
    wide, c = widen(logits), widen(d)[..., None]
    d_logits = (c * SoftmaxCrossEntropy().dZ_per_example(wide, labels)).astype(logits.dtype)
    if labels.ndim < logits.ndim:
        return d_logits, None
    return d_logits, (-c * jax.nn.log_softmax(wide, axis=-1)).astype(labels.dtype)


_per_item.defvjp(_forward, _backward)


def softmax_cross_entropy(logits: Float[Array, "*m n"], labels: Float[Array, "*m n"]) -> Float[Array, "*m"]:
    """-sum_k labels_k log softmax(logits)_k for each item: as `optax.softmax_cross_entropy`, over the last axis.

        d_logits = d (sum_k labels_k softmax(logits) - labels),    d_labels = -d log softmax(logits)

    The arguments are all that is kept. Forward mode is not defined. Bridle (1990).

    Args:
        logits: (..., n).
        labels: probabilities, (..., n).

    Returns:
        The loss of each item, (...,), computed in at least float32, in the dtype of logits.

    Raises:
        FbpError: the shapes differ, or something is not floating point.

    Example:
        >>> print(fbp.functional.softmax_cross_entropy(jnp.zeros((2, 4)), jnp.eye(4)[:2]).round(4))
        [1.3863 1.3863]
    """
    logits = as_floating("logits of softmax_cross_entropy", logits)
    labels = as_floating("labels of softmax_cross_entropy", labels)
    if not logits.ndim or labels.shape != logits.shape:
        raise FbpError(
            f"labels of softmax_cross_entropy must have the shape of the logits, {logits.shape}, got {labels.shape}; "
            "softmax_cross_entropy_with_integer_labels takes numbers of classes"
        )
    return _per_item(logits, labels)


def softmax_cross_entropy_with_integer_labels(
    logits: Float[Array, "*m n"], labels: Int[Array, "*m"]
) -> Float[Array, "*m"]:
    """-log softmax(logits)_label for each item: as Optax's function of this name, over the last axis.

        d_logits = d (softmax(logits) - onehot(label))

    The arguments are all that is kept. Forward mode is not defined. Bridle (1990).

    Args:
        logits: (..., n).
        labels: integers (...,) in 0..n-1. One out of range makes its item NaN, and adds nothing to the gradient.

    Returns:
        The loss of each item, (...,), computed in at least float32, in the dtype of logits.

    Raises:
        FbpError: the shapes do not fit, or the dtypes.

    Example:
        >>> logits, labels = jnp.zeros((2, 4)), jnp.array([3, 0])
        >>> print(fbp.functional.softmax_cross_entropy_with_integer_labels(logits, labels).round(4))
        [1.3863 1.3863]
    """
    name = "softmax_cross_entropy_with_integer_labels"
    logits = as_floating(f"logits of {name}", logits)
    return _per_item(logits, _as_labels(name, labels, logits))


def linear_cross_entropy(
    x: Float[Array, "*m n"],
    W: Float[Array, "n classes"],
    labels: Int[Array, "*m"],
    weights: Weights = None,
    *,
    b: Float[Array, " classes"] | None = None,
    label_smoothing: float = 0.0,
) -> Float[Array, ""]:
    """The mean over items of softmax cross-entropy of Z = x W + b: the head of a language model and its loss.

        dZ = c (softmax(Z) - onehot(label)),    dx = dZ W^T,    dW = x^T dZ,    db = sum dZ

    Rows come in chunks of some 2**20 scores, and value and gradients of a chunk are made at once: only dx, dW and db
    are kept, and the scores of all rows never exist together. Call it on the whole batch: under `jax.vmap` a dW is
    made for each example before they are summed. Forward mode is not defined. Hsu et al. (2024), Liger Kernel.

    Args:
        x: (..., n).
        W: (n, classes), used in the dtype of x; for a head that shares an embedding E, E.T.
        labels: integers (...,). One out of range makes the value NaN.
        weights: one for each item, (...,), or for each entry of the first axis; 0 leaves an item out. They are
            constants: no gradient flows into them. None for equal weights.
        b: (classes,), or None.
        label_smoothing: s in [0, 1]: the label has 1 - s of the probability, and s is spread over all classes.

    Returns:
        A scalar in at least float32: sum_i w_i loss_i / sum_i w_i.

    Raises:
        FbpError: a shape or a dtype does not fit.

    Example:
        >>> x, W, labels = jnp.ones((2, 5, 3)), jnp.zeros((3, 4)), jnp.zeros((2, 5), int)
        >>> round(float(fbp.functional.linear_cross_entropy(x, W, labels)), 4)
        1.3863
    """
    name = "linear_cross_entropy"
    x, W = as_floating(f"x of {name}", x), as_floating(f"W of {name}", W)
    if W.ndim != 2 or not x.ndim or x.shape[-1] != W.shape[0]:
        raise FbpError(
            f"x and W of {name} must have the shapes (..., n) and (n, classes), got {x.shape} and {W.shape}; "
            "transpose W, or reshape x"
        )
    params = as_dense_params(f"b of {name}", x, W, b)
    rule = _attach_rule(Dense(W.shape[1], bias=b is not None), SoftmaxCrossEntropy(label_smoothing=label_smoothing))
    return rule(params, x, _as_labels(name, labels, x), None if weights is None else jnp.asarray(weights))


@lru_cache(maxsize=256)
def _attach_rule(last: Dense, loss: SoftmaxCrossEntropy) -> Callable[[Any, Array, Array, Weights], Array]:
    run = partial(run_chunks, last, loss)

    @jax.custom_vjp
    def apply(params: Any, x: Array, labels: Array, weights: Weights) -> Array:
        return run(params, x, labels, weights)[0]

    def forward(params: Any, x: Array, labels: Array, weights: Weights) -> tuple[Array, Any]:
        value, d_params, dx = run(params, x, labels, weights)
        return value, (d_params, dx)

    def backward(gradients: Any, d: Array) -> tuple[Any, Array, None, None]:
        d_params, dx = jax.tree.map(lambda g: (widen(d) * widen(g)).astype(g.dtype), gradients)
        return d_params, dx, None, None

    apply.defvjp(forward, backward)
    return apply


def _as_labels(name: str, labels: Any, rows: Array) -> Int[Array, "*m"]:
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer) or not rows.ndim or labels.shape != rows.shape[:-1]:
        raise FbpError(
            f"labels of {name} must be integers of the shape {rows.shape[:-1]}, got {labels.dtype} {labels.shape}; "
            "give one class for each item"
        )
    return labels
