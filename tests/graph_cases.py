"""Primitives of JAX, each in functions that call it: what the table of local rules is compared on.

A row is (primitive, function, arguments): an argument is a shape with the range of its entries, or an array as it is.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name


class Arg(NamedTuple):
    """Random entries in a range, or normal ones."""

    shape: tuple[int, ...]
    low: float | None = None
    high: float = 1.0

    def draw(self, seed, dtype):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=self.shape) if self.low is None else rng.uniform(self.low, self.high, self.shape)
        return jnp.asarray(x, dtype)


def draw(args, dtype):
    return [a.draw(i, dtype) if isinstance(a, Arg) else jnp.asarray(a) for i, a in enumerate(args)]


M, N, S = Arg((3, 4)), Arg((3, 4)), Arg(())
POSITIVE, UNIT, OPEN = Arg((3, 4), 0.3, 2.0), Arg((3, 4), -0.9, 0.9), Arg((3, 4), 0.1, 0.9)
LARGE = Arg((3, 4), 1.2, 3.0)
ALONE = jax.sharding.NamedSharding(jax.make_mesh((1,), ("m",)), jax.sharding.PartitionSpec())
ONE = np.int32(1)
IDX = np.array([[0], [2], [1], [2]], np.int32)


def dot(x, y, contract, batch=((), ()), **kwargs):
    return lax.dot_general(x, y, (contract, batch), **kwargs)


def conv(x, w, strides, padding, **kwargs):
    return lax.conv_general_dilated(x, w, strides, padding, **kwargs)


def in_bfloat16(*arrays):
    return [x.astype(jnp.bfloat16) for x in arrays]


def window(op, x, size, strides, padding, base=None, dilation=None):
    init = {lax.add: 0.0, lax.max: -np.inf, lax.min: np.inf}[op]
    return lax.reduce_window(x, np.asarray(init, x.dtype), op, size, strides, padding, base, dilation)


def take(x, indices, mode="clip", **kwargs):
    numbers = lax.GatherDimensionNumbers((1,), (0,), (0,))
    return lax.gather(x, indices, numbers, (1, x.shape[1]), mode=mode, **kwargs)


def scatter(op, x, updates, indices=IDX, **kwargs):
    return op(x, indices, updates, lax.ScatterDimensionNumbers((1,), (0,), (0,)), **kwargs)


def spd(x):
    return x @ x.T + 3 * jnp.eye(x.shape[0], dtype=x.dtype)


ELEMENTWISE = [
    ("neg", lax.neg, [M]),
    ("add", lax.add, [M, N]),
    ("sub", lax.sub, [M, N]),
    ("mul", lax.mul, [M, N]),
    ("mul", lambda x: lax.mul(x, x), [M]),
    ("mul", lambda s, x: s * x, [S, M]),
    ("sub", lambda s, x: s - x, [S, M]),
    ("div", lax.div, [M, POSITIVE]),
    ("rem", lax.rem, [Arg((3, 4), -5.0, 5.0), POSITIVE]),
    ("max", lax.max, [M, N]),
    ("max", lambda x: lax.max(x, jnp.zeros_like(x)), [np.array([-1.0, 0.0, 2.0])]),
    ("min", lax.min, [M, N]),
    ("min", lambda x, y: lax.min(x, x * 1), [M, N]),
    ("pow", lax.pow, [POSITIVE, M]),
    ("pow", lambda x: lax.pow(x, np.arange(4, dtype=np.int32)[None].repeat(3, 0)), [M]),
    ("pow", lambda x: lax.pow(x, np.int32(3)), [M]),
    *[("integer_pow", partial(lax.integer_pow, y=n), [M]) for n in (-2, 3, 7)],
    ("square", lax.square, [M]),
    ("abs", lax.abs, [M]),
    ("exp", lax.exp, [M]),
    ("exp2", lax.exp2, [M]),
    ("expm1", lax.expm1, [M]),
    ("log", lax.log, [POSITIVE]),
    ("log1p", lax.log1p, [POSITIVE]),
    ("sqrt", lax.sqrt, [POSITIVE]),
    ("rsqrt", lax.rsqrt, [POSITIVE]),
    ("cbrt", lax.cbrt, [POSITIVE]),
    ("logistic", lax.logistic, [M]),
    ("sin", lax.sin, [M]),
    ("cos", lax.cos, [M]),
    ("tan", lax.tan, [UNIT]),
    ("asin", lax.asin, [UNIT]),
    ("acos", lax.acos, [UNIT]),
    ("atan", lax.atan, [M]),
    ("atan2", lax.atan2, [M, N]),
    ("sinh", lax.sinh, [M]),
    ("cosh", lax.cosh, [M]),
    ("tanh", lax.tanh, [M]),
    ("asinh", lax.asinh, [M]),
    ("acosh", lax.acosh, [LARGE]),
    ("atanh", lax.atanh, [UNIT]),
    ("erf", lax.erf, [M]),
    ("erfc", lax.erfc, [M]),
    ("erf_inv", lax.erf_inv, [UNIT]),
    ("lgamma", lax.lgamma, [LARGE]),
    ("digamma", lax.digamma, [LARGE]),
    ("polygamma", lambda x: lax.polygamma(jnp.full_like(x, 1), x), [LARGE]),
    ("igamma", lax.igamma, [LARGE, POSITIVE]),
    ("igammac", lax.igammac, [LARGE, POSITIVE]),
    ("regularized_incomplete_beta", lambda x: lax.betainc(jnp.full_like(x, 2), jnp.full_like(x, 1.5), x), [OPEN]),
    ("bessel_i0e", lax.bessel_i0e, [M]),
    ("bessel_i1e", lax.bessel_i1e, [M]),
    ("select_n", lambda x, y: lax.select(x > y, x, y), [M, N]),
    ("select_n", lambda x, y: lax.select_n(np.arange(12, dtype=np.int32).reshape(3, 4) % 3, x, y, x * y), [M, N]),
    ("select_n", lambda x, y: lax.select_n(jnp.sum(x) > 0, x, y), [M, N]),
    ("clamp", lambda x: lax.clamp(jnp.asarray(-0.5, x.dtype), x, jnp.asarray(0.7, x.dtype)), [M]),
    ("clamp", lax.clamp, [Arg((3, 4), -1.0, -0.2), M, Arg((3, 4), 0.2, 1.0)]),
]
STEPS = [
    *[(name, lambda x, f=f: f(x) * x, [M]) for name, f in [("sign", lax.sign), ("floor", lax.floor)]],
    *[(name, lambda x, f=f: f(x) * x, [M]) for name, f in [("ceil", lax.ceil), ("round", lax.round)]],
    ("gt", lambda x, y: jnp.where(x > y, x, y * y), [M, N]),
    ("le", lambda x, y: jnp.where((x <= y) & (x != 0), x, y * y), [M, N]),
    ("add_any", jax.grad(lambda x: jnp.sum(jnp.sin(x) * x)), [M]),
    ("sharding_constraint", lambda x: lax.with_sharding_constraint(x, ALONE) * x, [M]),
    ("stop_gradient", lambda x: lax.stop_gradient(x) * x, [M]),
    ("argmax", lambda x: x[0] * lax.argmax(x, 0, np.int32).astype(x.dtype), [M]),
    ("iota", lambda x: x * lax.iota(x.dtype, 4), [M]),
    ("is_finite", lambda x: jnp.where(jnp.isfinite(x), x, 0), [M]),
    ("random_bits", lambda x: x * jax.random.normal(jax.random.key(0), x.shape, x.dtype), [M]),
    ("random_gamma", lambda a: jax.random.gamma(jax.random.key(0), a, dtype=a.dtype), [LARGE]),
    ("and", lambda x: jnp.where((x > 0) & (x < 1), x, 0), [M]),
]
REDUCTIONS = [
    ("reduce_sum", partial(jnp.sum, axis=1), [M]),
    ("reduce_sum", jnp.sum, [Arg((2, 3, 4))]),
    *[("reduce_prod", partial(jnp.prod, axis=axis), [Arg((2, 3, 4))]) for axis in (None, 0, (0, 2))],
    ("reduce_prod", jnp.prod, [np.array([2.0, 0.0, 3.0])]),
    ("reduce_prod", jnp.prod, [np.array([2.0, 0.0, 0.0])]),
    *[("reduce_max", partial(jnp.max, axis=axis), [Arg((2, 3, 4))]) for axis in (None, 1, (0, 2))],
    ("reduce_max", jnp.max, [np.array([1.0, 2.0, 2.0])]),
    ("reduce_min", partial(jnp.min, axis=0), [M]),
    *[("cumsum", partial(lax.cumsum, axis=1, reverse=r), [M]) for r in (False, True)],
    *[("cumprod", partial(lax.cumprod, axis=1, reverse=r), [M]) for r in (False, True)],
    ("cumprod", lax.cumprod, [np.array([2.0, 0.0, 3.0, 0.0, 4.0])]),
    *[("cummax", partial(lax.cummax, axis=0, reverse=r), [Arg((7, 2))]) for r in (False, True)],
    ("cummin", lax.cummin, [Arg((7, 2))]),
    *[("cumlogsumexp", partial(lax.cumlogsumexp, axis=1, reverse=r), [M]) for r in (False, True)],
]
SHAPES = [
    ("broadcast_in_dim", lambda x: lax.broadcast_in_dim(x, (3, 5, 4), (0, 2)), [M]),
    ("broadcast_in_dim", lambda x: lax.broadcast_in_dim(x, (3, 5, 4), (0, 1)), [Arg((3, 1))]),
    ("broadcast_in_dim", lambda x: jnp.broadcast_to(x, (2, 3)), [S]),
    ("reshape", lambda x: x.reshape(2, 6), [M]),
    ("squeeze", lambda x: lax.squeeze(x, (1,)), [Arg((3, 1, 4))]),
    ("transpose", lambda x: x.transpose(2, 0, 1), [Arg((2, 3, 4))]),
    ("rev", lambda x: lax.rev(x, (1,)), [M]),
    ("concatenate", lambda x, y: lax.concatenate([x, y, x], 1), [M, Arg((3, 2))]),
    ("split", lambda x: sum(jnp.sum(p) * (i + 1) for i, p in enumerate(lax.split(x, (1, 3), 1))), [M]),
    ("split", lambda x: lax.split(x, (1, 3), 1)[1], [M]),
    ("pad", lambda x, p: lax.pad(x, p, ((1, 2, 1), (-1, 1, 0))), [M, S]),
    ("pad", lambda x, p: lax.pad(x, p, ((-1, 2, 2), (1, -2, 1))), [M, S]),
    ("tile", lambda x: jnp.tile(x, (2, 3)), [M]),
    ("convert_element_type", lambda x: x.astype(jnp.float32).astype(x.dtype), [M]),
    ("reduce_precision", lambda x: lax.reduce_precision(x, 8, 30), [M]),
    ("copy", jnp.copy, [M]),
    ("optimization_barrier", lambda x, y: lax.optimization_barrier((x, y))[0] * x, [M, N]),
    ("real", lambda x, y: jnp.real(lax.complex(x, y) * lax.complex(y, x * 2)), [M, N]),
    ("imag", lambda x, y: jnp.imag(jnp.exp(lax.complex(x, y))), [M, N]),
    ("conj", lambda x, y: jnp.imag(jnp.conj(lax.complex(x, y)) * lax.complex(y, y)), [M, N]),
    ("abs", lambda x, y: jnp.abs(lax.complex(x, y)), [M, N]),
]
PRODUCTS = [
    ("dot_general", lambda x, y: x @ y, [M, Arg((4, 5))]),
    ("dot_general", lambda x, y: dot(x, y, ((0,), (0,))), [M, Arg((3, 5))]),
    ("dot_general", lambda x, y: dot(x, y, ((0, 2), (3, 0))), [Arg((2, 5, 4)), Arg((4, 3, 6, 2))]),
    ("dot_general", lambda x, y: dot(x, y, ((2,), (1,)), ((0,), (0,))), [Arg((2, 3, 4)), Arg((2, 4, 5))]),
    ("dot_general", lambda x, y: dot(x, y, ((1,), (3,)), ((2, 0), (0, 2))), [Arg((2, 4, 3)), Arg((3, 5, 2, 4))]),
    ("dot_general", lambda x, y: dot(x, y, ((), ()), ((0,), (1,))), [M, Arg((5, 3))]),
    ("dot_general", lambda x, y: dot(x, y, ((0, 1), (1, 0))), [M, Arg((4, 3))]),
    ("dot_general", lambda x, y: dot(x, y, ((1,), (0,)), precision="highest"), [M, Arg((4, 5))]),
    ("dot_general", lambda x: x.T @ x, [M]),
    ("dot_general", lambda x, y: lax.dot(*in_bfloat16(x, y), preferred_element_type=jnp.float32), [M, Arg((4, 5))]),
    ("cholesky", lambda x: jnp.linalg.cholesky(spd(x)), [Arg((4, 4))]),
    ("cholesky", lambda x: lax.linalg.cholesky(x @ x.T + 3 * jnp.eye(4), symmetrize_input=False), [Arg((4, 4))]),
    *[
        (
            "triangular_solve",
            partial(
                lax.linalg.triangular_solve, left_side=left, lower=lower, transpose_a=transpose, unit_diagonal=unit
            ),
            [Arg((2, 3, 3), 1.0, 2.0), Arg((2, 3, 5) if left else (2, 5, 3))],
        )
        for left, lower, transpose, unit in [(1, 1, 0, 0), (1, 0, 1, 0), (0, 1, 1, 1), (0, 0, 0, 0), (1, 1, 1, 1)]
    ],
    ("eigh", lambda x: jnp.linalg.eigh(x + x.T)[0], [Arg((4, 4))]),
    ("eigh", lambda x: jnp.linalg.eigh(x + x.T)[1] ** 2 * jnp.linalg.eigh(x + x.T)[0], [Arg((4, 4))]),
    *[("svd", lambda x: jnp.linalg.svd(x, compute_uv=False), [Arg(s)]) for s in ((3, 4), (4, 4), (5, 3))],
    *[("svd", lambda x: _svd(x), [Arg(s)]) for s in ((3, 4), (4, 4), (5, 3), (2, 3, 3))],
    *[("qr", lambda x: jnp.concatenate([v.ravel() for v in jnp.linalg.qr(x)]), [Arg(s)]) for s in ((4, 4), (5, 3))],
    ("lu", lambda x: lax.linalg.lu(x)[0], [Arg((4, 4))]),
    ("lu", lambda x: lax.linalg.lu(x)[0], [Arg((2, 3, 3))]),
    ("fft", lambda x: jnp.abs(jnp.fft.fft(x)), [M]),
    ("fft", lambda x, y: jnp.real(jnp.fft.ifft2(lax.complex(x, y))), [M, N]),
    *[("fft", lambda x: jnp.real(jnp.fft.rfft(x) * (1 + 2j)), [Arg((3, n))]) for n in (6, 7)],
    *[("fft", lambda x, y, n=n: jnp.fft.irfft(lax.complex(x, y), n), [M, N]) for n in (6, 7)],
    ("fft", lambda x: jnp.imag(jnp.fft.rfftn(x)), [Arg((2, 3, 4))]),
]


def _svd(x):
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    return jnp.sum((u**2 * s[..., None, :]) @ vt**2) + jnp.sum(u @ vt)


NHWC = ("NHWC", "HWIO", "NHWC")
WINDOWS = [
    ("conv_general_dilated", lambda x, w: conv(x, w, (1,), "VALID"), [Arg((2, 3, 8)), Arg((4, 3, 3))]),
    ("conv_general_dilated", lambda x, w: conv(x, w, (2,), [(2, 1)]), [Arg((2, 3, 8)), Arg((4, 3, 3))]),
    (
        "conv_general_dilated",
        lambda x, w: conv(x, w, (2, 1), "SAME", dimension_numbers=NHWC),
        [Arg((2, 6, 5, 3)), Arg((3, 2, 3, 4))],
    ),
    (
        "conv_general_dilated",
        lambda x, w: conv(x, w, (2, 2), [(1, 0), (-1, 2)], lhs_dilation=(2, 1), rhs_dilation=(1, 2)),
        [Arg((2, 3, 6, 7)), Arg((4, 3, 2, 3))],
    ),
    (
        "conv_general_dilated",
        lambda x, w: conv(x, w, (1, 2), "SAME", dimension_numbers=NHWC, feature_group_count=2),
        [Arg((2, 5, 6, 4)), Arg((2, 3, 2, 6))],
    ),
    (
        "conv_general_dilated",
        lambda x, w: conv(x, w, (3,), "VALID", batch_group_count=2),
        [Arg((4, 3, 9)), Arg((6, 3, 2))],
    ),
    (
        "conv_general_dilated",
        lambda x, w: conv(*in_bfloat16(x, w), (1,), "SAME", preferred_element_type=jnp.float32),
        [Arg((2, 3, 8)), Arg((4, 3, 3))],
    ),
    ("conv_general_dilated", lambda x, w: lax.conv_transpose(x, w, (2,), "SAME"), [Arg((2, 5, 3)), Arg((3, 3, 4))]),
    ("reduce_window_sum", lambda x: window(lax.add, x, (2, 3), (1, 2), "SAME"), [Arg((5, 6))]),
    (
        "reduce_window_sum",
        lambda x: window(lax.add, x, (2, 2), (2, 1), [(1, 0), (0, 2)], (2, 1), (1, 2)),
        [Arg((5, 6))],
    ),
    ("reduce_window_max", lambda x: window(lax.max, x, (2, 2), (2, 2), "VALID"), [Arg((5, 6))]),
    ("reduce_window_max", lambda x: window(lax.max, x, (3, 2), (1, 2), "SAME"), [Arg((5, 6))]),
    ("reduce_window_min", lambda x: window(lax.min, x, (2, 3), (2, 1), [(0, 1), (1, 1)]), [Arg((5, 6))]),
    (
        "select_and_scatter_add",
        lambda x, s: jax.vjp(lambda x: window(lax.max, x, (2, 2), (2, 2), "VALID"), x)[1](s)[0] * x,
        [Arg((4, 6)), Arg((2, 3))],
    ),
]
WINDOWS += [
    (
        "select_and_gather_add",
        lambda x, t: jax.jvp(lambda x: window(lax.max, x, (2, 2), (2, 2), "VALID"), (x,), (t,))[1] ** 2,
        [Arg((4, 6)), Arg((4, 6))],
    ),
]
INDEXING = [
    ("slice", lambda x: x[1:3, 1:4:2], [Arg((4, 5))]),
    ("slice", lambda x: lax.slice(x, (0, 4), (4, 4)), [Arg((4, 5))]),
    ("dynamic_slice", lambda x, i: lax.dynamic_slice(x, (i, np.int32(1)), (2, 3)), [Arg((4, 5)), np.int32(3)]),
    (
        "dynamic_update_slice",
        lambda x, u, i: lax.dynamic_update_slice(x, u, (i, ONE)),
        [Arg((4, 5)), M, np.int32(0)],
    ),
    ("gather", lambda x: take(x, IDX), [M]),
    ("gather", lambda x: take(x, np.array([[0], [7], [-1]], np.int32), "fill", fill_value=0), [M]),
    ("gather", lambda x: x[np.array([0, 2, 0]), np.array([1, 1, 3])], [M]),
    ("gather", lambda x: jnp.take_along_axis(x, np.array([[0, 0], [1, 3], [2, 1]], np.int32), 1), [M]),
    ("gather", lambda x: jax.vmap(lambda v, i: v[i])(x, np.array([[0, 0], [1, 3], [2, 1]], np.int32)), [M]),
    ("scatter-add", lambda x, u: scatter(lax.scatter_add, x, u), [M, Arg((4, 4))]),
    ("scatter-add", lambda x, u: x.at[np.array([0, 2]), 1].add(u), [M, Arg((2,))]),
    ("scatter-sub", lambda x, u: scatter(lax.scatter_sub, x, u), [M, Arg((4, 4))]),
    ("scatter", lambda x, u: scatter(lax.scatter, x, u), [M, Arg((4, 4))]),
    ("scatter", lambda x, u: scatter(lax.scatter, x, u, IDX[:2], unique_indices=True), [M, Arg((2, 4))]),
    ("scatter", lambda x, u: x.at[5, 1].set(u, mode="drop"), [M, S]),
    ("scatter-mul", lambda x: scatter(lax.scatter_mul, x, jnp.full((4, 4), 2.0, x.dtype)), [M]),
    ("scatter-mul", lambda x, u: scatter(lax.scatter_mul, x, u, IDX[:2], unique_indices=True), [M, Arg((2, 4))]),
    ("scatter-max", lambda x, u: scatter(lax.scatter_max, x, u), [M, Arg((4, 4))]),
    ("scatter-min", lambda x, u: scatter(lax.scatter_min, x, u), [M, Arg((4, 4))]),
    ("scatter-max", lambda x: scatter(lax.scatter_max, x, x[:2], np.array([[0], [2]], np.int32)), [M]),
    ("sort", lambda x: lax.sort(x, 0), [M]),
    ("sort", lambda x, y: lax.sort((x, y), num_keys=1)[1], [M, N]),
    ("sort", lambda x, y: jnp.sin(lax.sort((x, y), num_keys=2)[0]), [M, N]),
    ("top_k", lambda x: lax.top_k(x, 2)[0], [M]),
    ("approx_top_k", lambda x: lax.approx_max_k(x, 2)[0], [M]),
]
CONTROL = [
    ("jit", jax.jit(lambda x, y: x * y), [M, N]),
    ("cond", lambda x, y: lax.cond(jnp.sum(x) > 0, lambda x, y: x * y, lambda x, y: jnp.sin(x) * y**2, x, y), [M, N]),
    (
        "cond",
        lambda x, i: lax.switch(i, [jnp.sin, jnp.exp, lambda x: 2 * x, jnp.ones_like], x),
        [M, np.int32(2)],
    ),
    ("scan", lambda x, c: lax.scan(lambda s, v: (jnp.tanh(s * v + c), s), c, x)[1], [M, Arg((4,))]),
    ("scan", lambda x, c: lax.scan(lambda s, v: (s * v, None), c, x, reverse=True, unroll=2)[0], [M, Arg((4,))]),
    ("scan", lambda x: lax.fori_loop(0, 5, lambda i, s: jnp.sin(s) * x, x), [M]),
    (
        "scan",
        lambda x: lax.scan(lambda s, v: (lax.scan(lambda t, u: (t + jnp.exp(u) * s, t), s, v)[0], s), x[0, 0], x)[0],
        [M],
    ),
    ("while", lambda x: x * lax.while_loop(lambda s: s[0] < 5, lambda s: (s[0] + 1, s[1] * 2), (0, 1.0))[1], [M]),
    ("custom_jvp_call", jax.nn.relu, [M]),
    ("custom_jvp_call", lambda x, y: _product(x, y), [M, N]),
    ("custom_jvp_call", lambda x: _product(x, jnp.ones_like(x)), [M]),
    ("custom_jvp_call", lambda x: jnp.linalg.norm(x) + jax.scipy.special.xlogy(x, x), [POSITIVE]),
    ("custom_jvp_call", lambda x: lax.scan(lambda s, v: (jax.nn.relu(s + v), s), x[0], x)[0], [M]),
    ("custom_vjp_call", lambda x: _doubled(x, 3) * x, [M]),
    ("custom_vjp_call", lambda x: lax.scan(lambda s, v: (_doubled(s * v, 2), s), x[0], x)[1], [M]),
    ("custom_vjp_call", lambda x, y: _tracked(x, y)[0], [M, N]),
    ("custom_vjp_call", lambda x: _tracked(x, jnp.ones_like(x))[0], [M]),
    ("custom_vjp_call", jax.checkpoint(lambda x: _recomputed(x) * x), [M]),
    ("remat2", jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))), [M]),
    ("remat2", lambda x: lax.scan(jax.checkpoint(lambda s, v: (jnp.sin(s * v), s)), x[0], x)[0], [M]),
    (
        "remat2",
        jax.checkpoint(
            lambda x: jnp.sin(checkpoint_name(jnp.sin(x), "kept")),
            policy=jax.checkpoint_policies.save_only_these_names("kept"),
        ),
        [M],
    ),
    ("custom_linear_solve", lambda x, b: jnp.linalg.solve(spd(x), b), [Arg((4, 4)), Arg((4, 2))]),
    ("custom_linear_solve", lambda x, b: jax.scipy.sparse.linalg.cg(spd(x), b)[0], [Arg((3, 3)), Arg((3,))]),
]
if hasattr(lax, "log2"):
    ELEMENTWISE += [("log2", lax.log2, [POSITIVE])]
if hasattr(lax, "one_minus_square"):
    ELEMENTWISE += [("one_minus_square", lax.one_minus_square, [M])]
if hasattr(lax, "polynomial"):
    ELEMENTWISE += [("polynomial", lambda x, c, y: lax.polynomial(x, [c, y, y * 2, c]), [M, S, N])]
if hasattr(lax, "stack"):
    SHAPES += [("stack", lambda x, y: lax.stack([x, y], 1), [M, N])]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _doubled(x, n):
    return x * n


@jax.custom_vjp
def _tracked(x, y):
    return x * y, x


def _tracked_forward(x, y):
    return (x.value * y.value, x.value), (x.value if y.perturbed else None, y.value)


def _tracked_backward(kept, d):
    (x, y), (d_product, d_x) = kept, d
    assert isinstance(d_x, jax.custom_derivatives.SymbolicZero)
    return 3 * d_product * y, None if x is None else 5 * d_product * x


_tracked.defvjp(_tracked_forward, _tracked_backward, symbolic_zeros=True)


@jax.custom_vjp
def _recomputed(x):
    return jnp.sin(x)


_recomputed.defvjp(lambda x: (jnp.sin(x), x), lambda x, d: (d * 2 * x,), optimize_remat=True)
_doubled.defvjp(lambda x, n: (x * n, x), lambda n, x, d: (2 * d * n,))


@jax.custom_jvp
def _product(x, y):
    return x * y, jnp.sum(y)


def _product_jvp(primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    zero = [isinstance(t, jax.custom_derivatives.SymbolicZero) for t in tangents]
    parts = [3 * d * z for d, z, skip in zip((dx, dy), (y, x), zero, strict=True) if not skip]
    total = dy if zero[1] else jnp.sum(jnp.sin(x) * dy)
    return _product(x, y), (sum(parts), jnp.zeros(()) if zero[1] else total)


_product.defjvp(_product_jvp, symbolic_zeros=True)


CASES = [*ELEMENTWISE, *STEPS, *REDUCTIONS, *SHAPES, *PRODUCTS, *WINDOWS, *INDEXING, *CONTROL]
