"""What becomes of the angle between two inputs: maps iterated over a thousand layers, and networks."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from fbp import theory
from papers_rows.networks import CRITICAL, HE, Setting, measure, plain
from papers_rows.row import DERIVED, Measured, Row, jackknife


def correlations(quick: bool) -> Iterator[Row]:
    """Hayou's rates, and Zhang's tailored slopes."""
    yield from _maps(quick)
    yield from _tailored(quick)
    yield from _kernel(quick)


def _kernel(quick: bool) -> Iterator[Row]:
    """One layer, whose correlation from orthogonal inputs is the arc-cosine kernel at a right angle."""
    (flow,) = measure(plain("relu", 1000), 1000, 1, 4 if quick else 20, [Setting(HE)], examples=16, seed=47)
    where, what = "relu, orthogonal inputs, n=1000, L=1", "correlation after 1 layer"
    expected = float(theory.mean_field("relu", HE).correlations(1, 0.0)[-1])
    yield Row("arc-cosine", "Cho & Saul 2009", where, what, 1 / math.pi, expected, jackknife(flow.correlation[:, -1]))


def _maps(quick: bool) -> Iterator[Row]:
    repeats, points, source = 4 if quick else 8, 377 if quick else 610, "Hayou et al. 2019"
    he = theory.mean_field("relu", HE)
    cases = (
        ("relu, He", he, lambda z: np.maximum(z, 0), 1000, 2, "l²(1-c)", 43.13),
        ("tanh, critical, σ_b²=.05", CRITICAL, np.tanh, 3000, 1, "l(1-c)", 6.207),
    )
    for name, field, g, depth, power, what, stated in cases:
        apart = [_sampled_distance(g, field, depth, points, seed) for seed in range(40, 40 + repeats)]
        expected = depth**power * field.distances(depth, 0.0)[-1]
        where = f"{name}, l={depth}, {points} units sampled a layer"
        yield Row("hayou-maps", source, where, what, stated, expected, jackknife(depth**power * np.array(apart)))
    if quick:
        return
    width, depth = 500, 20
    for name, field in (("relu", he), ("tanh", CRITICAL)):
        (flow,) = measure(plain(name, width), width, depth, 20, [Setting.at(field)], examples=16, seed=48)
        expected = float(field.distances(depth, 0.0)[-1])
        where = f"{name}, critical, orthogonal inputs, n={width}"
        what, source = f"1 - correlation after {depth} layers", f"{DERIVED} after Hayou et al. 2019"
        yield Row("hayou-network", source, where, what, None, expected, jackknife(1 - flow.correlation[:, -1]), 0.05)


def _sampled_distance(
    g: Callable[[np.ndarray], np.ndarray], field: theory.MeanField, depth: int, points: int, seed: int
) -> float:
    """1 - c after `depth` layers of infinitely many units, of which a few are drawn in each layer.

    The two pre-activations of a unit are a point of the plane: its direction is uniform, and its squared radius s, in
    units of 2 q, is drawn with density s e^-s in place of e^-s, as differences grow like s. Points are those of a
    Fibonacci lattice with a new random shift in each layer. In terms of half the sum and half the difference of the
    two, nothing cancels where c is nearly 1.
    """
    rng, index = np.random.default_rng(seed), np.arange(points)
    lattice = index / points, index / points * round(points / ((1 + math.sqrt(5)) / 2)) % 1
    squares = np.linspace(0, 40, 20001)
    below = 1 - (1 + squares) * np.exp(-squares)
    q, distance = field.q_star, 1.0
    for _ in range(depth):
        turn, part = ((x + rng.random()) % 1 for x in lattice)
        # Folded, so that the lattice, which is periodic, meets no jump.
        s = np.interp(np.abs(2 * part - 1), below, squares)
        radius, angle = np.sqrt(2 * q * s), 2 * math.pi * turn
        half_sum = math.sqrt(1 - distance / 2) * radius * np.cos(angle)
        half = math.sqrt(distance / 2) * radius * np.sin(angle)
        # Each unit also with its inputs' signs turned, and over what the same units have of the difference that is
        # known, 2 q (1 - c): most of the noise cancels.
        moved = (g(half_sum + half) - g(half_sum - half)) ** 2 + (g(half - half_sum) - g(-half - half_sum)) ** 2
        distance *= field.sigma_w**2 * float(np.mean(moved / s) / np.mean((2 * half) ** 2 / s)) / 2
    return distance


def _tailored(quick: bool) -> Iterator[Row]:
    width, target, step = 500, 0.9, 1e-3
    for depth, stated in ((50, 0.43052),) if quick else ((50, 0.43052), (100, 0.57044)):
        networks = max(3, (4 if quick else 16) * 50 // depth)
        slope = theory.tailored_leaky_slope(depth, target)
        name, sigma_w = f"leaky_relu({stated})", math.sqrt(2 / (1 + stated**2))
        (flow,) = measure(plain(name, width), width, depth, networks, [Setting(sigma_w)], examples=16, seed=49)
        reached = jackknife(flow.correlation[:, -1])
        # One Newton step from the slope of the networks to the one that would take them to the target.
        nearby = theory.tailored_leaky_slope(depth, target + step)
        value, *ends = (stated + (target - c) * (nearby - slope) / step for c in reached[:3])
        measured = Measured(value, min(ends), max(ends), reached.networks)
        where = f"leaky relu, c₀=0, n={width}, L={depth}"
        yield Row("tat-leaky", "Zhang et al. 2022", where, "slope with c_L = .9", stated, slope, measured, 0.02)
