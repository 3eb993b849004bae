"""The two rules of attention on arrays: the one that keeps the softmax, and the one that makes it again.

    S = scale Q K^T,    P = softmax(S),    O = P V

for each head, and backward, with D the row sums of dP * P, which are those of dO * O:

    dV = P^T dO,    dP = dO V^T,    dS = P * (dP - D),    dQ = scale dS K,    dK = scale dS^T Q

Scores, softmax and sums are taken in at least float32. Queries are (m, R, k, d), keys and values (m, S, k, d), scores
(m, k, R, S), for k heads of keys. Where each of them is read by g heads of queries, a position has g rows, R = T g.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fbp.precision import widen

BLOCK = 64
"""Positions of queries, and of keys, in a block of the lean rule."""


class Sequences(NamedTuple):
    """What attention reads.

    Attributes:
        Q: queries, (m, T g, k, d).
        K: keys, (m, S, k, d).
        V: values, (m, S, k, d).
        mask: true where a query sees a key, (m or 1, k or 1, T g or 1, S); None for everywhere.
        scale: the factor of the scores.
        causal: whether a query sees no later keys.
        group: g.
    """

    Q: Float[Array, "m R k d"]
    K: Float[Array, "m S k d"]
    V: Float[Array, "m S k d"]
    mask: Bool[Array, "_m _k _R S"] | None
    scale: float
    causal: bool
    group: int


def _times_transposed(x: Array, y: Array) -> Float[Array, "m k R S"]:
    """x y^T of each head, in at least float32."""
    return jnp.einsum("mrkd,mskd->mkrs", x, y, preferred_element_type=widen(x).dtype)


def _times(P: Array, y: Array) -> Float[Array, "m R k d"]:
    """P y of each head."""
    return jnp.einsum("mkrs,mskd->mrkd", P.astype(y.dtype), y, preferred_element_type=P.dtype)


def _transposed_times(P: Array, y: Array) -> Float[Array, "m S k d"]:
    """P^T y of each head, summed over the rows that share a head of keys."""
    return jnp.einsum("mkrs,mrkd->mskd", P.astype(y.dtype), y, preferred_element_type=P.dtype)


def _per_row(x: Float[Array, "m k R"]) -> Float[Array, "m R k 1"]:
    return jnp.swapaxes(x, 1, 2)[..., None]


def _visible(sequences: Sequences, rows: Any, columns: Any, mask: Array | None) -> Bool[Array, "_m _k _R S"] | None:
    """Which keys (columns) each query (rows) sees, by their positions; None for all."""
    if not sequences.causal:
        return mask
    seen = (rows[:, None] >= columns[None, :])[None, None]
    return seen if mask is None else jnp.logical_and(seen, mask)


def _scores(Q: Array, K: Array, scale: float, visible: Array | None) -> Float[Array, "m k R S"]:
    S = _times_transposed(Q, K) * scale
    return S if visible is None else jnp.where(visible, S, -jnp.inf)


def forward_plain(sequences: Sequences) -> tuple[Array, Array]:
    """(O, P)."""
    Q, K, V, mask, scale, _, group = sequences
    rows = np.repeat(np.arange(Q.shape[1] // group), group)
    S = _scores(Q, K, scale, _visible(sequences, rows, np.arange(K.shape[1]), mask))
    largest = jnp.max(S, axis=-1, keepdims=True)
    E = jnp.exp(S - jnp.where(jnp.isfinite(largest), largest, jnp.zeros_like(largest)))
    total = jnp.sum(E, axis=-1, keepdims=True)
    P = E / jnp.where(total == 0, jnp.ones_like(total), total)
    return _times(P, V), P


def backward_plain(sequences: Sequences, P: Array, dO: Array) -> tuple[Array, Array, Array]:
    """(dQ, dK, dV)."""
    Q, K, V, _, scale, _, _ = sequences
    dV = _transposed_times(P, dO)
    dP = _times_transposed(dO, V)
    D = jnp.sum(dP * P, axis=-1, keepdims=True)
    dS = P * (dP - D) * scale
    return _times(dS, K), _transposed_times(dS, Q), dV


class _Blocks:
    """The sequences in blocks of equal length, the last one filled up with zeros.

    Args:
        sequences: queries, keys and values.
    """

    def __init__(self, sequences: Sequences):
        self.sequences = sequences
        T, S = sequences.Q.shape[1] // sequences.group, sequences.K.shape[1]
        self.keys = min(BLOCK, max(T, S))
        self.queries = self.keys * sequences.group
        self.rows, self.columns = -(-T // self.keys), -(-S // self.keys)
        self.Q = self.pad_queries(sequences.Q, 1)
        self.K, self.V = self._pad(sequences.K, 1, self.keys), self._pad(sequences.V, 1, self.keys)
        mask = sequences.mask
        if mask is None and S % self.keys:
            mask = jnp.ones((1, 1, 1, S), bool)
        if mask is not None:
            # Keys that fill up the last block count for nobody.
            mask = self._pad(mask, 3, self.keys)
            mask = mask if mask.shape[2] == 1 else self.pad_queries(mask, 2)
        self.mask = mask

    @staticmethod
    def _pad(x: Array, axis: int, size: int) -> Array:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, -x.shape[axis] % size)
        return jnp.pad(x, widths)

    def pad_queries(self, x: Array, axis: int) -> Array:
        """Fill up the axis of queries to whole blocks."""
        return self._pad(x, axis, self.queries)

    def of_queries(self, x: Array, i: Array | int, axis: int = 1) -> Array:
        """Block i along an axis of queries."""
        return jax.lax.dynamic_slice_in_dim(x, i * self.queries, self.queries, axis)

    def of_keys(self, x: Array, j: Array | int, axis: int = 1) -> Array:
        """Block j along an axis of keys."""
        return jax.lax.dynamic_slice_in_dim(x, j * self.keys, self.keys, axis)

    @staticmethod
    def join(blocks: Array, axis: int, length: int) -> Array:
        """Blocks along a new first axis, side by side along an axis, without what filled the last one up."""
        whole = jnp.moveaxis(blocks, 0, axis)
        whole = whole.reshape(*whole.shape[:axis], -1, *whole.shape[axis + 2 :])
        return jax.lax.slice_in_dim(whole, 0, length, axis=axis)

    def scores(self, Q: Array, K: Array, i: Array | int, j: Array | int) -> Array:
        """Those of the queries of block i against the keys of block j."""
        mask = self.mask
        if mask is not None:
            mask = self.of_keys(mask, j, 3)
            mask = mask if mask.shape[2] == 1 else self.of_queries(mask, i, 2)
        places = jnp.arange(self.keys)
        rows = jnp.repeat(i * self.keys + places, self.sequences.group)
        visible = _visible(self.sequences, rows, j * self.keys + places, mask)
        return _scores(Q, K, self.sequences.scale, visible)


def forward_lean(sequences: Sequences) -> tuple[Array, Float[Array, "m k R"]]:
    """O, and L = log sum exp of each query's scores: infinite for a query that sees no key, whose P is then zero."""
    blocks = _Blocks(sequences)

    def run_row(_: None, i: Array) -> tuple[None, tuple[Array, Array]]:
        Q = blocks.of_queries(blocks.Q, i)

        def add_block(state: tuple[Array, Array, Array], j: Array | int) -> tuple[Array, Array, Array]:
            largest, total, O = state
            S = blocks.scores(Q, blocks.of_keys(blocks.K, j), i, j)
            new = jnp.maximum(largest, jnp.max(S, axis=-1))
            base = jnp.where(jnp.isfinite(new), new, jnp.zeros_like(new))
            E, shrink = jnp.exp(S - base[..., None]), jnp.exp(largest - base)
            O = O * _per_row(shrink) + _times(E, blocks.of_keys(blocks.V, j))
            return new, total * shrink + jnp.sum(E, axis=-1), O

        wide = widen(Q).dtype
        nothing = jnp.full((Q.shape[0], Q.shape[2], Q.shape[1]), -jnp.inf, wide)
        start = nothing, jnp.zeros_like(nothing), jnp.zeros(Q.shape, wide)
        largest, total, O = _scan_keys(add_block, start, i, blocks.columns, sequences.causal)
        empty = total == 0
        safe = jnp.where(empty, jnp.ones_like(total), total)
        L = jnp.where(empty, jnp.inf, largest + jnp.log(safe))
        return None, ((O / _per_row(safe)).astype(Q.dtype), L)

    _, (O, L) = jax.lax.scan(run_row, None, jnp.arange(blocks.rows))
    R = sequences.Q.shape[1]
    return blocks.join(O, 1, R), blocks.join(L, 2, R)


