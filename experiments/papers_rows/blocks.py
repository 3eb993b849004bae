"""Normalization, residual connections and recurrence."""

import math
from collections.abc import Iterator

import numpy as np

import fbp
from fbp import theory
from papers_rows.networks import Flow, Setting, draw, measure, normal, passes, plain
from papers_rows.row import Row, jackknife

HE = math.sqrt(2)
BATCH = 64


def blocks(quick: bool) -> Iterator[Row]:
    """Yang, De & Smith, Zhang, Doshi, Pascanu, and what is said of normalization and of the spectral radius."""
    yield from _batch_norm(quick)
    yield from _residual(quick)
    yield from _pre_norm(quick)
    yield from _recurrent(quick)
    if not quick:
        yield from _layer_norm()


def _batch_norm(quick: bool) -> Iterator[Row]:
    networks, source = 3 if quick else 12, "Yang et al. 2019"
    flow, expected, where = _through_batch_norm("relu", 400, 20, networks)
    # Examples become alike within the first blocks: the theory is that of the fixed point.
    settled = flow.factors[:, 8:]
    measured, norms = jackknife(settled.mean(axis=1)), jackknife(np.sqrt(settled).mean(axis=1))
    yield Row("bn-relu", source, where, "‖δ‖² factor a layer", 1.4931, expected, measured, tolerance=0.02)
    limit = math.sqrt(math.pi / (math.pi - 1))
    yield Row("bn-norm", source, where, "‖δ‖ factor a layer", limit, math.sqrt(expected), norms, tolerance=0.02)
    yield Row(
        "bn-explodes",
        "often said",
        where,
        "‖δ‖² factor a layer, at most 1",
        1.0,
        expected,
        measured,
        tolerance=0.02,
        at_most=True,
        finding="Batch normalization does not prevent exploding gradients at initialization, it makes them explode: "
        f"x{norms.value:.2f} in norm a layer, whatever the weights.",
    )
    if quick:
        return
    # Without an activation examples start alike, and drift apart by one part in n / batch a layer.
    flow, expected, where = _through_batch_norm("linear", 1000, 4, networks)
    rate = (BATCH - 2) / (BATCH - 3)
    yield Row("bn-linear", source, where, "‖δ‖² factor a layer", rate, expected, jackknife(flow.factors.mean(axis=1)))


def _through_batch_norm(name: str, width: int, depth: int, networks: int) -> tuple[Flow, float, str]:
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
        yield Row("ln-scale", "derived", where, "‖δ‖² factor a layer", 1.0, expected, measured, tolerance=0.02)


def _residual(quick: bool) -> Iterator[Row]:
    width, depth, networks, source = 300, 10, 10 if quick else 60, "De & Smith 2020"
    block = fbp.Residual(plain("relu", width))
    (flow,) = measure(block, width, depth, networks, [Setting(HE)], examples=16, seed=33)
    expected = theory.propagation("relu", HE, depth=depth, residual=True)
    where = f"x + W relu(x), He, n={width}, L={depth}"
    forward = jackknife((flow.q[:, 1:] / flow.q[:, :-1]).mean(axis=1))
    backward = jackknife(flow.factors.mean(axis=1))
    yield Row("res-double", source, where, "variance factor a block", 2.0, expected.forward[0], forward, tolerance=0.02)
    yield Row("res-double", source, where, "‖δ‖² factor a block", 2.0, expected.backward[0], backward, tolerance=0.02)
    (flow,) = measure(fbp.Residual(plain("relu", width), 0.0), width, depth, 3, [Setting(HE)], seed=33)
    still = theory.propagation("relu", HE, depth=depth, residual=0.0).backward[0]
    where = f"x + 0 W relu(x), He, n={width}, L={depth}"
    yield Row(
        "res-double", source, where, "‖δ‖² factor a block", 1.0, still, jackknife(flow.factors.mean(axis=1)), 1e-5
    )

    width, depth = 128, 100
    scaled = fbp.Residual(plain("relu", width), depth**-0.5)
    (flow,) = measure(scaled, width, depth, 12 if quick else 60, [Setting(HE)], examples=16, seed=34)
    expected = theory.propagation("relu", HE, depth=depth, residual=depth**-0.5)
    where = f"x + L^-1/2 W relu(x), He, n={width}, L={depth}"
    backward, forward = jackknife(flow.gains), jackknife(flow.q[:, -1] / flow.q[:, 0])
    for what, predicted, measured in (
        ("‖δ‖² over the network", 10 ** expected.log10_dZ[0], backward),
        ("variance over the network", expected.q[-1], forward),
    ):
        yield Row("res-scaled", "Zhang et al. 2019", where, what, (1 + 1 / depth) ** depth, predicted, measured, 0.02)


