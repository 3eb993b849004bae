"""Attention over arrays (batch, positions, heads, width of a head), as `jax.nn.dot_product_attention` takes them."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fbp.errors import FbpError
from fbp.functional.rule import Late, apply_rule, as_floating
from fbp.layers import Attention, Rotary
from fbp.layers.attention import Rule


def dot_product_attention(
    query: Float[Array, "*B T N H"],
    key: Float[Array, "*B S K H"],
    value: Float[Array, "*B S K H"],
    mask: Bool[Array, "..."] | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    rule: Rule = "lean",
) -> Float[Array, "*B T N H"]:
    """softmax(scale Q K^T) V for each head: as `jax.nn.dot_product_attention`, without a bias.

        dV = P^T dO,    dP = dO V^T,    dS = P (dP - row sums of dO O),    dQ = scale dS K,    dK = scale dS^T Q

    The lean rule keeps O and the logarithms of the sums, and makes P again, in blocks of 64 queries and keys; the plain
    rule keeps P, T S entries for each head. Scores and softmax are taken in at least float32. Forward mode is not
    defined. Vaswani et al. (2017); Dao (2023).

    Args:
        query: (B, T, N, H), or (T, N, H) for one example.
        key: (B, S, K, H), where K divides N: each head of keys serves N / K heads of queries.
        value: in the shape of key.
        mask: booleans that broadcast to (B, N, T, S), without B for one example; true where a query sees a key. Where
            it sees none the result is zero.
        is_causal: whether query t sees only the keys s <= t.
        scale: the factor of the scores, a Python number; None for 1 / sqrt(H).
        rule: "lean", "plain", or "auto": lean from 32 keys on.

    Returns:
        An array like query.

    Raises:
        FbpError: shapes or dtypes do not fit.

    Example:
        >>> q, k, v = (jax.random.normal(jax.random.key(i), (2, 5, 4, 8)) for i in range(3))
        >>> ours = fbp.functional.dot_product_attention(q, k, v, is_causal=True)
        >>> bool(jnp.allclose(ours, jax.nn.dot_product_attention(q, k, v, is_causal=True), atol=1e-5))
        True
    """
    arrays = [as_floating(f"{name} of dot_product_attention", x) for name, x in (("query", query), ("key", key))]
    arrays.append(as_floating("value of dot_product_attention", value))
    _check_shapes(*arrays)
    single = arrays[0].ndim == 3
    if single:
        arrays = [x[None] for x in arrays]
    q, k, _ = arrays
    lines: list[Any] = [x.reshape(*x.shape[:2], -1) for x in arrays]
    if mask is not None:
        lines.append(_as_mask(mask, single, (q.shape[0], q.shape[2], q.shape[1], k.shape[1])))
    layer = Attention(q.shape[2], k.shape[2], bool(is_causal), rule, scale)
    out = apply_rule(Late(layer), (), tuple(lines)).reshape(q.shape)
    return out[0] if single else out


def _check_shapes(q: Array, k: Array, v: Array) -> None:
    fits = q.ndim in (3, 4) and k.ndim == q.ndim and k.shape == v.shape
    if not fits or q.shape[:-3] != k.shape[:-3] or q.shape[-1] != k.shape[-1] or q.shape[-2] % max(1, k.shape[-2]):
        raise FbpError(
            "query, key and value of dot_product_attention must have the shapes (B, T, N, H) and twice (B, S, K, H) "
            f"where K divides N, or those without B, got {q.shape}, {k.shape} and {v.shape}; split the heads by reshape"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise FbpError(
            f"query, key and value of dot_product_attention must have one dtype, got {q.dtype}, {k.dtype} and "
            f"{v.dtype}; convert them"
        )


def _as_mask(mask: Any, single: bool, shape: tuple[int, ...]) -> Array:
    """The mask as (B or 1, N or 1, T or 1, S)."""
    mask = jnp.asarray(mask)
    wanted = shape[1:] if single else shape
    fits = mask.ndim == len(wanted) and all(n in (1, full) for n, full in zip(mask.shape, wanted, strict=True))
    if not fits or mask.dtype != bool:
        raise FbpError(
            f"mask of dot_product_attention must be booleans that broadcast to {wanted}, got {mask.dtype} "
            f"{mask.shape}; write mask[:, None, None, :] for one entry a key"
        )
    mask = mask[None] if single else mask
    return jnp.broadcast_to(mask, (*mask.shape[:-1], shape[-1]))


def rotary(x: Float[Array, "*B T N H"], base: float = 10000.0) -> Float[Array, "*B T N H"]:
    """Entries i and i + H/2 of each head, at position t, rotated by the angle t base^(-2i/H).

    Backward rotates by the opposite angle; nothing is kept. Forward mode is not defined. Su et al. (2021).

    Args:
        x: queries or keys, (B, T, N, H), or (T, N, H) for one example; H is even.
        base: of the geometric sequence of wavelengths; a Python number.

    Returns:
        An array like x.

    Raises:
        FbpError: the shape does not fit, or x is not floating point.

    Example:
        >>> x = jnp.ones((5, 2, 4))
        >>> bool(jnp.allclose(jnp.linalg.norm(fbp.functional.rotary(x), axis=-1), 2))
        True
    """
    x = as_floating("x of rotary", x)
    if x.ndim not in (3, 4) or x.shape[-1] % 2:
        raise FbpError(f"x of rotary must have the shape (B, T, N, H) or (T, N, H), H even, got {x.shape}; split heads")
    T, N = x.shape[-3:-1]
    return apply_rule(Rotary(N, base), (), x.reshape(-1, T, N * x.shape[-1])).reshape(x.shape)
