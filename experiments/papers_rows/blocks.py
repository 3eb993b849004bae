"""Normalization, residual connections and recurrence."""

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

import fbp
from fbp import theory
from papers_rows.networks import FACTOR, HE, Passage, Setting, draw_normal, measure, plain, run_through
from papers_rows.row import DERIVED, Measured, Row, jackknife

BATCH = 64


def blocks(quick: bool) -> Iterator[Row]:
    """Yang, De & Smith, Zhang, Doshi, Pascanu, and what is said of normalization and of the spectral radius."""
    yield from _batch_norm(quick)
    yield from _residual(quick)
    yield from _pre_norm(quick)
    yield from _skip_init(quick)
    yield from _recurrent(quick)
    if not quick:
        yield from _tanh_blocks()
        yield from _layer_norm()


def _batch_norm(quick: bool) -> Iterator[Row]:
    networks, source = 3 if quick else 12, "Yang et al. 2019"
    flow, expected, where = _through_batch_norm("relu", 400, 20, networks)
    # Examples become alike within the first blocks: the theory is that of the fixed point.
    settled = flow.factors[:, 8:]
    measured, norms = jackknife(settled.mean(axis=1)), jackknife(np.sqrt(settled).mean(axis=1))
    yield Row("bn-relu", source, where, FACTOR, 1.4931, expected, measured, 0.02)
    limit = math.sqrt(math.pi / (math.pi - 1))
    yield Row("bn-norm", source, where, "‖dZ‖ factor a layer", limit, math.sqrt(expected), norms, 0.005)
    finding = (
        "Batch normalization does not prevent exploding gradients at initialization, it makes them explode: "
        f"×{norms.value:.2f} in norm a layer, whatever the weights."
    )
    bound = {"at_most": True, "finding": finding}
    yield Row("bn-explodes", "often said", where, f"{FACTOR}, at most 1", 1.0, expected, measured, 0.02, **bound)
    if quick:
        return
    # Without an activation examples start alike, and drift apart by one part in n / batch a layer.
    flow, expected, where = _through_batch_norm("linear", 1000, 4, networks)
    yield Row("bn-linear", DERIVED, where, FACTOR, None, expected, flow.rate, 0.005)


def _through_batch_norm(name: str, width: int, depth: int, networks: int) -> tuple[Passage, float, str]:
    block = fbp.Serial(fbp.BatchNorm(0.0), fbp.Activation(name), fbp.Dense(width, "lecun_normal"))
    (flow,) = measure(block, width, depth, networks, examples=BATCH, seed=30)
    expected = float(theory.propagation(name, 1.0, norm="batch", batch=BATCH).backward[0])
    return flow, expected, f"batch norm, {name}, batch {BATCH}, eps=0, n={width}, L={depth}"


def _layer_norm() -> Iterator[Row]:
    width, depth, networks = 200, 20, 30
    block = fbp.Serial(fbp.LayerNorm(0.0), fbp.Activation("relu"), fbp.Dense(width, "lecun_normal"))
    sigmas = (1.0, 3.0)
    flows = measure(block, width, depth, networks, [Setting(s) for s in sigmas], examples=16, seed=32)
    for sigma_w, flow in zip(sigmas, flows, strict=True):
        # The first block takes Z_0 of mean square 1, the others that of their own making.
        expected = float(theory.propagation("relu", sigma_w, depth=depth, norm="layer").backward[1:].mean())
        measured = jackknife(flow.factors[:, 1:].mean(axis=1))
        where = f"layer norm, relu, σ_w={sigma_w:g}, n={width}, L={depth}"
        yield Row("ln-scale", DERIVED, where, FACTOR, None, expected, measured, 0.02)


def _residual(quick: bool) -> Iterator[Row]:
    width, depth, networks = 300, 10, 10 if quick else 60
    double = partial(Row, "res-double", "De & Smith 2020")
    block = fbp.Residual(plain("relu", width))
    (flow,) = measure(block, width, depth, networks, [Setting(HE)], examples=16, seed=33)
    expected = theory.propagation("relu", HE, depth=depth, residual=True)
    where = f"x + W relu(x), He, n={width}, L={depth}"
    forward = jackknife((flow.q[:, 1:] / flow.q[:, :-1]).mean(axis=1))
    yield double(where, "variance factor a block", 2.0, expected.forward[0], forward, 0.02)
    yield double(where, "‖dZ‖² factor a block", 2.0, expected.backward[0], flow.rate, 0.02)
    (flow,) = measure(fbp.Residual(plain("relu", width), 0.0), width, depth, 3, [Setting(HE)], seed=33)
    still = theory.propagation("relu", HE, depth=depth, residual=0.0).backward[0]
    where = f"x + 0 W relu(x), He, n={width}, L={depth}"
    yield double(where, "‖dZ‖² factor a block", 1.0, still, flow.rate, 1e-5)

    width, depth = 128, 100
    scaled = fbp.Residual(plain("relu", width), depth**-0.5)
    (flow,) = measure(scaled, width, depth, 12 if quick else 60, [Setting(HE)], examples=16, seed=34)
    expected = theory.propagation("relu", HE, depth=depth, residual=depth**-0.5)
    where = f"x + 1/√L W relu(x), He, n={width}, L={depth}"
    stated, keeps = (1 + 1 / depth) ** depth, partial(Row, "res-scaled", "Zhang et al. 2019", where)
    backward, forward = jackknife(flow.gains), jackknife(flow.q[:, -1] / flow.q[:, 0])
    yield keeps("‖dZ‖² over the network", stated, 10 ** expected.log10_dZ[0], backward, 0.02)
    yield keeps("variance over the network", stated, expected.q[-1], forward, 0.02)


