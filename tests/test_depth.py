"""log10 gradient norms: right where float64 can tell, and right where it cannot."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp import Activation, Dense, Repeat, Residual, Serial
from fbp.backprop import sweep_norms
from fbp.cotangent import Cotangent, log10_norm

LOSS = fbp.HalfSquaredError()
M, N = 4, 6


def data(dtype=np.float32, m=M, n=N):
    draw = np.random.default_rng(0)
    return draw.normal(size=(m, n)).astype(dtype), draw.normal(size=(m, n)).astype(dtype)


WIDTHS = (N,) * 5
NETS = {
    "tanh": fbp.mlp(WIDTHS, "tanh"),
    "repeat": fbp.mlp(WIDTHS, "tanh", repeat=True),
    "repeat, checkpoint": fbp.mlp(WIDTHS, "gelu", repeat=True, checkpoint=4),
    "residual": fbp.mlp(WIDTHS, "relu", residual=0.5),
    "residual in repeat, rms norm": fbp.mlp(WIDTHS, "tanh", residual=True, norm="rms", repeat=True),
    "layer norm": fbp.mlp(WIDTHS, "gelu", norm="layer"),
    "batch norm in repeat": fbp.mlp(WIDTHS, "tanh", norm="batch", repeat=True),
}


@pytest.mark.parametrize("net", NETS.values(), ids=NETS)
def test_norms_are_those_of_float64(net):
    params, _ = net.init(jax.random.key(0))
    found = jax.jit(fbp.log10_gradient_norms(net, LOSS))(params, *data())
    with jax.enable_x64(True):
        trace = fbp.trace(net, LOSS, fbp.cast(params, "float64"), *data(np.float64))
    for name in ("dZ", "dA", "dW", "db"):
        norms = np.array([np.linalg.norm(x) for x in getattr(trace, name).values()])
        # A bias before batch normalization has the gradient zero, up to rounding: there is no norm to compare.
        certain = norms > 1e-12
        np.testing.assert_allclose(getattr(found, name)[certain], np.log10(norms[certain]), atol=1e-4)
        assert certain.all() or name == "db"


@pytest.mark.parametrize(("sigma_w", "grows"), [(0.5, False), (3.0, True)])
def test_depth_ten_thousand(sigma_w, grows):
    """The slope is that of a network a tenth as deep, within five standard errors, in both phases."""
    slopes, errors = [], []
    for depth in (1000, 10_000):
        net = Repeat(Serial(Activation("tanh"), Dense(16, f"mean_field({sigma_w}, 1.0)")), depth)
        params, _ = net.init(jax.random.key(0), (16,))
        norms = jax.jit(fbp.log10_gradient_norms(net, LOSS))(params, *data(m=2, n=16))
        assert all(np.isfinite(x).all() for x in norms)
        steps = -np.diff(norms.dA)
        slopes.append(steps.mean())
        errors.append(steps.std() / depth**0.5)
    assert (slopes[1] > 0) == grows
    assert abs(10_000 * slopes[1]) > 300
    assert abs(slopes[1] - slopes[0]) < 5 * np.hypot(*errors)


@pytest.mark.parametrize(
    ("dtype", "size", "atol"),
    [("float64", 1e-60, 1e-12), ("float64", 1e60, 1e-12), ("float32", 1e-30, 1e-4), ("float32", 1e20, 1e-4)],
)
def test_tiny_and_huge_weights(dtype, size, atol):
    """W_l = size * Q_l with Q_l orthogonal: each layer moves log10 of the norm of dA by log10(size), and no more."""
    depth = 20
    draw = np.random.default_rng(1)
    Q = np.linalg.qr(draw.normal(size=(depth, N, N)))[0]
    net = Repeat(Dense(N), depth)
    with jax.enable_x64(True):
        params = {"W": jnp.asarray(size * Q, dtype), "b": jnp.zeros((depth, N), dtype)}
        cache = jnp.ones((depth, M, N), dtype)
        dZ = jnp.asarray(draw.normal(size=(M, N)), dtype)
        norms = jax.jit(lambda: sweep_norms(net, params, cache, dZ))()
    expected = math.log10(np.linalg.norm(np.asarray(dZ, np.float64))) + math.log10(size) * np.arange(depth, 0, -1)
    np.testing.assert_allclose(norms.dA, expected, rtol=1e-6 if dtype == "float32" else 1e-13, atol=atol)
    np.testing.assert_allclose(norms.dZ[:-1], norms.dA[1:], rtol=1e-6, atol=atol)
    assert norms.dZ.dtype == jnp.dtype(dtype)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e3])
def test_exponents_add_where_a_residual_fans_out(scale):
    """Whatever the size of the branch beside the skip connection, as float64 has it."""
    net = Repeat(Residual(Serial(Activation("tanh"), Dense(N)), scale), 6)
    params, _ = net.init(jax.random.key(0), (N,))
    norms = jax.jit(fbp.log10_gradient_norms(net, LOSS))
    found = norms(params, *data())
    with jax.enable_x64(True):
        wide = norms(fbp.cast(params, "float64"), *data(np.float64))
        trace = fbp.trace(net, LOSS, fbp.cast(params, "float64"), *data(np.float64))
    np.testing.assert_allclose(found.dA, wide.dA, atol=1e-4)
    np.testing.assert_allclose(wide.dA, [np.log10(np.linalg.norm(x)) for x in trace.dA.values()], atol=1e-12)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0.5, 0), (0.75, 3)),
        ((0.5, -400), (0.75, -398)),
        ((0.5, 300), (-0.5, 290)),
        ((0.5, 0), (0.5, -1000)),
        ((0.5, 7), (-0.5, 7)),
        ((0.0, 0), (0.0, 5)),
        ((0.5, -300), (0.0, 0)),
        ((0.0, 200), (0.5, 3)),
    ],
)
def test_sum_of_cotangents(first, second):
    """Against exact rational arithmetic; a zero has no size, whatever its exponent."""
    a, b = (Cotangent(jnp.asarray([value]), jnp.int32(exponent)) for value, exponent in (first, second))
    total = a + b
    exact = sum(Fraction(value) * Fraction(2) ** exponent for value, exponent in (first, second))
    found = Fraction(float(total.value[0])) * Fraction(2) ** int(total.exponent)
    assert abs(found - exact) <= abs(exact) / 2**23


@pytest.mark.parametrize("size", [0.0, 1.2e-38, 1e-20, 1.0, 1e20, 8e37])
def test_log10_norm_neither_under_nor_overflows(size):
    x = jnp.full((3, 3), size, jnp.float32)
    expected = math.log10(3) + math.log10(float(x[0, 0])) if size else -math.inf
    np.testing.assert_allclose(log10_norm(x), expected, rtol=1e-5)
    np.testing.assert_allclose(log10_norm(x, jnp.int32(-100)), expected - 100 * math.log10(2), rtol=1e-5)


def test_log10_norm_of_what_is_not_finite():
    assert jnp.isnan(log10_norm(jnp.asarray([1.0, jnp.nan])))
    assert not jnp.isfinite(log10_norm(jnp.asarray([1.0, jnp.inf])))


def test_a_network_without_dense_layers_is_refused():
    with pytest.raises(fbp.FbpError, match="those of dense layers"):
        fbp.log10_gradient_norms(Activation("relu"), LOSS)((), *data())


def test_norms_at_the_ends_of_float32():
    np.testing.assert_allclose(log10_norm(jnp.full(3, 3e38)), np.log10(3e38 * 3**0.5), rtol=1e-6)
    np.testing.assert_allclose(log10_norm(jnp.full(3, 2e-38)), np.log10(2e-38 * 3**0.5), rtol=1e-6)
    assert log10_norm(jnp.zeros(3)) == -np.inf
