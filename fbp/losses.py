"""Losses: the value and dZ_L, with the output activation fused. The mean over items is taken here and nowhere else.

A loss takes the last pre-activation Z_L (the logits), applies its output activation itself, and is stable for logits
of any size.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fbp.activations import Nonlinearity, activation
from fbp.errors import FbpError
from fbp.precision import widen
from fbp.registry import Registry
from fbp.typing import Activations, Targets, Weights


@dataclass(frozen=True)
class Loss:
    """A loss over items: sum_i c_i loss_i, with c_i from the reduction and the weights.

    An item is an example, or one position of a sequence where each has a target of its own, as in language models:
    the shape of what `per_example` returns, (m,) or (m, T), says which.

    A loss of one's own is a frozen dataclass with two methods: `per_example`, the loss of each item, and
    `dZ_per_example`, its gradient. Weights, mean and dtypes are handled here. Override `check_targets` where targets
    have another shape than Z, and `output` where the loss has an output activation.

    Attributes:
        reduction: "mean", c_i = w_i / sum w (without weights 1 / the number of items), or "sum", c_i = w_i. If all
            weights are zero, the mean is zero.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class LogCosh(fbp.Loss):
        ...     def per_example(self, Z, Y):
        ...         return jnp.sum(jnp.log(jnp.cosh(Z - Y)), axis=-1)
        ...
        ...     def dZ_per_example(self, Z, Y):
        ...         return jnp.tanh(Z - Y)
        >>> value, dZ = LogCosh().value_and_dZ(jnp.ones((4, 3)), jnp.zeros((4, 3)))
        >>> bool(jnp.allclose(dZ, jnp.tanh(1.0) / 4))
        True
    """

    reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum"):
            raise FbpError(f"reduction must be 'mean' or 'sum', got {self.reduction!r}; use 'mean'")

    def value(self, Z: Activations, Y: Targets, weights: Weights = None) -> Float[Array, ""]:
        """The loss, in at least float32.

        Args:
            Z: the last pre-activations, (m, n_L) or (m, T, n_L).
            Y: targets, as `check_targets` requires.
            weights: one per example, (m,), or per item, (m, T); 0 leaves one out, as in a padded batch or sequence.

        Returns:
            A scalar.

        Raises:
            FbpError: the shapes do not fit.
        """
        self.check_targets(Z, Y)
        losses = self.per_example(widen(Z), Y)
        return jnp.sum(_weight(self.coefficients(losses, weights), losses))

    def value_and_dZ(self, Z: Activations, Y: Targets, weights: Weights = None) -> tuple[Float[Array, ""], Activations]:
        """The loss and its gradient dZ_L with respect to Z, in the shape and dtype of Z."""
        self.check_targets(Z, Y)
        wide = widen(Z)
        losses = self.per_example(wide, Y)
        return self._weigh(Z, wide, Y, losses, self.coefficients(losses, weights))

    def combine(self, Z: Activations, Y: Targets, c: Float[Array, "m ..."]) -> tuple[Float[Array, ""], Activations]:
        """(sum_i c_i loss_i, dZ), for given coefficients of the items."""
        wide = widen(Z)
        return self._weigh(Z, wide, Y, self.per_example(wide, Y), c)

    def _weigh(
        self, Z: Activations, wide: Activations, Y: Targets, losses: Array, c: Array
    ) -> tuple[Float[Array, ""], Activations]:
        dZ = _weight(jnp.expand_dims(c, range(c.ndim, Z.ndim)), self.dZ_per_example(wide, Y))
        return jnp.sum(_weight(c, losses)), dZ.astype(Z.dtype)

    def per_example(self, Z: Activations, Y: Targets) -> Float[Array, " m"]:
        """The loss of each item, before weights and mean.

        Args:
            Z: the last pre-activations, (m, n_L) or (m, T, n_L), in at least float32.
            Y: targets.
        """
        raise NotImplementedError

    def dZ_per_example(self, Z: Activations, Y: Targets) -> Activations:
        """The gradient of each item's own loss with respect to its row of Z, before weights and mean: like Z."""
        raise NotImplementedError

    def check_targets(self, Z: Activations, Y: Targets) -> None:
        """Raise an error unless the targets fit the output; by default they must have its shape.

        Raises:
            FbpError: the shapes do not fit.
        """
        if Y.shape != Z.shape:
            raise FbpError(
                f"targets of {type(self).__name__} must have the shape of the output, {Z.shape}, got {Y.shape}; "
                "give one target for each output"
            )

    def output(self, Z: Activations) -> Activations:
        """A_L, the prediction of the network: the output activation of the loss, by default the identity."""
        return Z

    def coefficients(self, losses: Array | jax.ShapeDtypeStruct, weights: Weights) -> Float[Array, "m ..."]:
        """c_i: the weights of the items and the reduction.

        Args:
            losses: what `per_example` returns, or its shape and dtype.
            weights: one per example or item.
        """
        if weights is None:
            return jnp.full(losses.shape, 1 / losses.size if self.reduction == "mean" else 1.0, losses.dtype)
        if weights.shape not in (losses.shape, losses.shape[:1]):
            shapes = " or ".join(map(str, dict.fromkeys((losses.shape[:1], losses.shape))))
            raise FbpError(f"weights must have the shape {shapes}, got {weights.shape}; give one per example or item")
        of_items = jnp.expand_dims(weights, tuple(range(weights.ndim, losses.ndim)))
        weights = jnp.broadcast_to(of_items, losses.shape).astype(losses.dtype)
        if self.reduction == "sum":
            return weights
        total = jnp.sum(weights)
        return weights / jnp.where(total == 0, jnp.ones_like(total), total)


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """-sum_k Y_k log softmax(Z)_k, for integer labels (m,) or one-hot or soft labels (m, n_L).

    dZ = sum_k(Y_k) softmax(Z) - Y per item. An integer label outside 0..n_L-1 makes the value NaN. Bridle (1990).
    For Z of shape (m, T, n_L) each position is an item, with labels (m, T).

    Attributes:
        label_smoothing: s in [0, 1]: Y becomes (1 - s) Y + s sum_k(Y_k) / n_L. Szegedy et al. (2016).

    Example:
        >>> loss = fbp.SoftmaxCrossEntropy()
        >>> value, dZ = loss.value_and_dZ(jnp.zeros((2, 4)), jnp.array([0, 3]))
        >>> round(float(value), 4)  # ln 4
        1.3863
        >>> dZ[0].tolist()  # (1/4 - Y) / m
        [-0.375, 0.125, 0.125, 0.125]
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing <= 1:
            raise FbpError(f"label_smoothing must be in [0, 1], got {self.label_smoothing}; 0.1 is usual")

    def output(self, Z: Activations) -> Activations:
        """softmax(Z)."""
        return jax.nn.softmax(Z, axis=-1)

    def check_targets(self, Z: Activations, Y: Targets) -> None:
        """Targets are integer labels, (m,), or probabilities, (m, n_L)."""
        if not (_are_labels(Y) and Y.shape == Z.shape[:-1]) and Y.shape != Z.shape:
            raise FbpError(
                f"targets of SoftmaxCrossEntropy must be integer labels {Z.shape[:-1]} or probabilities {Z.shape}, "
                f"got {Y.dtype} {Y.shape}; give one label or one row of probabilities per example"
            )

    def per_example(self, Z: Activations, Y: Targets) -> Float[Array, " m"]:
        """-sum_k Y_k log softmax(Z)_k."""
        log_p = jax.nn.log_softmax(Z, axis=-1)
        if _are_labels(Y) and Y.ndim < Z.ndim:
            # A negative index would count from the end; one past the end is filled with NaN.
            labels = jnp.where(Y < 0, Z.shape[-1], Y)
            terms = jnp.take_along_axis(log_p, labels[..., None], axis=-1, mode="fill")
        else:
            terms = _weight(Y.astype(Z.dtype), log_p)
        losses = -jnp.sum(terms, axis=-1)
        if not self.label_smoothing:
            return losses
        total = jnp.ones_like(losses) if Y.ndim < Z.ndim else jnp.sum(Y.astype(Z.dtype), axis=-1)
        uniform = -total * jnp.mean(log_p, axis=-1)
        return (1 - self.label_smoothing) * losses + self.label_smoothing * uniform

    def dZ_per_example(self, Z: Activations, Y: Targets) -> Activations:
        """sum_k(Y_k) softmax(Z) - Y."""
        Y = jax.nn.one_hot(Y, Z.shape[-1], dtype=Z.dtype) if Y.ndim < Z.ndim else Y.astype(Z.dtype)
        total = jnp.sum(Y, axis=-1, keepdims=True)
        if self.label_smoothing:
            Y = (1 - self.label_smoothing) * Y + self.label_smoothing / Z.shape[-1] * total
        return total * jax.nn.softmax(Z, axis=-1) - Y


@dataclass(frozen=True)
class SigmoidBinaryCrossEntropy(Loss):
    """-sum_k [Y_k log s_k + (1 - Y_k) log(1 - s_k)] with s = sigmoid(Z); dZ = s - Y per example.

    Targets (m, n_L) lie in [0, 1]. Solla, Levin & Fleisher (1988).
    """

    def output(self, Z: Activations) -> Activations:
        """sigmoid(Z)."""
        return jax.nn.sigmoid(Z)

    def per_example(self, Z: Activations, Y: Targets) -> Float[Array, " m"]:
        """sum_k [softplus(Z_k) - Y_k Z_k]: the two logarithms merged, so that nothing overflows or cancels."""
        return _sum_units(jax.nn.softplus(Z) - Y.astype(Z.dtype) * Z)

    def dZ_per_example(self, Z: Activations, Y: Targets) -> Activations:
        """sigmoid(Z) - Y."""
        return jax.nn.sigmoid(Z) - Y.astype(Z.dtype)


@dataclass(frozen=True)
class HalfSquaredError(Loss):
    """1/2 sum_k (A_k - Y_k)**2 with A = g_L(Z) and targets (m, n_L); dZ = (A - Y) g_L'(Z) per example.

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

    def per_example(self, Z: Activations, Y: Targets) -> Float[Array, " m"]:
        """1/2 sum_k (A_k - Y_k)**2."""
        return _sum_units(0.5 * jnp.square(self._g(Z) - Y.astype(Z.dtype)))

    def dZ_per_example(self, Z: Activations, Y: Targets) -> Activations:
        """(A - Y) g_L'(Z)."""
        A = self._g(Z)
        return self._g.pullback(self._g.save(Z, A), A - Y.astype(Z.dtype))


def _are_labels(Y: Array) -> bool:
    return jnp.issubdtype(Y.dtype, jnp.integer)


def _weight(c: Array, x: Array) -> Array:
    # A weight of zero leaves its example out even if that example is NaN or infinite.
    return jnp.where(c == 0, jnp.zeros_like(x), c * x)


def _sum_units(terms: Array) -> Float[Array, " m"]:
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
"""Losses by name, with reduction="mean": `loss("softmax_cross_entropy")`."""