def _pre_norm(quick: bool) -> Iterator[Row]:
    width, depth, start, networks, source = 200, 100, 25, 6 if quick else 30, "Doshi et al. 2023"
    block = fbp.Residual(fbp.Serial(fbp.LayerNorm(0.0), plain("relu", width)))
    (flow,) = measure(block, width, depth, networks, [Setting(HE)], examples=16, seed=35)
    expected = theory.propagation("relu", HE, depth=depth, residual=True, norm="layer")
    where = f"x + W relu(LN x), He, n={width}, l={start} to {depth}"

    def exponent(samples: np.ndarray) -> float:
        early, late = samples.mean(axis=0)
        return math.log(early / late) / math.log(depth / start)

    ends = np.exp(flow.log_dZ[:, [start, depth]] - flow.log_dZ[:, [depth]])
    predicted = (expected.log10_dZ[start] - expected.log10_dZ[depth]) / math.log10(depth / start)
    finding = "1 is the limit of large l: the length is 1 + l, so that at this depth the exponent is a little less."
    zeta = jackknife(ends, exponent)
    yield Row("preln-relu", source, where, "ζ of $‖dZ_l‖^2$ ~ $l^{-ζ}$", 1.0, predicted, zeta, 0.02, finding=finding)
    growth = jackknife((flow.q[:, -1] - flow.q[:, 0]) / depth)
    slope = (expected.q[-1] - expected.q[0]) / depth
    yield Row("preln-growth", source, where, "variance added a block", 1.0, slope, growth, 0.02)


def _tanh_blocks() -> Iterator[Row]:
    """Yang & Schoenholz: gradients of unscaled tanh blocks grow like exp(sqrt L); and pre-norm, from two lengths."""
    width, depth, networks, source = 256, 200, 16, f"{DERIVED} after Yang & Schoenholz 2017"
    for scale, name in ((1.0, ""), (depth**-0.5, "1/√L ")):
        block = fbp.Residual(plain("tanh", width), scale)
        (flow,) = measure(block, width, depth, networks, [Setting(1.0)], examples=16, seed=39)
        expected = theory.propagation("tanh", 1.0, depth=depth, residual=scale)
        total = jackknife(flow.factors, lambda x: float(np.sum(np.log(x.mean(axis=0)))))
        where, what = f"x + {name}W tanh(x), q=1, n={width}, L={depth}", "ln of ‖dZ‖² over the network"
        yield Row("res-tanh", source, where, what, None, math.log(10) * expected.log10_dZ[0], total)
    width, depth, start, networks = 200, 64, 16, 40
    block = fbp.Residual(fbp.Serial(fbp.LayerNorm(0.0), plain("tanh", width)))
    lengths = (0.01, 1.0)
    flows = measure(block, width, depth, networks, [Setting(1.0, 0.0, q) for q in lengths], examples=16, seed=31)
    for q, flow in zip(lengths, flows, strict=True):
        expected = theory.propagation("tanh", 1.0, depth=depth, residual=True, norm="layer", q_0=q)
        span = math.log(depth / start)
        exponent = jackknife(flow.factors[:, start:], lambda x, span=span: float(np.sum(np.log(x.mean(axis=0)))) / span)
        predicted = math.log(10) * (expected.log10_dZ[start] - expected.log10_dZ[depth]) / span
        where = f"x + W tanh(LN x), q={q:g}, n={width}, l={start} to {depth}"
        yield Row(
            "preln-tanh",
            f"{DERIVED} after Doshi et al. 2023",
            where,
            "ζ of $‖dZ_l‖^2$ ~ $l^{-ζ}$",
            None,
            predicted,
            exponent,
            0.02,
        )