def _scan_keys(add_block: Callable[[Any, Any], Any], state: Any, i: Array, columns: int, causal: bool) -> Any:
    """Add the blocks of keys that the queries of block i see."""
    if columns == 1:
        return add_block(state, 0)
    # A loop of fixed length, so that autodiff, the judge, can pass through it.
    see = lambda state, j: (jax.lax.cond(j <= i, add_block, lambda state, j: state, state, j), None)
    see_all = lambda state, j: (add_block(state, j), None)
    return jax.lax.scan(see if causal else see_all, state, jnp.arange(columns))[0]


def backward_lean(sequences: Sequences, O: Array, L: Array, dO: Array) -> tuple[Array, Array, Array]:
    """(dQ, dK, dV), one block of keys after the other, and for each the blocks of queries that see it."""
    blocks = _Blocks(sequences)
    scale, wide = sequences.scale, widen(sequences.Q).dtype
    D = jnp.einsum("mrkd,mrkd->mkr", dO.astype(wide), O.astype(wide))
    # Queries that fill up the last block have dO = 0 and D = 0, so that they add nothing.
    L, D, dO = blocks.pad_queries(L, 2), blocks.pad_queries(D, 2), blocks.pad_queries(dO, 1)

    def run_column(dQ: Array, j: Array) -> tuple[Array, tuple[Array, Array]]:
        K, V = blocks.of_keys(blocks.K, j), blocks.of_keys(blocks.V, j)

        def add_block(i: Array | int, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dQ, dK, dV = state
            Q, own_dO = blocks.of_queries(blocks.Q, i), blocks.of_queries(dO, i)
            P = jnp.exp(blocks.scores(Q, K, i, j) - blocks.of_queries(L, i, 2)[..., None])
            dP = _times_transposed(own_dO, V)
            dS = P * (dP - blocks.of_queries(D, i, 2)[..., None]) * scale
            own_dQ = blocks.of_queries(dQ, i) + _times(dS, K)
            dQ = jax.lax.dynamic_update_slice_in_dim(dQ, own_dQ, i * blocks.queries, 1)
            return dQ, dK + _transposed_times(dS, Q), dV + _transposed_times(P, own_dO)

        state = dQ, jnp.zeros(K.shape, wide), jnp.zeros(V.shape, wide)
        if blocks.rows == 1:
            state = add_block(0, state)
        else:
            state = jax.lax.fori_loop(j if sequences.causal else 0, blocks.rows, add_block, state)
        return state[0], state[1:]

    dQ, (dK, dV) = jax.lax.scan(run_column, jnp.zeros(blocks.Q.shape, wide), jnp.arange(blocks.columns))
    S = sequences.K.shape[1]
    return dQ[:, : sequences.Q.shape[1]], blocks.join(dK, 1, S), blocks.join(dV, 1, S)
