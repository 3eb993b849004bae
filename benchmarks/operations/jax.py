"""Operations of jax.numpy, jax.lax, jax.nn, jax.random and the transformations of JAX."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from operations.operation import (
    COMPLEX,
    WIDE,
    Operation,
    booleans,
    complex_normal,
    definite,
    integers,
    key,
    normal,
    op,
    positive,
    probabilities,
    regular,
    separated,
    spread,
    ties,
    tree,
    uniform,
    unit,
)


def draw_dropout(x: Any, key: Any) -> Any:
    return jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x / 0.7, 0)


def relax_categorical(logits: Any, key: Any) -> Any:
    return jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape, jnp.float32).astype(logits.dtype)) / 0.5)


def attend(q: Any, k: Any, v: Any) -> Any:
    scores = jnp.einsum("tnh,snh->nts", q, k) / q.shape[-1] ** 0.5
    causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    return jnp.einsum("nts,snh->tnh", jax.nn.softmax(jnp.where(causal, scores, -jnp.inf)), v)


def normalize_in_float32(x: Any, gain: Any) -> Any:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - jnp.mean(wide, -1, keepdims=True)
    return (centred * lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)).astype(x.dtype) * gain


def run_recurrence(w: Any, u: Any, xs: Any) -> Any:
    def step(h: Any, x: Any) -> Any:
        h = jnp.tanh(h @ w + x @ u)
        return h, h

    return lax.scan(step, jnp.zeros(w.shape[0], w.dtype), xs)[1]


def iterate_newton(a: Any) -> Any:
    return lax.fori_loop(0, 4, lambda i, y: 0.5 * (y + a / y), a)


def choose_branch(x: Any, flag: Any) -> Any:
    return lax.cond(flag[0], jnp.sin, lambda x: x * jnp.cos(x), x)


def double_until_large(x: Any) -> Any:
    """A while loop, of which only the number of rounds depends on x."""
    rounds = lax.while_loop(lambda s: 2.0**s < 10, lambda s: s + 1, jnp.sum(x > 0) * 0 + 1.0)
    return x**2 * lax.stop_gradient(rounds).astype(x.dtype)


def quantize_straight_through(x: Any) -> Any:
    return x * lax.stop_gradient(jnp.round(4 * x) / 4)


@jax.custom_jvp
def add_exponentials(x: Any, y: Any) -> Any:
    return jnp.logaddexp(x, y)


@add_exponentials.defjvp
def add_exponentials_jvp(primals: Any, tangents: Any) -> Any:
    out = add_exponentials(*primals)
    return out, sum(jnp.exp(x - out) * d for x, d in zip(primals, tangents, strict=True))


@jax.custom_vjp
def clip_softly(x: Any) -> Any:
    return 2 * jnp.tanh(x / 2)


clip_softly.defvjp(
    lambda x: (clip_softly(x), clip_softly(x)),
    lambda out, d: (d * (1 - (out / 2) ** 2),),
)


def solve_fixed_point(a: Any, b: Any) -> Any:
    return lax.custom_linear_solve(
        lambda x: a @ x, b, lambda matvec, y: jnp.linalg.solve(a, y), lambda vecmat, y: jnp.linalg.solve(a.T, y)
    )


def pool(kind: str) -> Any:
    start, combine = {"max": (-np.inf, lax.max), "sum": (0.0, lax.add)}[kind]
    return lambda x: lax.reduce_window(x, np.asarray(start, x.dtype), combine, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


convolve = partial(lax.conv_general_dilated, padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

M, V = normal(4, 5), normal(6)

ELEMENTWISE: tuple[tuple[Any, Any], ...] = (
    (jnp.sin, V), (jnp.cos, V), (jnp.tan, uniform(-1, 1, 6)), (jnp.arcsin, uniform(-0.9, 0.9, 6)),
    (jnp.arccos, uniform(-0.9, 0.9, 6)), (jnp.arctan, V), (jnp.sinh, V), (jnp.cosh, V), (jnp.tanh, V),
    (jnp.arcsinh, V), (jnp.arccosh, uniform(1.2, 3, 6)), (jnp.arctanh, uniform(-0.8, 0.8, 6)), (jnp.exp, V),
    (jnp.exp2, V), (jnp.expm1, V), (jnp.log, positive(6)), (jnp.log2, positive(6)), (jnp.log10, positive(6)),
    (jnp.log1p, positive(6)), (jnp.sqrt, positive(6)),
    (jnp.cbrt, positive(6)), (jnp.square, V),
    (jnp.reciprocal, positive(6)),
    (jnp.abs, V), (jnp.sinc, uniform(0.2, 2, 6)),
    (jnp.sign, V), (jnp.floor, V), (jnp.ceil, V), (jnp.round, V), (jnp.trunc, V),
    (jnp.nan_to_num, V), (jnp.deg2rad, V),
)  # fmt: skip

BINARY: tuple[tuple[Any, Any, Any], ...] = (
    (jnp.add, M, normal(5)), (jnp.subtract, M, normal(4, 1)), (jnp.multiply, M, normal(5)),
    (jnp.divide, M, positive(4, 5)),
    (jnp.power, positive(6), V), (jnp.maximum, M, normal(4, 5)), (jnp.minimum, M, ties(4, 5)),
    (jnp.arctan2, V, positive(6)),
    (jnp.hypot, V, positive(6)), (jnp.logaddexp, V, normal(6)), (jnp.logaddexp2, V, normal(6)),
    (jnp.remainder, V, positive(6)), (jnp.fmod, V, positive(6)), (jnp.copysign, V, normal(6)),
    (jnp.heaviside, V, positive(6)),
    (jnp.float_power, positive(6), V),
)  # fmt: skip

NUMPY = (
    *(op(f"jnp.{f.__name__}", f, x) for f, x in ELEMENTWISE),
    *(op(f"jnp.{f.__name__}", f, x, y) for f, x, y in BINARY),
    op("jnp.clip", lambda x: jnp.clip(x, -0.5, 0.7), V),
    op("x ** 3", lambda x: x**3, V),
    op("x * x + 2", lambda x: x * x + 2, V),
    op("jnp.where", lambda c, x, y: jnp.where(c, x, jnp.sin(y)), booleans(4, 5), M, normal(4, 5)),
    op("jnp.piecewise", lambda x: jnp.piecewise(x, [x < 0, x >= 0], [lambda x: x**2, jnp.sin]), V),
    op("jnp.select", lambda x: jnp.select([x < -0.5, x < 0.5], [jnp.exp(x), x**2], jnp.cos(x)), V),
    op("jnp.polyval", jnp.polyval, normal(4), V),
    op(
        "jnp.interp",
        lambda x, fp: jnp.interp(x, jnp.linspace(-2, 2, 7).astype(x.dtype), fp),
        V,
        normal(7),
        dtypes=(*WIDE, "float16"),
    ),
    op("jnp.sum", jnp.sum, M),
    op("jnp.sum, an axis", partial(jnp.sum, axis=0), normal(4, 4)),
    op("jnp.mean", partial(jnp.mean, axis=1), normal(4, 4)),
    op("jnp.max", partial(jnp.max, axis=1), M),
    op("jnp.max of ties", partial(jnp.max, axis=1), ties(4, 8)),
    op("jnp.min", partial(jnp.min, axis=0), M),
    op("jnp.prod", partial(jnp.prod, axis=1), M),
    op("jnp.median", partial(jnp.median, axis=1), spread(4, 5)),
    op("jnp.quantile", lambda x: jnp.quantile(x, 0.3, axis=1), spread(4, 5)),
    op("jnp.var", partial(jnp.var, axis=1, ddof=1), M),
    op("jnp.std", partial(jnp.std, axis=0), M),
    op("jnp.average", lambda x, w: jnp.average(x, 0, w), M, positive(4)),
    op("jnp.ptp", partial(jnp.ptp, axis=1), M),
    op("jnp.nanmean", partial(jnp.nanmean, axis=1), M),
    op("jnp.cumsum", partial(jnp.cumsum, axis=1), M),
    op("jnp.cumprod", partial(jnp.cumprod, axis=1), M),
    op("jnp.diff", partial(jnp.diff, axis=1), M),
    op("jnp.gradient", jnp.gradient, V),
    op("jnp.trapezoid", jnp.trapezoid, M),
    op("jnp.cov", jnp.cov, M),
    op("jnp.corrcoef", jnp.corrcoef, M),
    op("jnp.matmul", jnp.matmul, normal(4, 4), normal(4, 4)),
    op("jnp.dot", jnp.dot, V, normal(6)),
    op("jnp.vdot", jnp.vdot, V, normal(6)),
    op("jnp.inner", jnp.inner, M, normal(3, 5)),
    op("jnp.outer", jnp.outer, normal(4), normal(4)),
    op("jnp.kron", jnp.kron, normal(2, 3), normal(3, 2)),
    op("jnp.cross", jnp.cross, normal(4, 3), normal(4, 3)),
    op("jnp.tensordot", partial(jnp.tensordot, axes=((1, 2), (1, 0))), normal(2, 3, 4), normal(4, 3, 2)),
    op("jnp.einsum", partial(jnp.einsum, "bij,bjk->bki"), normal(2, 3, 3), normal(2, 3, 3)),
    op("jnp.einsum of three", partial(jnp.einsum, "ij,jk,ki->i"), normal(3, 3), normal(3, 3), normal(3, 3)),
    op("jnp.trace", jnp.trace, normal(4, 4)),
    op("jnp.diagonal", jnp.diagonal, normal(4, 4)),
    op("jnp.tril", jnp.tril, normal(4, 4)),
    op("jnp.convolve", jnp.convolve, normal(8), normal(3)),
    op("jnp.linalg.norm", jnp.linalg.norm, M),
    op("jnp.linalg.norm, 1", lambda x: jnp.linalg.norm(x, 1, axis=1), M),
    op("jnp.linalg.inv", jnp.linalg.inv, regular(4), dtypes=WIDE),
    op("jnp.linalg.det", jnp.linalg.det, regular(4), dtypes=WIDE),
    op("jnp.linalg.slogdet", lambda a: jnp.linalg.slogdet(a)[1], regular(4), dtypes=WIDE),
    op("jnp.linalg.solve", jnp.linalg.solve, regular(4), normal(4, 2), dtypes=WIDE),
    op("jnp.linalg.lstsq", lambda a, b: jnp.linalg.lstsq(a, b)[0], normal(6, 3), normal(6), dtypes=WIDE),
    op("jnp.linalg.cholesky", jnp.linalg.cholesky, definite(4), dtypes=WIDE),
    op("jnp.linalg.qr", jnp.linalg.qr, normal(5, 3), dtypes=WIDE),
    op("jnp.linalg.eigvalsh", jnp.linalg.eigvalsh, separated(4), dtypes=WIDE),
    op("jnp.linalg.eigh", lambda a: jnp.linalg.eigh(a)[1] ** 2, separated(4), dtypes=WIDE),
    op("jnp.linalg.svd, values", partial(jnp.linalg.svd, compute_uv=False), regular(4), dtypes=WIDE),
    op("jnp.linalg.pinv", jnp.linalg.pinv, normal(5, 3), dtypes=WIDE),
    op("jnp.linalg.matrix_power", lambda a: jnp.linalg.matrix_power(a, 3), regular(3)),
    op("jnp.linalg.multi_dot", lambda a, b, c: jnp.linalg.multi_dot([a, b, c]), M, normal(5, 3), normal(3, 4)),
    op("x[ids]", lambda x, ids: x[ids], normal(6, 3), integers(6, 9)),
    op("x[i, j]", lambda x, i, j: x[i, j], normal(6, 3), integers(6, 5), integers(3, 5)),
    op("x[1:5:2]", lambda x: x[1:5:2], normal(6, 3)),
    op("x.at[ids].add", lambda x, ids, u: x.at[ids].add(u), normal(6, 3), integers(6, 4), normal(4, 3)),
    op("x.at[2].set", lambda x, u: x.at[2].set(u**2), normal(6, 3), normal(3)),
    op(
        "x.at[ids].multiply",
        lambda x, u: x.at[jnp.array([4, 1, 3])].multiply(u, unique_indices=True),
        normal(6, 3),
        normal(3, 3),
    ),
    op("x.at[ids].max", lambda x, u: x.at[jnp.array([4, 1, 3])].max(u), normal(6, 3), normal(3, 3)),
    op("jnp.take_along_axis", lambda x, i: jnp.take_along_axis(x, i, 1), M, integers(5, 4, 2)),
    op("jnp.sort", partial(jnp.sort, axis=1), spread(4, 5)),
    op("jnp.roll", lambda x: jnp.roll(x, 2, 1) ** 2, M),
    op("jnp.flip", jnp.flip, M),
    op("jnp.rot90", jnp.rot90, normal(4, 4)),
    op("jnp.pad", partial(jnp.pad, pad_width=((1, 2), (0, 1))), M),
    op("jnp.pad, reflect", partial(jnp.pad, pad_width=2, mode="reflect"), M),
    op("jnp.concatenate", lambda x, y: jnp.concatenate([x, jnp.sin(y)], 1), M, normal(4, 2)),
    op("jnp.stack", lambda x, y: jnp.stack([x, y], 1) ** 2, M, normal(4, 5)),
    op("jnp.tile", partial(jnp.tile, reps=(2, 3)), normal(2, 3)),
    op("jnp.repeat", partial(jnp.repeat, repeats=3, axis=0), M),
    op("jnp.transpose", jnp.transpose, normal(4, 4)),
    op("jnp.moveaxis", lambda x: jnp.moveaxis(x, 0, 2), normal(3, 3, 3)),
    op("jnp.broadcast_to", lambda x: jnp.broadcast_to(x, (3, 4, 5)), M),
    op("jnp.meshgrid", jnp.meshgrid, normal(3), normal(3)),
    op("jnp.vander", jnp.vander, normal(4)),
    op("jnp.digitize, a sum", lambda x: x * jnp.digitize(x, jnp.array([-1.0, 0.0, 1.0], x.dtype)), V),
    op("jnp.fft.rfft", lambda x: jnp.abs(jnp.fft.rfft(x)), normal(8), dtypes=WIDE),
    op("jnp.fft.irfft", lambda x: jnp.fft.irfft(jnp.fft.rfft(x) * jnp.arange(5)), normal(8), dtypes=WIDE),
    op("jnp.fft.fft", jnp.fft.fft, complex_normal(8), dtypes=COMPLEX),
    op("jnp.fft.ifft2", jnp.fft.ifft2, complex_normal(4, 4), dtypes=COMPLEX),
    op("jnp.exp, complex", jnp.exp, complex_normal(6), dtypes=COMPLEX),
    op("jnp.abs, complex", jnp.abs, complex_normal(6), dtypes=COMPLEX),
    op("jnp.matmul, complex", jnp.matmul, complex_normal(3, 3), complex_normal(3, 3), dtypes=COMPLEX),
    op("z * conj(w)", lambda z, w: z * jnp.conj(w), complex_normal(6), complex_normal(6), dtypes=COMPLEX),
    op("jnp.angle, complex", jnp.angle, complex_normal(6), dtypes=COMPLEX),
)

LAX = (
    op("lax.cumlogsumexp", partial(lax.cumlogsumexp, axis=1), M),
    op("lax.cummax", partial(lax.cummax, axis=1), M),
    op("lax.rsqrt", lax.rsqrt, positive(6)),
    op("lax.integer_pow", lambda x: lax.integer_pow(x, -2), positive(6)),
    op("lax.top_k", lambda x: lax.top_k(x, 3)[0], spread(4, 5)),
    op("lax.dynamic_slice", lambda x, i: lax.dynamic_slice(x, tuple(i), (3, 2)), normal(6, 4), integers(3, 2)),
    op(
        "lax.dynamic_update_slice",
        lambda x, u, i: lax.dynamic_update_slice(x, u, tuple(i)),
        normal(6, 4),
        normal(3, 2),
        integers(3, 2),
    ),
    op("lax.rev", lambda x: lax.rev(x, (1,)) ** 2, M),
    op("lax.pad", lambda x: lax.pad(x, jnp.zeros((), x.dtype), ((1, 0, 2), (0, -1, 0))), M),
    op(
        "lax.dot_general",
        partial(lax.dot_general, dimension_numbers=(((2,), (1,)), ((0,), (0,)))),
        normal(2, 3, 3),
        normal(2, 3, 3),
    ),
    op(
        "preferred_element_type",
        lambda x, y: lax.dot(x, y, preferred_element_type=jnp.promote_types(x.dtype, "float32")),
        normal(4, 6),
        normal(6, 3),
    ),
    op("lax.conv", partial(convolve, window_strides=(1, 1)), normal(2, 5, 5, 2), normal(3, 3, 2, 3)),
    op(
        "lax.conv, strides",
        lambda x, w: convolve(x, w, window_strides=(2, 2), rhs_dilation=(1, 2)),
        normal(2, 6, 6, 2),
        normal(2, 2, 2, 3),
    ),
    op(
        "lax.conv, groups",
        lambda x, w: convolve(x, w, window_strides=(1, 1), feature_group_count=2),
        normal(2, 4, 4, 4),
        normal(3, 3, 2, 4),
    ),
    op("lax.conv_transpose", lambda x, w: lax.conv_transpose(x, w, (2,), "SAME"), normal(2, 4, 2), normal(3, 2, 2)),
    op("max pooling", pool("max"), normal(1, 4, 4, 2)),
    op("average pooling", lambda x: pool("sum")(x) / 4, normal(1, 4, 4, 2)),
    op("lax.scan", run_recurrence, normal(4, 4), normal(3, 4), normal(5, 3)),
    op(
        "lax.scan in reverse",
        lambda x: lax.scan(lambda c, x: (c * 0.5 + x, jnp.sin(c) * x), jnp.zeros((), x.dtype), x, reverse=True),
        V,
    ),
    op("lax.scan of a carry", lambda x: lax.scan(lambda c, _: (jnp.sin(c) * 1.5, None), x, None, 4)[0], V),
    op("lax.fori_loop", iterate_newton, positive(6)),
    op("lax.cond", choose_branch, V, lambda draw: draw.random(1) < 0.5),
    op("lax.switch", lambda x, i: lax.switch(i[0], [jnp.sin, jnp.exp, jnp.square], x), V, integers(3, 1)),
    op("lax.while_loop, of constants", double_until_large, V),
    op("lax.map", lambda w, xs: lax.map(lambda x: jnp.tanh(w @ x), xs), normal(3, 3), normal(4, 3)),
    op("lax.associative_scan", lambda x: lax.associative_scan(jnp.multiply, x), normal(8)),
    op("lax.reduce", lambda x: lax.reduce(x, jnp.ones((), x.dtype), lax.mul, (1,)), normal(4, 3)),
    op("lax.stop_gradient", quantize_straight_through, V),
    op("lax.custom_linear_solve", solve_fixed_point, regular(4), normal(4), dtypes=WIDE),
    op(
        "lax.linalg.triangular_solve",
        lambda a, b: lax.linalg.triangular_solve(a, b, left_side=True, lower=True),
        regular(4),
        normal(4, 2),
        dtypes=WIDE,
    ),
    op("jax.checkpoint", jax.checkpoint(lambda x, w: jnp.tanh(jnp.tanh(x @ w) @ w)), normal(4, 4), normal(4, 4)),
    op(
        "jax.checkpoint in scan",
        lambda x, w: lax.scan(jax.checkpoint(lambda c, w: (jnp.tanh(c @ w), None)), x, w)[0],
        normal(2, 4),
        normal(3, 4, 4),
    ),
    op("jax.vmap", jax.vmap(lambda x, a: jnp.linalg.norm(x) * a), M, normal(4)),
    op("jax.jit", jax.jit(lambda x, y: jnp.sin(x) * jnp.cos(y)), M, normal(4, 5)),
    op("jax.grad in a loss", lambda x: jax.grad(lambda x: jnp.sum(jnp.tanh(x) ** 2))(x), V),
    op("jax.jvp in a loss", lambda x, v: jax.jvp(jnp.tanh, (x,), (v,))[1], V, normal(6)),
    op("jax.custom_jvp", add_exponentials, V, normal(6)),
    op("jax.custom_vjp", clip_softly, V),
    op("jax.ops.segment_sum", lambda x, i: jax.ops.segment_sum(x, i, 4), normal(8, 3), integers(4, 8)),
    op("jax.ops.segment_max", lambda x: jax.ops.segment_max(x, jnp.arange(8) // 2, 4), normal(8, 3)),
    op("jax.image.resize", lambda x: jax.image.resize(x, (7, 5), "bilinear"), normal(4, 4)),
    op("jax.image.resize, cubic", lambda x: jax.image.resize(x, (3, 6), "cubic"), normal(5, 5)),
    op("norm in float32", normalize_in_float32, normal(4, 8), normal(8)),
    op(
        "softmax in float32",
        lambda x: jax.nn.softmax(x.astype(jnp.promote_types(x.dtype, "float32"))).astype(x.dtype),
        M,
    ),
    op("a tree of arrays", lambda p: jnp.tanh(p["x"] @ p["w"] + p["b"]), tree(x=M, w=normal(5, 3), b=normal(3))),
    op("an unused leaf", lambda p: p["w"] ** 2, tree(w=M, unused=normal(3))),
    op("zero by symmetry", lambda x, b: jax.nn.softmax(x + b), M, normal(4, 1)),
)

ACTIVATIONS = (
    jax.nn.relu, jax.nn.relu6, jax.nn.sigmoid, jax.nn.softplus, jax.nn.silu, jax.nn.elu, jax.nn.celu, jax.nn.selu,
    jax.nn.mish,
    jax.nn.log_sigmoid, jax.nn.leaky_relu, jax.nn.hard_sigmoid, jax.nn.hard_silu, jax.nn.hard_tanh, jax.nn.soft_sign,
    jax.nn.squareplus, jax.nn.sparse_plus, jax.nn.sparse_sigmoid,
)  # fmt: skip

NN = (
    *(op(f"jax.nn.{f.__name__}", f, M) for f in ACTIVATIONS),
    op("jax.nn.gelu, tanh", partial(jax.nn.gelu, approximate=True), M),
    op("jax.nn.gelu", partial(jax.nn.gelu, approximate=False), M),
    op("jax.nn.log1mexp", jax.nn.log1mexp, positive(6)),
    op("jax.nn.logmeanexp", jax.nn.logmeanexp, M),
    op("jax.nn.softmax", partial(jax.nn.softmax, axis=0), normal(4, 4)),
    op(
        "jax.nn.softmax, where",
        lambda x, c: jax.nn.softmax(x, where=c.at[:, 0].set(True)),
        M,
        lambda draw: jnp.asarray(booleans(4, 5)(draw)),
    ),
    op("jax.nn.log_softmax", jax.nn.log_softmax, M),
    op("jax.nn.logsumexp", lambda x, b: jax.nn.logsumexp(x, 1, b), M, positive(4, 5)),
    op("jax.nn.standardize", jax.nn.standardize, M),
    op("jax.nn.glu", jax.nn.glu, normal(4, 6)),
    op("jax.nn.one_hot", lambda ids, w: jax.nn.one_hot(ids, 5, dtype=w.dtype) @ w, integers(5, 4), normal(5, 3)),
    op("jax.nn.dot_product_attention", jax.nn.dot_product_attention, normal(4, 2, 4), normal(4, 2, 4), normal(4, 2, 4)),
    op("attention, causal", attend, normal(4, 2, 4), normal(4, 2, 4), normal(4, 2, 4)),
    op(
        "cross-entropy of integers",
        lambda z, y: -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], 1),
        M,
        integers(5, 4),
    ),
    op("cross-entropy of labels", lambda z, y: -jnp.sum(y * jax.nn.log_softmax(z), 1), M, probabilities(4, 5)),
)

RANDOM = (
    op("dropout", draw_dropout, M, key),
    op("Gumbel softmax", relax_categorical, M, key),
    op(
        "normal, reparametrized",
        lambda m, s, key: m + s * jax.random.normal(key, m.shape, m.dtype),
        V,
        positive(6),
        key,
    ),
    op("jax.random.exponential", lambda s, key: s * jax.random.exponential(key, s.shape, s.dtype), positive(6), key),
    op("jax.random.permutation", lambda x, key: jax.random.permutation(key, x) * jnp.arange(6).astype(x.dtype), V, key),
    op(
        "jax.random.multivariate_normal",
        lambda m, c, key: jax.random.multivariate_normal(key, m, c),
        normal(3),
        definite(3),
        key,
        dtypes=WIDE,
    ),
    op("noise, a uniform number", lambda x, u: jnp.sin(x + u), V, unit(6), argnums=(0,)),
)

TABLE: dict[str, tuple[Operation, ...]] = {"jax.numpy": NUMPY, "jax.lax": LAX, "jax.nn": NN, "jax.random": RANDOM}
