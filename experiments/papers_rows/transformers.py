"""Attention, norms before and behind the sum, and how far one step changes deep residual networks."""

import math
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fbp
from fbp import theory
from papers_rows.networks import HE, draw_normal
from papers_rows.row import DERIVED, Row, jackknife

TOKENS, WIDTH, WIDE = 8, 64, 128
XIONG, NOCI = "Xiong et al. 2020", "Noci et al. 2022"
NORM = fbp.LayerNorm(0.0)


def transformers(quick: bool) -> Iterator[Row]:
    """Xiong, Noci, Dong, Kedia, Liu, and Zhang's Fixup."""
    yield from _lengths(quick)
    yield from _last_layer(quick)
    yield from _rank(quick)
    yield from _softmax(quick)
    yield from _changes(quick)
    yield from _fixup(quick)


def _block(pre: bool) -> fbp.Network:
    """Attention with equal weights, as of queries and keys that are 0, and a relu network of two layers."""
    dense, first, second = fbp.Dense(WIDTH, "lecun_normal"), "norm1" if pre else "input", "norm2" if pre else "norm1"
    mix: dict[str, Any] = {
        **{name: dense.of(first) for name in "qkv"},
        "mix": fbp.Attention(1, causal=False, rule="plain", scale=0.0).of("q", "k", "v"),
        "o": dense,
        "middle": fbp.Add().of("input", "o"),
    }
    inner: dict[str, Any] = {"up": dense.of(second), "hidden": fbp.Activation("relu"), "down": dense}
    if pre:
        return fbp.Network(norm1=NORM, **mix, norm2=NORM, **inner, end=fbp.Add().of("middle", "down"))
    return fbp.Network(**mix, norm1=NORM, **inner, end=fbp.Add().of("norm1", "down"), norm2=NORM)


@cache
def _measure(pre: bool, depth: int, networks: int) -> fbp.flow.Flow:
    """Tokens are independent and Gaussian, the cotangent of what is normalized last standard normal."""
    blocks = fbp.Repeat(_block(pre), depth)
    net = fbp.Serial(blocks, NORM) if pre else blocks
    params = fbp.flow.sample_parameters(net, (TOKENS, WIDTH), networks, seed=60)
    X, dZ = draw_normal(np.random.default_rng(60), (2, networks, 4, TOKENS, WIDTH))
    # Xiong's Z_0 has mean square 1; behind a norm it is the same.
    read = ("stream_log10_mean_square", "dW")
    return fbp.flow.read_networks(net, params, X, dZ, quantities=read)


