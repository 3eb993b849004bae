"""Attention without parameters, between dense lines: the rule that keeps the softmax, and the one that makes it again.

    S = Q K^T / sqrt(d),    P = softmax(S),    O = P V

for each head, and backward, with D the row sums of dP * P, which are those of dO * O:

    dV = P^T dO,    dP = dO V^T,    dS = P * (dP - D),    dQ = dS K / sqrt(d),    dK = dS^T Q / sqrt(d)

Scores, softmax and sums are taken in at least float32. Inside, arrays are (m, k, g, T, d): k heads of keys and values,
each read by g heads of queries.
"""

import math
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fbp.errors import FbpError, check_count, unknown_name
from fbp.layers.axes import is_shape
from fbp.precision import widen
from fbp.typing import Activations, Cache, Key, Layer, Params, Shape

Rule = Literal["auto", "plain", "lean"]
LEAN_FROM = 32
"""The number of keys from which "auto" takes the lean rule (see benchmarks/README.md)."""
BLOCK = 64
"""Queries and keys in a block of the lean rule."""


@dataclass(frozen=True)
class Attention(Layer):
    """softmax(Q K^T / sqrt(d)) V for each head, of the lines (q, k, v): its weights are the dense lines around it.

    A fourth line may give a mask of booleans, true for the keys that count: of padding, (m, S), or for each head and
    query, (m, heads, T, S), where heads and T may be 1. A query without any key that counts gets zeros. Vaswani et al.
    (2017); grouped queries: Ainslie et al. (2023).

    The plain rule keeps P, (heads, T, S) for each example. The lean one keeps O and the logarithm of the sum of the
    exponentials, (heads, T), and makes P again block by block in a compiled loop. Dao (2023).

    Attributes:
        heads: of the queries; their widths are n / heads.
        key_value_heads: of keys and values, a divisor of `heads`; None for as many.
        causal: whether a query sees only keys at its own position and before.
        rule: "plain", "lean", or "auto": lean from `LEAN_FROM` keys on.
        scale: the factor of the scores; None for 1 / sqrt(d).

    Raises:
        FbpError: the numbers of heads do not divide each other.

    Example:
        >>> net = fbp.Network(
        ...     q=fbp.Dense(8).of("input"), k=fbp.Dense(8).of("input"), v=fbp.Dense(8).of("input"),
        ...     mix=fbp.Attention(heads=2).of("q", "k", "v"),
        ... )
        >>> params, shape = net.init(jax.random.key(0), (5, 8))
        >>> net.forward(params, jnp.ones((1, 5, 8)))[0].shape
        (1, 5, 8)
    """

    heads: int
    key_value_heads: int | None = None
    causal: bool = True
    rule: Rule = "auto"
    scale: float | None = None

    def __post_init__(self) -> None:
        check_count("heads of Attention", self.heads)
        if self.key_value_heads is not None:
            check_count("key_value_heads of Attention", self.key_value_heads)
            if self.heads % self.key_value_heads:
                raise FbpError(
                    f"key_value_heads of Attention must divide the {self.heads} heads, got {self.key_value_heads}; "
                    "each head of keys serves as many heads of queries"
                )
        if self.rule not in get_args(Rule):
            raise unknown_name("rule of Attention", self.rule, get_args(Rule))

    @property
    def _groups(self) -> tuple[int, int]:
        """Heads of keys, and heads of queries for each."""
        k = self.key_value_heads or self.heads
        return k, self.heads // k

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """No parameters; queries (T, n), keys and values (S, n key_value_heads / heads) -> (T, n)."""
        if is_shape(shape) or not isinstance(shape, tuple) or len(shape) not in (3, 4):
            raise FbpError(f"Attention must read queries, keys and values, got {shape}; write .of('q', 'k', 'v')")
        q, k, v, *mask = shape
        if any(len(each) != 2 for each in (q, k, v)):
            raise FbpError(f"inputs of Attention must be sequences of vectors, (T, n), got {q}, {k}, {v}; add an axis")
        if q[-1] % self.heads:
            raise FbpError(f"heads of Attention must divide the width, got {self.heads} for {q[-1]}; use a divisor")
        width = q[-1] // self.heads * self._groups[0]
        if k != v or k[-1] != width:
            raise FbpError(
                f"keys and values must have the width {width}, that of {self._groups[0]} heads of "
                f"{q[-1] // self.heads}, got {k} and {v}; make the dense lines before them that wide"
            )
        if self.causal and q[0] != k[0]:
            raise FbpError(
                f"causal attention must have as many queries as keys, got {q[0]} and {k[0]}; set causal=False"
            )
        wanted = list(product((1, self.heads), (1, q[0]), k[:1]))
        if mask and mask[0] not in (k[:1], *wanted):
            raise FbpError(
                f"the mask of Attention must have the shape {k[:1]} or {wanted[-1]}, got {mask[0]}; "
                "give one entry for each key"
            )
        return (), q

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """O; caches the inputs, and P or (O, the logarithms of the sums)."""
        q, k, v, *mask = A
        if mask and mask[0].dtype != bool:
            raise FbpError(
                f"the mask of Attention must be boolean, true for the keys that count, got {mask[0].dtype}; "
                "write tokens != padding"
            )
        heads = self._split_heads(q, k, v, *mask)
        if self._is_lean(k.shape[1]):
            O, L = _forward_lean(heads, self.causal)
            out = self._merge(O, q)
            return out, (tuple(A), out, L)
        O, P = _forward_plain(heads, self.causal)
        return self._merge(O, q), (tuple(A), P)

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """(dq, dk, dv), and None for a mask."""
        (q, k, v, *mask), *kept = cache
        heads = self._split_heads(q, k, v, *mask)
        dO = self._split(dA_out, self.heads)
        if self._is_lean(k.shape[1]):
            out, L = kept
            D = _row_sums(dO, self._split(out, self.heads))
            gradients = _backward_lean(heads, L, D, dO, self.causal)
        else:
            gradients = _backward_plain(heads, kept[0], dO)
        merged = [self._merge(d, x) for d, x in zip(gradients, (q, k, v), strict=True)]
        return (), (*merged, *(None for _ in mask))

    def _is_lean(self, keys: int) -> bool:
        return self.rule == "lean" or (self.rule == "auto" and keys >= LEAN_FROM)

    def _split_heads(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> "_Heads":
        Q, K, V = self._split(q, self.heads), self._split(k), self._split(v)
        if mask is not None and mask.ndim == 2:
            mask = mask[:, None, None, None, :]
        elif mask is not None:
            groups = (1, 1) if mask.shape[1] == 1 else self._groups
            mask = mask.reshape(mask.shape[0], *groups, *mask.shape[2:])
        return _Heads(Q, K, V, mask, 1 / math.sqrt(Q.shape[-1]) if self.scale is None else self.scale)

    def _split(self, x: Float[Array, "m T n"], heads: int | None = None) -> Float[Array, "m k g T d"]:
        k, g = self._groups if heads else (self._groups[0], 1)
        return jnp.transpose(x.reshape(*x.shape[:2], k, g, -1), (0, 2, 3, 1, 4))

    @staticmethod
    def _merge(x: Float[Array, "m k g T d"], like: Float[Array, "m T n"]) -> Float[Array, "m T n"]:
        return jnp.transpose(x, (0, 3, 1, 2, 4)).reshape(like.shape).astype(like.dtype)

    @property
    def recomputes(self) -> bool:
        """True for the lean rule, which keeps its output."""
        return self.rule == "lean"

    def recompute(self, params: Params, cache: Cache) -> Activations:
        """O, which is kept."""
        return cache[1]


class _Heads(NamedTuple):
    """Queries (m, k, g, T, d), keys and values (m, k, 1, S, d), the factor of the scores, and which keys count."""

    Q: Array
    K: Array
    V: Array
    mask: Bool[Array, "_m _k _g _T S"] | None
    scale: float


def _times_transposed(x: Array, y: Array) -> Array:
    """x y^T over the last axis, in at least float32."""
    return jnp.einsum("mkgtd,mkgsd->mkgts", x, _like(y, x), preferred_element_type=widen(x).dtype)


def _times(P: Array, y: Array) -> Array:
    """P y."""
    return jnp.einsum("mkgts,mkgsd->mkgtd", P.astype(y.dtype), _like(y, P), preferred_element_type=P.dtype)


def _transposed_times(P: Array, y: Array) -> Array:
    """P^T y, summed over the heads that share a head of keys."""
    product = jnp.einsum("mkgts,mkgtd->mksd", P.astype(y.dtype), y, preferred_element_type=P.dtype)
    return product[:, :, None]


def _like(y: Array, x: Array) -> Array:
    return jnp.broadcast_to(y, (*x.shape[:3], *y.shape[3:]))


def _row_sums(x: Array, y: Array) -> Float[Array, "m k g T"]:
    return jnp.sum(widen(x) * widen(y), axis=-1)


def _hide(S: Array, visible: Array | None) -> Array:
    return S if visible is None else jnp.where(visible, S, -jnp.inf)


def _visible(causal: bool, rows: Any, columns: Any, mask: Array | None) -> Bool[Array, "_m _k _g _T S"] | None:
    """Which keys (columns) each query (rows) sees; None for all."""
    seen = (rows[:, None] >= columns[None, :])[None, None, None] if causal else None
    if mask is None:
        return seen
    return mask if seen is None else jnp.logical_and(seen, mask)


def _forward_plain(heads: _Heads, causal: bool) -> tuple[Array, Array]:
    T, S = heads.Q.shape[3], heads.K.shape[3]
    visible = _visible(causal, np.arange(T), np.arange(S), heads.mask)
    scores = _hide(_times_transposed(heads.Q, heads.K) * heads.scale, visible)
    largest = jnp.max(scores, axis=-1, keepdims=True)
    E = jnp.exp(scores - jnp.where(jnp.isfinite(largest), largest, jnp.zeros_like(largest)))
    total = jnp.sum(E, axis=-1, keepdims=True)
    P = E / jnp.where(total == 0, jnp.ones_like(total), total)
    return _times(P, heads.V), P


def _backward_plain(heads: _Heads, P: Array, dO: Array) -> tuple[Array, Array, Array]:
    dV = _transposed_times(P, dO)
    dP = _times_transposed(dO, heads.V)
    D = jnp.sum(dP * P, axis=-1, keepdims=True)
    dS = P * (dP - D) * heads.scale
    return _times(dS, heads.K), _transposed_times(dS, heads.Q), dV


class _Blocks:
    """The sequences cut into blocks of equal length, the last one filled up with zeros.

    Args:
        heads: the sequences.
        causal: whether a query sees no later keys.
    """

    def __init__(self, heads: _Heads, causal: bool):
        self.causal, self.scale = causal, heads.scale
        self.T, self.S = heads.Q.shape[3], heads.K.shape[3]
        self.size = min(BLOCK, max(self.T, self.S))
        self.rows, self.columns = -(-self.T // self.size), -(-self.S // self.size)
        self.Q, self.K, self.V = self.cut(heads.Q), self.cut(heads.K), self.cut(heads.V)
        mask = heads.mask
        if mask is None and self.S % self.size:
            mask = jnp.ones((1, 1, 1, 1, self.S), bool)
        if mask is not None:
            # Keys that fill up the last block count for nobody.
            mask = self._pad(mask, 4)
            mask = mask if mask.shape[3] == 1 else self._pad(mask, 3)
        self.mask = mask

    def _pad(self, x: Array, axis: int) -> Array:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, -x.shape[axis] % self.size)
        return jnp.pad(x, widths)

    def cut(self, x: Float[Array, "m k g T ..."]) -> Float[Array, "blocks m k g size ..."]:
        padded = self._pad(x, 3)
        return jnp.moveaxis(padded.reshape(*x.shape[:3], -1, self.size, *x.shape[4:]), 3, 0)

    def join(self, x: Float[Array, "blocks m k g size ..."], length: int) -> Float[Array, "m k g length ..."]:
        whole = jnp.moveaxis(x, 0, 3)
        return whole.reshape(*whole.shape[:3], -1, *whole.shape[5:])[:, :, :, :length]

    def _mask_of(self, i: Array, j: Array) -> Array | None:
        if self.mask is None:
            return None
        keys = jax.lax.dynamic_slice_in_dim(self.mask, j * self.size, self.size, axis=4)
        return keys if keys.shape[3] == 1 else jax.lax.dynamic_slice_in_dim(keys, i * self.size, self.size, axis=3)

    def scores(self, Q: Array, i: Array, j: Array) -> Array:
        """Those of the queries of block i against the keys of block j."""
        places = jnp.arange(self.size)
        visible = _visible(self.causal, i * self.size + places, j * self.size + places, self._mask_of(i, j))
        return _hide(_times_transposed(Q, _at(self.K, j)) * self.scale, visible)


def _at(x: Array, i: Array, axis: int = 0) -> Array:
    return jax.lax.dynamic_index_in_dim(x, i, axis, keepdims=False)


def _forward_lean(heads: _Heads, causal: bool) -> tuple[Array, Float[Array, "m k g T"]]:
    """O, and L = log sum exp of each query's scores: infinite for a query that sees no key, whose P is then zero."""
    blocks = _Blocks(heads, causal)

    def run_row(_: None, row: tuple[Array, Array]) -> tuple[None, tuple[Array, Array]]:
        i, Q = row

        def add_block(state: tuple[Array, Array, Array], j: Array) -> tuple[Array, Array, Array]:
            largest, total, O = state
            S = blocks.scores(Q, i, j)
            new = jnp.maximum(largest, jnp.max(S, axis=-1))
            base = jnp.where(jnp.isfinite(new), new, jnp.zeros_like(new))
            E, shrink = jnp.exp(S - base[..., None]), jnp.exp(largest - base)
            return new, total * shrink + jnp.sum(E, axis=-1), O * shrink[..., None] + _times(E, _at(blocks.V, j))

        nothing = jnp.full(Q.shape[:-1], -jnp.inf, widen(Q).dtype)
        start = nothing, jnp.zeros_like(nothing), jnp.zeros(Q.shape, nothing.dtype)
        # A loop of fixed length, so that autodiff, the judge, can pass through it.
        see = lambda state, j: (jax.lax.cond(j <= i, add_block, lambda state, j: state, state, j), None)
        all_see = lambda state, j: (add_block(state, j), None)
        (largest, total, O), _ = jax.lax.scan(see if causal else all_see, start, jnp.arange(blocks.columns))
        empty = total == 0
        safe = jnp.where(empty, jnp.ones_like(total), total)
        L = jnp.where(empty, jnp.inf, largest + jnp.log(safe))
        return None, ((O / safe[..., None]).astype(Q.dtype), L)

    _, (O, L) = jax.lax.scan(run_row, None, (jnp.arange(blocks.rows), blocks.Q))
    return blocks.join(O, blocks.T), blocks.join(L, blocks.T)


def _backward_lean(heads: _Heads, L: Array, D: Array, dO: Array, causal: bool) -> tuple[Array, Array, Array]:
    """(dQ, dK, dV), one block of keys after the other, and for each the blocks of queries that see it."""
    blocks = _Blocks(heads, causal)
    # Queries that fill up the last block have dO = 0 and D = 0, so that they add nothing.
    Ls, Ds, dOs = blocks.cut(L), blocks.cut(D), blocks.cut(dO)

    def run_column(dQ: Array, column: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        j, K, V = column

        def add_block(i: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            dQ, dK, dV = state
            Q, own_dO = _at(blocks.Q, i), _at(dOs, i)
            P = jnp.exp(blocks.scores(Q, i, j) - _at(Ls, i)[..., None])
            dP = _times_transposed(own_dO, V)
            dS = P * (dP - _at(Ds, i)[..., None]) * blocks.scale
            dQ = jax.lax.dynamic_update_index_in_dim(dQ, _at(dQ, i) + _times(dS, K), i, 0)
            return dQ, dK + _transposed_times(dS, Q), dV + _transposed_times(P, own_dO)

        zeros = jnp.zeros(K.shape, dQ.dtype)
        dQ, dK, dV = jax.lax.fori_loop(j if causal else 0, blocks.rows, add_block, (dQ, zeros, zeros))
        return dQ, (dK, dV)

    start = jnp.zeros(blocks.Q.shape, widen(blocks.Q).dtype)
    dQ, (dK, dV) = jax.lax.scan(run_column, start, (jnp.arange(blocks.columns), blocks.K, blocks.V))
    return blocks.join(dQ, blocks.T), blocks.join(dK, blocks.S), blocks.join(dV, blocks.S)


@dataclass(frozen=True)
class Rotary(Layer):
    """Rotates pairs of entries of queries or keys by an angle linear in the position. Su et al. (2021).

    Entry i and i + d/2 of each head, at position t, by the angle t base^(-2i/d). A rotation is orthogonal: backward
    rotates by the opposite angle and keeps nothing.

    Attributes:
        heads: of its input, whose widths must be even.
        base: of the geometric sequence of wavelengths.

    Example:
        >>> net = fbp.Network(q=fbp.Dense(8), turned=fbp.Rotary(heads=2))
        >>> net.init(jax.random.key(0), (5, 8))[1]
        (5, 8)
    """

    heads: int
    base: float = 10000.0

    def __post_init__(self) -> None:
        check_count("heads of Rotary", self.heads)

    def init(self, key: Key, shape: Shape) -> tuple[Params, Shape]:
        """No parameters, and the same shape (T, n)."""
        if not is_shape(shape) or len(shape) != 2 or shape[-1] % (2 * self.heads):
            raise FbpError(
                f"examples of Rotary must be sequences of {self.heads} heads of even width, (T, n), got the shape "
                f"{shape}; use fewer heads, or a larger width"
            )
        return (), shape

    def forward(self, params: Params, A: Activations, key: Key | None = None) -> tuple[Activations, Cache]:
        """A, rotated; keeps nothing."""
        return self._rotate(A, 1), None

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """dA_out, rotated back."""
        return (), self._rotate(dA_out, -1)

    def _rotate(self, A: Float[Array, "m T n"], sign: int) -> Array:
        m, T, n = A.shape
        half = n // self.heads // 2
        angle = np.arange(T)[:, None] * self.base ** (-np.arange(half) / half)
        cos, sin = (jnp.asarray(each, A.dtype)[None, :, None] for each in (np.cos(angle), sign * np.sin(angle)))
        heads = A.reshape(m, T, self.heads, 2, half)
        x, y = heads[..., 0, :], heads[..., 1, :]
        return jnp.stack([x * cos - y * sin, x * sin + y * cos], axis=-2).reshape(m, T, n)
