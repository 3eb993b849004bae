"""tanh and erf between order and chaos: lengths, gradients, and the weights at which gradients stay level."""

import math
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from fbp import theory
from fbp.theory import MeanField
from papers_rows.networks import SIGMA_B, Passage, Setting, measure, plain
from papers_rows.row import DERIVED, Measured, Row, jackknife

WIDTH, DEPTH, EXAMPLES = 200, 20, 16
SOURCE = "Poole 2016, Schoenholz 2017"
PUBLISHED = {1.0: (0.7590, 0.1936), 1.3: (0.8802, 0.3153), 2.5: (1.1335, 1.0640), 4.0: (1.3424, 2.1955)}
TANH_EDGE = {2.01e-5: 1.0500, 0.01: 1.4242, 0.05: 1.76096, 0.1: 1.9861, 0.2: 2.2852, 0.5: 2.8432}
ERF_EDGE = {0.05: 1.37584, 0.1: 1.55212}


@cache
def tanh_flows(quick: bool) -> dict[float, tuple[MeanField, Passage]]:
    """For each sigma_w^2, the theory and the measured flow of networks that start at q*, inputs as correlated as the
    biases make orthogonal ones."""
    fields = {variance: theory.mean_field("tanh", math.sqrt(variance), SIGMA_B) for variance in PUBLISHED}
    settings = [Setting(f.sigma_w, SIGMA_B, f.q_star, SIGMA_B**2 / f.q_star) for f in fields.values()]
    flows = measure(plain("tanh", WIDTH), WIDTH, DEPTH, 10 if quick else 80, settings, EXAMPLES, seed=10)
    return {v: (field, flow) for (v, field), flow in zip(fields.items(), flows, strict=True)}


def tanh_networks(quick: bool) -> Iterator[Row]:
    """chi_1, q*, and where correlations go, at four variances of the weights."""
    flows = tanh_flows(quick)
    where = {v: f"tanh, σ_b²=.05, σ_w²={v:g}, n={WIDTH}, L={DEPTH}" for v in flows}
    for variance, (field, flow) in flows.items():
        yield Row("mf-tanh", SOURCE, where[variance], "χ₁", PUBLISHED[variance][0], field.chi_1, flow.rate)
    for variance, (field, flow) in flows.items():
        measured = jackknife(flow.q[:, 5:].mean(axis=1))
        yield Row("mf-tanh-q", SOURCE, where[variance], "q*", PUBLISHED[variance][1], field.q_star, measured, 0.02)
    for variance, (field, flow) in flows.items():
        expected = float(field.distances(DEPTH, SIGMA_B**2 / field.q_star)[-1])
        measured, source = jackknife(1 - flow.correlation[:, -1]), f"{DERIVED} after Poole 2016"
        what = f"1 - correlation after {DEPTH} layers"
        yield Row("mf-tanh-c", source, where[variance], what, None, expected, measured, 0.05)


def edges(quick: bool) -> Iterator[Row]:
    """The root of chi_1 = 1 in sigma_w^2, for tanh and erf."""
    networks, published = 10 if quick else 60, dict(TANH_EDGE)
    if not quick:
        # Without biases the edge is blunt: chi_1 hardly depends on sigma_w, and the root needs many examples.
        least = min(published)
        yield from _edges("tanh", "edge-of-chaos", {least: published.pop(least)}, 400, 30, 4 * EXAMPLES, seed=11)
    yield from _edges("tanh", "edge-of-chaos", published, WIDTH, networks, EXAMPLES, seed=12)
    yield from _edges("erf", "edge-erf", ERF_EDGE, WIDTH, networks, EXAMPLES, seed=13)


def _edges(
    name: str, id: str, published: dict[float, float], width: int, networks: int, examples: int, seed: int
) -> Iterator[Row]:
    roots = [float(theory.edge_of_chaos(name, math.sqrt(b))) ** 2 for b in published]
    # Two variances that enclose the root; near q = 0 lengths change fast, so that they lie close together.
    pairs = [(root * 0.985, root * 1.015) for root in roots]
    settings = [
        Setting.at(theory.mean_field(name, math.sqrt(w), math.sqrt(b)))
        for b, pair in zip(published, pairs, strict=True)
        for w in pair
    ]
    flows = measure(plain(name, width), width, DEPTH, networks, settings, examples=examples, seed=seed)
    rates = [flow.factors.mean(axis=1) for flow in flows]
    for i, (variance, stated) in enumerate(published.items()):
        where = f"{name}, σ_b²={variance:g}, n={width}, L={DEPTH}"
        measured = _root(pairs[i], rates[2 * i : 2 * i + 2])
        yield Row(id, SOURCE, where, "critical σ_w²", stated, roots[i], measured)


def _root(variances: Sequence[float], rates: Sequence[np.ndarray]) -> Measured:
    """The variance at which the mean rate is 1, by a straight line through the logarithms."""
    low, high = np.log(variances)

    def root(samples: np.ndarray) -> float:
        a, b = np.log(samples.mean(axis=0))
        return math.exp(low - a * (high - low) / (b - a))

    return jackknife(np.stack(rates, axis=1), root)