def _skip_init(quick: bool) -> Iterator[Row]:
    """Batch norm at the head of each branch, as De & Smith explain it; branches of zero; scaled weights of Brock."""
    width, depth, networks, source = 400, 20, 4 if quick else 16, "De & Smith 2020"
    block = fbp.Residual(fbp.Serial(fbp.BatchNorm(0.0), fbp.Activation("relu"), fbp.Dense(width, "he_normal")))
    (flow,) = measure(block, width, depth, networks, examples=BATCH, seed=30)
    where = f"x + W relu(BN x), He, batch {BATCH}, eps=0, n={width}, L={depth}"
    growth = jackknife((flow.q[:, -1] - flow.q[:, 0]) / depth)
    options = {"residual": True, "norm": "batch", "batch": BATCH}
    expected = theory.propagation("relu", HE, depth=depth, **options)
    slope = (expected.q[-1] - expected.q[0]) / depth
    yield Row("bn-skip", source, where, "variance added a block", 1.0, slope, growth, 0.02)
    gains, total = jackknife(flow.gains), 10 ** expected.log10_dZ[0]
    yield Row(
        "bn-skip-gradient", f"{DERIVED} after {source}", where, "‖dZ‖² over the network", None, total, gains, 0.03
    )
    depth = 100
    net = fbp.Repeat(fbp.Residual(plain("relu", 64), 0.0), depth)
    params = fbp.flow.sample_parameters(net, (64,), 3, seed=30)
    X = draw_normal(np.random.default_rng(30), (3, 1, 64))
    values = 10 ** fbp.flow.log10_singular_values(net, params, X)
    where, what = f"x + 0 W relu(x), n=64, L={depth}", "smallest singular value"
    yield Row("rezero", "Bachlechner et al. 2021", where, what, 1.0, 1.0, jackknife(values.min(axis=1)), 1e-4)
    # Brock et al. scale what has lost its mean by sqrt(2) / sqrt(1 - 1/pi).
    rng, width = np.random.default_rng(45), 1000
    gamma = math.sqrt(2 / (1 - 1 / math.pi))
    lengths = []
    for _ in range(4 if quick else 20):
        Z = rng.standard_normal((16, width))
        for _ in range(3):
            W = rng.standard_normal((width, width))
            W = (W - W.mean(axis=0)) / W.std(axis=0) / width**0.5
            Z = gamma * np.maximum(Z, 0) @ W
        lengths.append(np.mean(Z**2))
    where = f"relu times 1.7129, weights standardized over the fan-in, n={width}, L=3"
    yield Row("nf-gain", "Brock et al. 2021", where, "q from q = 1", 1.0, 1.0, jackknife(lengths), 0.02)


def _recurrent(quick: bool) -> Iterator[Row]:
    width, steps, networks, source = 128, 10, 20 if quick else 100, "Pascanu et al. 2013"
    what = "‖dZ‖ factor a step"
    W = fbp.flow.sample_parameters(fbp.Dense(width, "orthogonal"), (width,), networks, seed=36)["W"]
    for scale in (0.9, 1.0, 1.1):
        where = f"orthogonal recurrent matrix times {scale:g}, n={width}, {steps} steps"
        yield Row("rnn-isometry", source, where, what, scale, None, _through_time(scale * W, steps), 1e-4)
    W = fbp.flow.sample_parameters(fbp.Dense(width, "lecun_normal"), (width,), networks, seed=37)["W"]
    radii = np.abs(np.linalg.eigvals(W)).max(axis=1)
    where = f"Gaussian recurrent matrix, n={width}, {steps} steps"
    yield Row("rnn-sigma", source, f"{where}, σ=1", what, 1.0, 1.0, _through_time(W, steps), 0.005)
    finding = (
        f"Gradients through a Gaussian recurrent matrix follow its σ, not the sampled radius "
        f"({radii.mean():.3f} in the mean at σ = 1), at first: a matrix scaled to radius 1 has a smaller σ, and they "
        "shrink until the largest eigenvalue is all that is left of it. That takes more steps than there are units."
    )
    scaled = W / radii[:, None, None]
    # In the first steps by σ, which is one over the sampled radius; later by neither.
    for steps, sampled in ((10, float(np.mean(1 / radii))), (100, None), (1000, None)):
        rate, where = _through_powers(scaled, steps), f"Gaussian, n={width}, {steps} steps, scaled to spectral radius 1"
        yield Row("rnn-radius", "often said", where, what, 1.0, sampled, rate, 0.0005, finding=finding)


def _through_time(W: np.ndarray, steps: int) -> Measured:
    """The factor of the norm of the gradient a step in a linear recurrent network.

    Unrolled, it is a stack of equal blocks that share their weights.
    """
    networks, width, _ = W.shape
    tied = np.repeat(W.astype(np.float32)[:, None], steps, axis=1)
    params = ((), {"W": tied, "b": np.zeros((networks, steps, width), np.float32)})
    X, dZ = draw_normal(np.random.default_rng(38), (2, networks, 8, width))
    flow = run_through(fbp.Repeat(plain("linear", width), steps), params, X, dZ)
    return jackknife(flow.gains ** (0.5 / steps))


def _through_powers(W: np.ndarray, steps: int) -> Measured:
    """The same for any number of steps: the norm is taken out in each."""
    networks, width, _ = W.shape
    dZ, log = draw_normal(np.random.default_rng(38), (networks, 8, width)), np.zeros(networks)
    before = np.log(np.linalg.norm(dZ, axis=(1, 2)))
    back = np.ascontiguousarray(np.swapaxes(W, 1, 2), np.float32)
    for _ in range(steps):
        dZ = dZ @ back
        size = np.linalg.norm(dZ, axis=(1, 2))
        log, dZ = log + np.log(size), dZ / size[:, None, None]
    # What was divided by is the norm, but for that of the start.
    return jackknife(np.exp((log - before) / steps))
