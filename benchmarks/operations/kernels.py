"""Pallas kernels in interpret mode, each with a hand-written `jax.custom_vjp` rule and the same in plain JAX."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from operations.operation import Operation, normal, op

ROWS = 2
"""Rows of a tile."""


def run_by_rows(kernel: Callable[..., None], x: Any, *whole: Any, like: Any = None) -> Any:
    """A kernel over tiles of rows; arguments after the first are given to each tile as a whole."""
    out = x if like is None else like
    tile = lambda a: pl.BlockSpec((ROWS, *a.shape[1:]), lambda i: (i, *[0] * (a.ndim - 1)))
    full = lambda a: pl.BlockSpec(a.shape, lambda i: (0,) * a.ndim)
    return pl.pallas_call(
        kernel,
        grid=(x.shape[0] // ROWS,),
        in_specs=[tile(x), *(tile(a) if a.ndim > 1 and a.shape[0] == x.shape[0] else full(a) for a in whole)],
        out_specs=tile(out),
        out_shape=jax.ShapeDtypeStruct(out.shape, out.dtype),
        interpret=True,
    )(x, *whole)


def wide(x: Any) -> Any:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def fuse(compute: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel that computes a function of its tiles in float32 at least."""

    def kernel(*refs: Any) -> None:
        *inputs, out = refs
        out[...] = compute(*(wide(ref[...]) for ref in inputs)).astype(out.dtype)

    return partial(run_by_rows, kernel)


@jax.custom_vjp
def add(x: Any, y: Any) -> Any:
    return fuse(jnp.add)(x, y)


add.defvjp(lambda x, y: (add(x, y), None), lambda _, d: (d, d))


