"""Gradients of parameters before their sum over examples: an outer product of two activations, or one gradient each."""

from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from fbp.precision import widen

_MOST_ROWS = 4096
"""Rows whose products with one another are held at once."""


@partial(jax.tree_util.register_dataclass, data_fields=["A", "dZ"], meta_fields=["classes"])
@dataclass(frozen=True)
class Outer:
    """dW = sum over rows of A_r^T dZ_r, for rows r = (example, positions...).

    Attributes:
        A: (m, ..., n_in); or integers (m, ...) below `classes`, which stand for their one-hot rows, n_in = classes.
        dZ: (m, ..., n_out).
        classes: the number of values that an integer A takes.

    Example:
        >>> A, dZ = jnp.ones((2, 5, 3)), jnp.ones((2, 5, 4))
        >>> Outer(A, dZ).sum()[0, 0], Outer(A, dZ).squared_norms()
        (Array(10., dtype=float32), Array([300., 300.], dtype=float32))
    """

    A: Num[Array, "m ..."]
    dZ: Num[Array, "m ..."]
    classes: int = 0

    def sum(self, c: Float[Array, " m"] | None = None) -> Float[Array, "n_in n_out"]:
        """The sum over examples, each times its c_i; without c the gradient itself."""
        dZ = self.dZ if c is None else self.dZ * _along_examples(c, self.dZ)
        if _is_integer(self.A):
            return jnp.zeros((self.classes, dZ.shape[-1]), dZ.dtype).at[self.A].add(dZ, mode="drop")
        rows = tuple(range(dZ.ndim - 1))
        return jnp.tensordot(self.A, dZ, axes=(rows, rows))

    def inner(self, other: "Outer") -> Float[Array, " m"]:
        """<g_i, h_i> for each example: sum over t and s of (A_t . A'_s) (dZ_t . dZ'_s), without forming g and h."""
        return jnp.sum(_gram(self.A, other.A, self.dZ.dtype) * _gram(self.dZ, other.dZ, self.dZ.dtype), axis=(1, 2))

    def products(self) -> Float[Array, "m m"]:
        """<g_i, g_j> for all pairs of examples, in the cheaper of two ways; in at least float32."""
        A, dZ = (x if _is_integer(x) else widen(x) for x in (self.A, self.dZ))
        m, T, n_in, n_out = len(dZ), dZ[0, ..., 0].size, self.classes or A.shape[-1], dZ.shape[-1]
        if T > 1 and not _is_integer(A) and m * T * T * (n_in + n_out) > (T + m) * n_in * n_out:
            g = jnp.einsum("mti,mto->mio", _as_rows(A), _as_rows(dZ)).reshape(m, -1)
            return g @ g.T
        if m * T <= _MOST_ROWS:
            rows = A.reshape(m * T, -1)
            same = (rows == rows.T).astype(dZ.dtype) if _is_integer(A) else rows @ rows.T
            deltas = dZ.reshape(m * T, -1)
            return (same * (deltas @ deltas.T)).reshape(m, T, m, T).sum(axis=(1, 3))
        every = Outer(A, dZ, self.classes)
        repeat = lambda x: jnp.broadcast_to(x, (m, *x.shape))
        return jax.lax.map(lambda own: every.inner(Outer(repeat(own[0]), repeat(own[1]))), (A, dZ))

    def squared_norms(self) -> Float[Array, " m"]:
        """||g_i||**2 for each example, in the cheaper of two ways."""
        T, n_in, n_out = self.dZ[0, ..., 0].size, self.classes or self.A.shape[-1], self.dZ.shape[-1]
        if _is_integer(self.A) or T * (n_in + n_out) <= 2 * n_in * n_out:
            return self.inner(self)
        g = jnp.einsum("mti,mto->mio", _as_rows(self.A), _as_rows(self.dZ))
        return jnp.sum(jnp.square(g), axis=(1, 2))


@partial(jax.tree_util.register_dataclass, data_fields=["g"], meta_fields=[])
@dataclass(frozen=True)
class Each:
    """The gradient of each example, where it is no larger than the activation.

    Attributes:
        g: (m, *shape of the parameter).
    """

    g: Float[Array, "m ..."]

    def sum(self, c: Float[Array, " m"] | None = None) -> Float[Array, "..."]:
        """The sum over examples, each times its c_i; without c the gradient itself."""
        return jnp.sum(self.g if c is None else self.g * _along_examples(c, self.g), axis=0)

    def inner(self, other: "Each") -> Float[Array, " m"]:
        """<g_i, h_i> for each example."""
        return jnp.sum(self.g * other.g, axis=tuple(range(1, self.g.ndim)))

    def squared_norms(self) -> Float[Array, " m"]:
        """||g_i||**2 for each example."""
        return self.inner(self)


Pairs: TypeAlias = dict[str, Outer | Each]
"""For each parameter by its name, its gradient before the sum over examples."""


def find_weights(pairs: Pairs) -> tuple[str, ...]:
    """The names of the weight matrices among the parameters of a layer.

    Args:
        pairs: what its `linear` returned.
    """
    return tuple(name for name, pair in pairs.items() if isinstance(pair, Outer))


def sum_positions(x: Float[Array, "m *positions n"]) -> Float[Array, "m n"]:
    """The sum over all axes but the first and the last: what each example adds to the gradient of a vector."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim - 1)))


def _gram(x: Array, y: Array, dtype: Any) -> Float[Array, "m T S"]:
    """x_t . y_s for all positions t and s of an example; integers are their one-hot rows."""
    if _is_integer(x) and _is_integer(y):
        return (_as_rows(x)[:, :, None] == _as_rows(y)[:, None, :]).astype(dtype)
    if _is_integer(y):
        return jnp.take_along_axis(_as_rows(x), _as_rows(y)[:, None, :], axis=2)
    if _is_integer(x):
        return jnp.swapaxes(_gram(y, x, dtype), 1, 2)
    return jnp.einsum("mtn,msn->mts", _as_rows(x), _as_rows(y))


def _as_rows(x: Array) -> Array:
    return x.reshape(x.shape[0], -1) if _is_integer(x) else x.reshape(x.shape[0], -1, x.shape[-1])


def _is_integer(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.integer)


def _along_examples(c: Float[Array, " m"], x: Array) -> Array:
    return jnp.expand_dims(c, tuple(range(1, x.ndim))).astype(x.dtype)