def _pre_norm(quick: bool) -> Iterator[Row]:
    width, depth, start, networks, source = 200, 100, 25, 6 if quick else 30, "Doshi et al. 2023"
    block = fbp.Residual(fbp.Serial(fbp.LayerNorm(0.0), *_plain_layers("relu", width)))
    (flow,) = measure(block, width, depth, networks, [Setting(HE)], examples=16, seed=35)
    expected = theory.propagation("relu", HE, depth=depth, residual=True, norm="layer")
    where = f"x + W relu(LN x), He, n={width}, l={start} to {depth}"

    def exponent(samples: np.ndarray) -> float:
        early, late = samples.mean(axis=0)
        return math.log(early / late) / math.log(depth / start)

    ends = np.exp(flow.log_dZ[:, [start, depth]] - flow.log_dZ[:, [depth]])
    predicted = (expected.log10_dZ[start] - expected.log10_dZ[depth]) / math.log10(depth / start)
    yield Row(
        "preln-relu",
        source,
        where,
        "ζ of ‖δ_l‖² ~ l^-ζ",
        1.0,
        predicted,
        jackknife(ends, exponent),
        tolerance=0.02,
        finding="1 is the limit of large l: the length is 1 + l, so that at this depth the exponent is a little less.",
    )
    growth = jackknife((flow.q[:, -1] - flow.q[:, 0]) / depth)
    slope = (expected.q[-1] - expected.q[0]) / depth
    yield Row("preln-growth", source, where, "variance added a block", 1.0, slope, growth, tolerance=0.02)


def _plain_layers(activation: str, width: int) -> tuple[fbp.Layer, ...]:
    """The layers of a plain block, for a longer one."""
    return fbp.Activation(activation), fbp.Dense(width, "mean_field(1, 1)")


def _recurrent(quick: bool) -> Iterator[Row]:
    width, steps, networks, source = 128, 10, 20 if quick else 100, "Pascanu et al. 2013"
    rng = np.random.default_rng(36)
    params = draw(plain("linear", width, "orthogonal"), (width,), (networks, 1), rng)
    for scale in (0.9, 1.0, 1.1):
        flow = _through_time(params, scale, width, steps, rng)
        where = f"orthogonal recurrent matrix times {scale:g}, n={width}, {steps} steps"
        yield Row("rnn-isometry", source, where, "‖δ‖ factor a step", scale, None, jackknife(_norm_rates(flow)), 1e-4)
    params = draw(plain("linear", width, "lecun_normal"), (width,), (networks, 1), rng)
    radii = np.abs(np.linalg.eigvals(params[1]["W"][:, 0])).max(axis=1)
    where = f"Gaussian recurrent matrix, n={width}, {steps} steps"
    rates = jackknife(_norm_rates(_through_time(params, 1.0, width, steps, rng)))
    yield Row("rnn-sigma", source, f"{where}, σ=1", "‖δ‖ factor a step", 1.0, 1.0, rates, tolerance=0.005)
    rates = jackknife(_norm_rates(_through_time(params, 1 / radii, width, steps, rng)))
    yield Row(
        "rnn-radius",
        "often said",
        f"{where}, scaled to spectral radius 1",
        "‖δ‖ factor a step",
        1.0,
        float(np.mean(1 / radii)),
        rates,
        tolerance=0.005,
        finding=f"Gradients through a Gaussian recurrent matrix follow its σ, not the sampled radius "
        f"({radii.mean():.3f} in the mean at σ = 1): a matrix scaled to radius 1 has a smaller σ, and they vanish.",
    )


def _through_time(params, scale, width: int, steps: int, rng: np.random.Generator) -> Flow:
    """A linear recurrent network unrolled: a stack of equal blocks that share their weights."""
    networks = len(params[1]["W"])
    W = params[1]["W"] * np.reshape(np.float32(scale), (-1, 1, 1, 1))
    tied = ((), {"W": np.repeat(W, steps, axis=1), "b": np.zeros((networks, steps, width), np.float32)})
    X, dZ = (normal(rng, (networks, 8, width)) for _ in range(2))
    flow = passes(plain("linear", width), False, tied, 1.0, 0.0, X, dZ)
    return Flow(*(np.asarray(x, np.float64) for x in flow))


def _norm_rates(flow: Flow) -> np.ndarray:
    """The factor of the norm of the gradient a step, over all steps."""
    return flow.gains ** (0.5 / (flow.log_dZ.shape[1] - 1))
