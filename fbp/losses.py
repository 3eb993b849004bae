"""Losses: the value and dZ_L, with the output activation fused. The mean over examples is owned here, and only here.

A loss takes the last pre-activation Z_L (the logits), applies its output activation itself, and is stable for logits
of any size.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from fbp.activations import Nonlinearity, activation
from fbp.errors import FbpError
from fbp.precision import widened
from fbp.registry import Registry
from fbp.typing import Activations


@dataclass(frozen=True)
class Loss:
    """A loss over m examples: sum_i c_i loss_i, with c_i from the reduction and the weights of the examples.

    Attributes:
        reduction: "mean", c_i = w_i / sum w (1/m without weights), or "sum", c_i = w_i. Where all weights are zero
            the mean is zero.
    """

    reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum"):
            raise FbpError(f"reduction is 'mean' or 'sum'; received {self.reduction!r}")

    def value(
        self, Z: Activations, Y: Num[Array, "..."], weights: Float[Array, " m"] | None = None
    ) -> Float[Array, ""]:
        """The loss, in float32 at least.

        Args:
            Z: the last pre-activations, (m, n_L).
            Y: targets, as the loss takes them.
            weights: one per example; 0 leaves an example out, as in a padded last batch.

        Raises:
            FbpError: the shapes do not fit.
        """
        self._check(Z, Y)
        per_example = self._per_example(widened(Z), Y)
        return jnp.sum(_weighted(self._coefficients(per_example, weights), per_example))

    def value_and_dZ(
        self, Z: Activations, Y: Num[Array, "..."], weights: Float[Array, " m"] | None = None
    ) -> tuple[Float[Array, ""], Activations]:
        """The loss and its gradient dZ_L with respect to Z, in the shape and dtype of Z."""
        self._check(Z, Y)
        wide = widened(Z)
        per_example = self._per_example(wide, Y)
        c = self._coefficients(per_example, weights)
        dZ = _weighted(jnp.expand_dims(c, range(1, Z.ndim)), self._delta(wide, Y))
        return jnp.sum(_weighted(c, per_example)), dZ.astype(Z.dtype)

    def output(self, Z: Activations) -> Activations:
        """A_L, the network's prediction: the output activation of the loss applied to Z_L."""
        raise NotImplementedError

    def _per_example(self, Z: Array, Y: Array) -> Float[Array, " m"]:
        raise NotImplementedError

    def _delta(self, Z: Array, Y: Array) -> Array:
        """d loss_i / dZ_i of each example, before the reduction."""
        raise NotImplementedError

    def _check(self, Z: Array, Y: Array) -> None:
        if Y.shape != Z.shape:
            raise FbpError(
                f"{type(self).__name__} takes targets of the shape of the output; "
                f"received targets {Y.shape} for outputs {Z.shape}"
            )

    def _coefficients(self, per_example: Array, weights: Array | None) -> Float[Array, " m"]:
        if weights is None:
            m = per_example.shape[0]
            return jnp.full((m,), 1 / m if self.reduction == "mean" else 1.0, per_example.dtype)
        if weights.shape != per_example.shape:
            raise FbpError(f"weights are one per example, {per_example.shape}; received {weights.shape}")
        weights = weights.astype(per_example.dtype)
        if self.reduction == "sum":
            return weights
        total = jnp.sum(weights)
        return weights / jnp.where(total == 0, jnp.ones_like(total), total)


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """-sum_k Y_k log softmax(Z)_k, for integer labels (m,) or one-hot or soft labels (m, n_L).

    dZ = sum_k(Y_k) softmax(Z) - Y per example. An integer label outside 0..n_L-1 makes the value NaN.
    """

    def output(self, Z: Activations) -> Activations:
        """softmax(Z)."""
        return jax.nn.softmax(Z, axis=-1)

    def _check(self, Z: Array, Y: Array) -> None:
        if not (_are_labels(Y) and Y.shape == Z.shape[:-1]) and Y.shape != Z.shape:
            raise FbpError(
                f"SoftmaxCrossEntropy takes integer labels {Z.shape[:-1]} or one label row per example {Z.shape}; "
                f"received targets {Y.shape} of {Y.dtype}"
            )

    def _per_example(self, Z: Array, Y: Array) -> Array:
        log_p = jax.nn.log_softmax(Z, axis=-1)
        if _are_labels(Y) and Y.ndim < Z.ndim:
            # A negative index would count from the end; one past the end is filled with NaN.
            labels = jnp.where(Y < 0, Z.shape[-1], Y)
            terms = jnp.take_along_axis(log_p, labels[..., None], axis=-1, mode="fill")
        else:
            terms = _weighted(Y.astype(Z.dtype), log_p)
        return -_sum_rest(terms)

    def _delta(self, Z: Array, Y: Array) -> Array:
        Y = jax.nn.one_hot(Y, Z.shape[-1], dtype=Z.dtype) if Y.ndim < Z.ndim else Y.astype(Z.dtype)
        return jnp.sum(Y, axis=-1, keepdims=True) * jax.nn.softmax(Z, axis=-1) - Y


@dataclass(frozen=True)
class SigmoidBinaryCrossEntropy(Loss):
    """-sum_k [Y_k log s_k + (1 - Y_k) log(1 - s_k)] with s = sigmoid(Z); dZ = s - Y per example."""

    def output(self, Z: Activations) -> Activations:
        """sigmoid(Z)."""
        return jax.nn.sigmoid(Z)

    def _per_example(self, Z: Array, Y: Array) -> Array:
        # softplus(Z) - Y Z: the two logarithms merged, nothing overflows and nothing cancels.
        return _sum_rest(jax.nn.softplus(Z) - Y.astype(Z.dtype) * Z)

    def _delta(self, Z: Array, Y: Array) -> Array:
        return jax.nn.sigmoid(Z) - Y.astype(Z.dtype)


@dataclass(frozen=True)
class HalfSquaredError(Loss):
    """1/2 sum_k (A_k - Y_k)**2 with A = g_L(Z); dZ = (A - Y) g_L'(Z) per example.

    Attributes:
        activation: the output activation g_L, by name or as a `Nonlinearity`.
    """

    activation: Nonlinearity | str = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "activation", activation(self.activation))

    def output(self, Z: Activations) -> Activations:
        """g_L(Z)."""
        return self._g(Z)

    @property
    def _g(self) -> Nonlinearity:
        return activation(self.activation)

    def _per_example(self, Z: Array, Y: Array) -> Array:
        return _sum_rest(0.5 * jnp.square(self._g(Z) - Y.astype(Z.dtype)))

    def _delta(self, Z: Array, Y: Array) -> Array:
        A = self._g(Z)
        return self._g.pullback(self._g.save(Z, A), A - Y.astype(Z.dtype))


def _are_labels(Y: Array) -> bool:
    return jnp.issubdtype(Y.dtype, jnp.integer)


def _weighted(c: Array, x: Array) -> Array:
    # A weight of zero leaves its example out even where that example is NaN or infinite.
    return jnp.where(c == 0, jnp.zeros_like(x), c * x)


def _sum_rest(terms: Array) -> Float[Array, " m"]:
    return jnp.sum(terms, axis=tuple(range(1, terms.ndim)))


loss: Registry[Loss] = Registry(
    "loss",
    Loss,
    {
        "softmax_cross_entropy": SoftmaxCrossEntropy,
        "sigmoid_binary_cross_entropy": SigmoidBinaryCrossEntropy,
        "half_squared_error": HalfSquaredError,
    },
)
"""Losses by name, with reduction="mean"."""