def multiply_tiles(x: Any, y: Any) -> Any:
    """A product of matrices, accumulated over tiles of the inner dimension."""

    def kernel(x_ref: Any, y_ref: Any, out: Any) -> None:
        @pl.when(pl.program_id(1) == 0)
        def clear() -> None:
            out[...] = jnp.zeros_like(out)

        out[...] += (wide(x_ref[...]) @ wide(y_ref[...])).astype(out.dtype)

    m, k, n = *x.shape, y.shape[1]
    return pl.pallas_call(
        kernel,
        grid=(m // ROWS, k // 2),
        in_specs=[pl.BlockSpec((ROWS, 2), lambda i, j: (i, j)), pl.BlockSpec((2, n), lambda i, j: (j, 0))],
        out_specs=pl.BlockSpec((ROWS, n), lambda i, j: (i, 0)),
        out_shape=jax.ShapeDtypeStruct((m, n), jnp.promote_types(x.dtype, jnp.float32)),
        interpret=True,
    )(x, y).astype(x.dtype)


@jax.custom_vjp
def multiply(x: Any, y: Any) -> Any:
    return multiply_tiles(x, y)


multiply.defvjp(
    lambda x, y: (multiply_tiles(x, y), (x, y)),
    lambda res, d: (multiply_tiles(d, res[1].T), multiply_tiles(res[0].T, d)),
)


@jax.custom_vjp
def softmax(x: Any) -> Any:
    return fuse(jax.nn.softmax)(x)


def softmax_backward(out: Any, d: Any) -> tuple[Any]:
    return (fuse(lambda p, d: p * (d - jnp.sum(p * d, -1, keepdims=True)))(out, d),)


softmax.defvjp(lambda x: (softmax(x),) * 2, softmax_backward)


def normalize_rows(x: Any, gain: Any, shift: Any) -> Any:
    centred = x - jnp.mean(x, -1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5) * gain + shift


@jax.custom_vjp
def layer_norm(x: Any, gain: Any, shift: Any) -> Any:
    return fuse(normalize_rows)(x, gain, shift)


def layer_norm_backward(residuals: Any, d: Any) -> tuple[Any, Any, Any]:
    x, gain = residuals

    def to_inputs(x: Any, d: Any, gain: Any) -> Any:
        centred = x - jnp.mean(x, -1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)
        hat, d_hat = centred * scale, d * gain
        mean = lambda a: jnp.mean(a, -1, keepdims=True)
        return scale * (d_hat - mean(d_hat) - hat * mean(d_hat * hat))

    hat = normalize_rows(wide(x), 1.0, 0.0)
    d_gain, d_shift = jnp.sum(wide(d) * hat, 0), jnp.sum(wide(d), 0)
    return fuse(to_inputs)(x, d, gain), d_gain.astype(gain.dtype), d_shift.astype(gain.dtype)


layer_norm.defvjp(lambda x, gain, shift: (layer_norm(x, gain, shift), (x, gain)), layer_norm_backward)


@jax.custom_vjp
def gelu(x: Any) -> Any:
    return fuse(partial(jax.nn.gelu, approximate=False))(x)


def gelu_backward(x: Any, d: Any) -> tuple[Any]:
    density = lambda x: jnp.exp(-(x**2) / 2) / (2 * jnp.pi) ** 0.5
    return (fuse(lambda x, d: d * (jax.scipy.special.ndtr(x) + x * density(x)))(x, d),)


gelu.defvjp(lambda x: (gelu(x), x), gelu_backward)


def attend(q: Any, k: Any, v: Any) -> Any:
    return jax.nn.softmax(q @ k.T / q.shape[-1] ** 0.5) @ v


def run_attention(q: Any, k: Any, v: Any) -> Any:
    def kernel(q_ref: Any, k_ref: Any, v_ref: Any, out: Any) -> None:
        out[...] = attend(*(wide(ref[...]) for ref in (q_ref, k_ref, v_ref))).astype(out.dtype)

    rows = pl.BlockSpec((ROWS, q.shape[1]), lambda i: (i, 0))
    whole = lambda a: pl.BlockSpec(a.shape, lambda i: (0, 0))
    shape = jax.ShapeDtypeStruct((q.shape[0], v.shape[1]), q.dtype)
    grid = (q.shape[0] // ROWS,)
    specs = [rows, whole(k), whole(v)]
    return pl.pallas_call(kernel, grid=grid, in_specs=specs, out_specs=rows, out_shape=shape, interpret=True)(q, k, v)


@jax.custom_vjp
def attention(q: Any, k: Any, v: Any) -> Any:
    return run_attention(q, k, v)


def attention_backward(residuals: Any, d: Any) -> tuple[Any, Any, Any]:
    dtype, root = d.dtype, residuals[0].shape[-1] ** 0.5
    q, k, v, d = (wide(x) for x in (*residuals, d))
    p = jax.nn.softmax(q @ k.T / root)
    d_p = d @ v.T
    d_scores = p * (d_p - jnp.sum(p * d_p, -1, keepdims=True)) / root
    return tuple(x.astype(dtype) for x in (d_scores @ k, d_scores.T @ q, p.T @ d))


attention.defvjp(lambda q, k, v: (attention(q, k, v), (q, k, v)), attention_backward)


@jax.custom_vjp
def sum_of_squares(x: Any) -> Any:
    return jnp.sum(fuse(jnp.square)(x), -1)


sum_of_squares.defvjp(
    lambda x: (sum_of_squares(x), x), lambda x, d: (fuse(lambda x, d: 2 * x * d)(x, d[:, None] + 0 * x),)
)


def swish_gate(x: Any, y: Any) -> Any:
    return jax.nn.silu(x) * y


@jax.custom_vjp
def swiglu(x: Any, y: Any) -> Any:
    return fuse(swish_gate)(x, y)


def swiglu_backward(residuals: Any, d: Any) -> tuple[Any, Any]:
    x, y = residuals
    to_gate = lambda x, y, d: d * y * jax.nn.sigmoid(x) * (1 + x * (1 - jax.nn.sigmoid(x)))
    return fuse(to_gate)(x, y, d), fuse(lambda x, d: d * jax.nn.silu(x))(x, d)


swiglu.defvjp(lambda x, y: (swiglu(x, y), (x, y)), swiglu_backward)

X = normal(4, 6)

TABLE: dict[str, tuple[Operation, ...]] = {
    "pallas": (
        op("add", add, X, normal(4, 6), reference=lambda x, y: x + y),
        op("matmul", multiply, X, normal(6, 4), reference=lambda x, y: (wide(x) @ wide(y)).astype(x.dtype)),
        op("softmax", softmax, X, reference=lambda x: jax.nn.softmax(wide(x)).astype(x.dtype)),
        op(
            "layer norm",
            layer_norm,
            X,
            normal(6),
            normal(6),
            reference=lambda *args: normalize_rows(*map(wide, args)).astype(args[0].dtype),
        ),
        op("gelu", gelu, X, reference=lambda x: jax.nn.gelu(wide(x), approximate=False).astype(x.dtype)),
        op(
            "attention",
            attention,
            normal(4, 4),
            normal(6, 4),
            normal(6, 4),
            reference=lambda *args: attend(*map(wide, args)).astype(args[0].dtype),
        ),
        op("sum of squares", sum_of_squares, X, reference=lambda x: jnp.sum(x**2, -1)),
        op(
            "SwiGLU",
            swiglu,
            X,
            normal(4, 6),
            reference=lambda *args: swish_gate(*map(wide, args)).astype(args[0].dtype),
        ),
    )
}