def _predict_lengths(pre: bool, depth: int) -> list[float]:
    """The mean square behind each sum.

    With equal weights every token gets the mean of all, so that what attention adds is common to them; r is the
    covariance of two tokens.
    """
    q, r, lengths = 1.0, 0.0, []
    for _ in range(depth):
        common = (1 + (TOKENS - 1) * r / q) / TOKENS
        common = common if pre else common * q
        q, r = q + common, r + common
        lengths.append(q)
        c = min(r / q, 1.0)
        if not pre:
            q, r = 1.0, c
        kernel = (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
        q, r = q + 0.5, r + 0.5 * kernel
        lengths.append(q)
        if not pre:
            q, r = 1.0, r / q
    return lengths


def _lengths(quick: bool) -> Iterator[Row]:
    depth, networks = 12, 6 if quick else 30
    where = f"d={WIDTH}, {TOKENS} tokens, queries and keys 0, L={depth}"
    flow = _measure(False, depth, networks)
    sums = 10 ** np.asarray(flow.values("stream_log10_mean_square")[0], np.float64)[:, 1::2]
    post = _predict_lengths(False, depth)[1::2]
    what = "E‖x‖²/d behind the second sum"
    yield Row("xiong-post", XIONG, f"post-norm, {where}", what, 1.5, post[-1], jackknife(sums.mean(axis=1)), 0.02)
    flow = _measure(True, depth, networks)
    ends = 10 ** np.asarray(flow.values("stream_log10_mean_square")[0], np.float64)[:, -1]
    expected, where = _predict_lengths(True, depth)[-1], f"pre-norm, {where}"
    what = "E‖x_L‖²/d over 1 + 3L/2, at most 1"
    most = 1 + 1.5 * depth
    yield Row("xiong-pre", XIONG, where, what, 1.0, expected / most, jackknife(ends / most), 0.02, True)
    least, what = 1 + 0.5 * depth, "1 + L/2 over E‖x_L‖²/d, at most 1"
    ratio = jackknife(ends, lambda x: least / x.mean())
    yield Row("xiong-pre", XIONG, where, what, 1.0, least / expected, ratio, 0.02, True)
    yield Row("xiong-pre-length", DERIVED, where, "E‖x_L‖²/d", None, expected, jackknife(ends), 0.03)


def _last_layer(quick: bool) -> Iterator[Row]:
    # Quick, one of the depths is that of the lengths above: a program less for each position.
    depths, networks = (12, 24) if quick else (8, 64), 6 if quick else 12
    where = f"d={WIDTH}, {TOKENS} tokens, L={depths[0]} and {depths[1]}"
    for pre, name, stated in ((True, "pre", -0.5), (False, "post", 0.0)):
        squares = [10 ** (2 * np.asarray(_measure(pre, L, networks).log10.dW[0], np.float64)[:, -1]) for L in depths]
        span = 2 * math.log(depths[1] / depths[0])
        slope = jackknife(
            np.stack(squares, axis=1), lambda x, span=span: math.log(x[:, 1].mean() / x[:, 0].mean()) / span
        )
        ends = [_predict_lengths(pre, L)[-1] for L in depths]
        expected = -math.log(ends[1] / ends[0]) / span
        what = "slope of ln ‖dW‖ of the last layer over ln L"
        # A tolerance of 0.05 in both: relative to 1/2, absolute beside 0.
        tolerance = 0.1 if pre else 0.05
        yield Row("xiong-last", XIONG, f"{name}-norm, {where}", what, stated, expected, slope, tolerance)


def _rank(quick: bool) -> Iterator[Row]:
    networks, source = 10 if quick else 40, "Dong et al. 2021"
    rng = np.random.default_rng(61)
    slopes = []
    for _ in range(networks):
        common, apart = rng.standard_normal(WIDTH), rng.standard_normal((TOKENS, WIDTH))
        apart -= apart.mean(axis=0)
        W_qk, W_v = (rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5 for _ in range(2))
        left = [_pass_attention(common + size * apart, W_qk, W_v) / size for size in (1e-2, 1e-3)]
        slopes.append(1 + math.log10(left[0] / left[1]))
    where = f"attention without skips, d={WIDTH}, {TOKENS} tokens that are nearly equal"
    what = "power p of the difference of tokens, a layer ~ its input^p"
    yield Row("dong-cubic", source, where, what, 3.0, 3.0, jackknife(slopes), 0.01)
    yield from _collapse(quick)
    yield from _queries(networks)


def _pass_attention(X: np.ndarray, W_qk: np.ndarray, W_v: np.ndarray) -> float:
    """How far the tokens are from their mean behind one layer, in float64."""
    scores = X @ W_qk @ X.T / WIDTH**0.5
    P = np.exp(scores - scores.max(axis=1, keepdims=True))
    out = P / P.sum(axis=1, keepdims=True) @ X @ W_v
    return float(np.linalg.norm(out - out.mean(axis=0)))


def _collapse(quick: bool) -> Iterator[Row]:
    """The correlation of tokens through x + alpha (mean of tokens) W V: q and r grow by the same."""
    depth, networks = 30, 6 if quick else 24
    for scale, name in ((1.0, "1"), (depth**-0.5, "1/√L")):
        q, r = 1.0, 0.0
        for _ in range(depth):
            common = scale**2 * (q + (TOKENS - 1) * r) / TOKENS
            q, r = q + common, r + common
        dense = fbp.Dense(WIDTH, "lecun_normal")
        heads: dict[str, Any] = {name: dense.of("input") for name in "qkv"}
        mix = fbp.Attention(1, causal=False, rule="plain", scale=0.0).of("q", "k", "v")
        block = fbp.Residual(fbp.Network(**heads, mix=mix, o=dense), scale)
        net = fbp.Repeat(block, depth)
        params = fbp.flow.sample_parameters(net, (TOKENS, WIDTH), networks, seed=62)
        X = jnp.asarray(draw_normal(np.random.default_rng(62), (networks, 4, TOKENS, WIDTH)))
        Z = np.asarray(jax.jit(partial(jax.lax.map, lambda pair, net=net: net.forward(*pair)[0]))((params, X)))
        correlation = jackknife(Z.astype(np.float64), _token_correlation)
        where = f"x + {name} uniform attention, d={WIDTH}, {TOKENS} tokens, L={depth}"
        yield Row(
            "noci-tokens", f"{DERIVED} after {NOCI}", where, "correlation of tokens", None, r / q, correlation, 0.03
        )


def _token_correlation(Z: np.ndarray) -> float:
    """Of two tokens over (networks, examples, tokens, units), all averages taken before the quotient."""
    squares, sums = np.sum(Z**2), np.sum(Z.sum(axis=-2) ** 2)
    return float((sums - squares) / (TOKENS - 1) / squares)


def _queries(networks: int) -> Iterator[Row]:
    dense = fbp.Dense(WIDTH, "lecun_normal")
    heads: dict[str, Any] = {name: dense.of("input") for name in "qkv"}
    net = fbp.Network(**heads, mix=fbp.Attention(1, causal=False, rule="plain").of("q", "k", "v"))
    params = fbp.flow.sample_parameters(net, (TOKENS, WIDTH), networks, seed=63)
    rng = np.random.default_rng(63)
    X = np.repeat(draw_normal(rng, (networks, 4, 1, WIDTH)), TOKENS, axis=2)
    dZ = draw_normal(rng, (networks, 4, TOKENS, WIDTH))
    flow = fbp.flow.read_networks(net, params, X, dZ, quantities=("dW",))
    norms = 10 ** np.asarray(flow.log10.dW[0], np.float64)
    where = f"all {TOKENS} tokens equal, d={WIDTH}"
    ratio = jackknife(norms[:, 0] / norms[:, 2])
    yield Row("noci-queries", NOCI, where, "‖dW_Q‖ / ‖dW_V‖", 0.0, 0.0, ratio, 1e-4)


def _softmax(quick: bool) -> Iterator[Row]:
    rng, keys, draws = np.random.default_rng(64), 64, 2000 if quick else 20000
    for variance in (0.25, 1.0):
        p = np.exp(math.sqrt(variance) * rng.standard_normal((draws, keys)))
        shares = np.sum((p / p.sum(axis=1, keepdims=True)) ** 2, axis=1)
        # E sum p^2 = k E p_1^2, which the gradient of a classifier's head has too.
        expected = keys * (theory.softmax_head(keys, variance).dZ_mean_square - 1 + 2 / keys)
        where = f"softmax over {keys} independent scores of variance {variance:g}"
        what = "keys times the variance of the mean of values"
        yield Row("attention-share", DERIVED, where, what, None, expected, jackknife(keys * shares))
    z = rng.standard_normal((draws // 20, 1000))
    stated, what = (math.pi - 1) / (2 * math.pi), "variance of relu(z), z standard normal"
    variance = jackknife(np.maximum(z, 0), lambda x: float(np.var(x)))
    yield Row("kedia-relu", "Kedia et al. 2024", "one layer", what, stated, stated, variance)


def _changes(quick: bool) -> Iterator[Row]:
    """What a small change of all weights changes behind the last norm, over the number of blocks."""
    depths, networks = (8, 32) if quick else (8, 64), 8 if quick else 40
    source, span = "Liu et al. 2020", math.log(depths[1] / depths[0])
    branch = fbp.Serial(fbp.Activation("relu"), fbp.Dense(WIDE, "he_normal"))
    where = f"relu, n={WIDE}, L={depths[0]} and {depths[1]}, weights changed by 1 % at random"
    post = lambda L: fbp.Repeat(fbp.Serial(fbp.Residual(branch), NORM), L)
    pre = lambda L: fbp.Serial(fbp.Repeat(fbp.Residual(fbp.Serial(NORM, branch)), L), NORM)
    changes = np.stack([_change(post(L), networks) for L in depths], axis=1)
    slope = jackknife(changes, lambda x: math.log(x[:, 1].mean() / x[:, 0].mean()) / span)
    what = "slope of ln of the mean square change of the output over ln L"
    yield Row("admin-post", source, f"post-norm, {where}", what, 1.0, 1.0, slope, 0.05)
    changes = np.stack([_change(pre(L), networks) for L in depths], axis=1)
    ratio = jackknife(changes, lambda x: float(x[:, 1].mean() / x[:, 0].mean()))
    ends = [_predict_change(L) for L in depths]
    what, source = f"change at L={depths[1]} over that at {depths[0]}", f"{DERIVED} after {source}: O(ln L)"
    yield Row("admin-pre", source, f"pre-norm, {where}", what, None, ends[1] / ends[0], ratio, 0.03)


def _change(net: fbp.Layer, networks: int) -> np.ndarray:
    params = fbp.flow.sample_parameters(net, (WIDE,), networks, seed=65)
    rng = np.random.default_rng(65)
    moved = jax.tree.map(lambda p: p + np.float32(0.01 * HE / WIDE**0.5) * draw_normal(rng, p.shape), params)
    # Biases stay: their change would be that of the weights.
    moved = jax.tree.map(lambda p, new: new if p.ndim > 3 else p, params, moved)
    X = draw_normal(rng, (networks, 8, WIDE))

    @jax.jit
    def change(params, moved, X):
        return jax.lax.map(
            lambda each: jnp.mean((net.forward(each[0], each[2])[0] - net.forward(*each[1:])[0]) ** 2),
            (params, moved, X),
        )

    return np.asarray(change(params, moved, X), np.float64)


def _predict_change(depth: int) -> float:
    """Block l adds 1 to the stream and to its change, which passes by 1 + 1/q; the last norm divides by q."""
    change, q = 0.0, 1.0
    for _ in range(depth):
        change, q = change * (1 + 1 / q) + 1, q + 1
    return change / q


def _fixup(quick: bool) -> Iterator[Row]:
    depths, networks, source = (8, 32) if quick else (8, 64), 6 if quick else 24, "Zhang et al. 2019"
    where = f"two layers a branch, the last 0, relu, n={WIDTH}"
    what = "slope of ln of the change of the output in one step over ln L"
    for name, stated, scaled in (("the first scaled by 1/√L", 0.0, True), ("the first not scaled", 1.0, False)):
        changes = np.stack([_step(L, L**-0.5 if scaled else 1.0, networks) for L in depths], axis=1)
        span = math.log(depths[1] / depths[0])
        slope = jackknife(changes, lambda x, span=span: math.log(x[:, 1].mean() / x[:, 0].mean()) / span)
        setting = f"{where}, {name}, L={depths[0]} and {depths[1]}"
        origin, claim = (source, stated) if scaled else (DERIVED, None)
        yield Row("fixup-step", origin, setting, what, claim, stated, slope, 0.03)
    net, depth = _fixup_net(32, 32**-0.5), 32
    params = fbp.flow.sample_parameters(net, (WIDTH,), 3, seed=66)
    X = draw_normal(np.random.default_rng(66), (3, 1, WIDTH))
    values = 10 ** fbp.flow.log10_singular_values(net, params, X)
    where = f"{where}, L={depth}"
    largest = jackknife(values.max(axis=1))
    yield Row("fixup-identity", source, where, "largest singular value", 1.0, 1.0, largest, 1e-4)


def _fixup_net(depth: int, scale: float) -> fbp.Layer:
    # Without biases, whose steps the scale does not reach.
    first = fbp.Dense(WIDTH, fbp.Initializer(2 * scale**2, "fan_in", "normal"), bias=False)
    last = fbp.Dense(WIDTH, "zeros", bias=False)
    return fbp.Repeat(fbp.Residual(fbp.Serial(first, fbp.Activation("relu"), last)), depth)


def _step(depth: int, scale: float, networks: int, rate: float = 1e-4) -> np.ndarray:
    """The root mean square change of the output in one step of gradient descent, for each network."""
    net = _fixup_net(depth, scale)
    params = fbp.flow.sample_parameters(net, (WIDTH,), networks, seed=67)
    X, dZ = draw_normal(np.random.default_rng(67), (2, networks, 4, WIDTH))

    @jax.jit
    def step(params, X, dZ):
        def one(network):
            params, X, dZ = network
            Z, cache = net.forward(params, X)
            d_params, _ = net.backward(params, cache, dZ)
            moved = jax.tree.map(lambda p, d: p - rate * d, params, d_params)
            return jnp.sqrt(jnp.mean((net.forward(moved, X)[0] - Z) ** 2))

        return jax.lax.map(one, (params, X, dZ))

    return np.asarray(step(params, X, dZ), np.float64)
