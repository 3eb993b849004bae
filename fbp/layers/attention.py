"""Attention without parameters, between dense lines, and rotary positions. Its rules are in attention_rules.py."""

import math
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from fbp.errors import FbpError, check_count, unknown_name
from fbp.layers.attention_rules import Sequences, backward_lean, backward_plain, forward_lean, forward_plain
from fbp.layers.axes import is_shape
from fbp.typing import Activations, Cache, Key, Layer, Params, Shape

Rule = Literal["auto", "plain", "lean"]
LEAN_FROM = 32
"""The number of keys from which "auto" takes the lean rule (see benchmarks/README.md)."""


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
        sequences = self._split(q, k, v, *mask)
        if self._is_lean(k.shape[1]):
            O, L = forward_lean(sequences)
            out = self._merge(O, q)
            return out, (tuple(A), out, L)
        O, P = forward_plain(sequences)
        return self._merge(O, q), (tuple(A), P)

    def backward(self, params: Params, cache: Cache, dA_out: Activations) -> tuple[Params, Activations]:
        """(dq, dk, dv), and None for a mask."""
        (q, k, v, *mask), *kept = cache
        sequences, dO = self._split(q, k, v, *mask), self._split_queries(dA_out)
        if self._is_lean(k.shape[1]):
            out, L = kept
            dQ, dK, dV = backward_lean(sequences, self._split_queries(out), L, dO)
        else:
            dQ, dK, dV = backward_plain(sequences, kept[0], dO)
        dk, dv = (d.reshape(x.shape).astype(x.dtype) for d, x in ((dK, k), (dV, v)))
        return (), (self._merge(dQ, q), dk, dv, *(None for _ in mask))

    def _is_lean(self, keys: int) -> bool:
        return self.rule == "lean" or (self.rule == "auto" and keys >= LEAN_FROM)

    def _split(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Sequences:
        Q = self._split_queries(q)
        heads, group = self._groups
        K, V = (x.reshape(*x.shape[:2], heads, -1) for x in (k, v))
        if mask is not None and mask.ndim == 2:
            mask = mask[:, None, None, :]
        elif mask is not None and group > 1:
            # (m, k g, T, S) -> (m, k, T g, S)
            m, _, T, S = mask.shape
            mask = jnp.broadcast_to(mask, (m, self.heads, T, S)).reshape(m, heads, group, T, S)
            mask = jnp.broadcast_to(mask, (m, heads, group, q.shape[1], S))
            mask = jnp.swapaxes(mask, 2, 3).reshape(m, heads, -1, S)
        scale = 1 / math.sqrt(Q.shape[-1]) if self.scale is None else self.scale
        return Sequences(Q, K, V, mask, scale, self.causal, group)

    def _split_queries(self, x: Float[Array, "m T n"]) -> Float[Array, "m R k d"]:
        """(m, T, k g d) -> (m, T g, k, d)."""
        heads, group = self._groups
        split = x.reshape(*x.shape[:2], heads, group, -1)
        return jnp.swapaxes(split, 2, 3).reshape(x.shape[0], -1, heads, split.shape[-1])

    def _merge(self, x: Float[Array, "m R k d"], like: Float[Array, "m T n"]) -> Float[Array, "m T n"]:
        """The inverse of `_split_queries`, in the dtype of an array."""
        heads, group = self._groups
        split = x.reshape(*like.shape[:2], group, heads, -1)
        return jnp.swapaxes(split, 2, 3).reshape(like.shape).astype(like.dtype)

    @property
    def recomputes(self) -> bool:
        """True for the lean rule, which keeps its output."""
        return self.rule == "lean"

    def recompute(self, params: Params, cache: Cache) -> Activations:
        """O, which is kept."""
        return cache[1]


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
