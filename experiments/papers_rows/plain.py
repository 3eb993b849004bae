"""Plain networks: what the choice of activation and variance does to lengths and gradients."""

import math
from collections.abc import Iterator

import numpy as np

from fbp import theory
from papers_rows.networks import FACTOR, HE, Setting, measure, plain
from papers_rows.row import DERIVED, Row, jackknife

WIDTH = 200


def plain_networks(quick: bool) -> Iterator[Row]:
    """Glorot & Bengio, LeCun, He, and what they are taken to say."""
    yield from _glorot(quick)
    yield from _lecun(quick)
    yield from _rectifiers(quick)
    yield from _sigmoid(quick)
    if not quick:
        yield from _self_normalizing()


def _glorot(quick: bool) -> Iterator[Row]:
    width, depth, source = 1000, 20, "Glorot & Bengio 2010"
    where = f"W ~ U[±1/√n], tanh of small inputs, n={width}, L={depth}"
    block = plain("tanh", width, "inverse_sqrt_uniform")
    # Small inputs keep tanh linear: mean square 1e-8 is as good as 0.
    (flow,) = measure(block, width, depth, 3 if quick else 12, [Setting(q=1e-8)], examples=32, weights=True, seed=1)
    small = theory.propagation("tanh", math.sqrt(1 / 3), depth=depth, q_0=1e-8)
    yield Row("glorot-third", source, where, FACTOR, 1 / 3, small.backward[0], flow.rate)
    slope = 10 ** ((small.log10_dW[0] - small.log10_dW[-1]) / (depth - 1))
    rates = np.exp((flow.log_dW[:, 0] - flow.log_dW[:, -1]) / (depth - 1))
    yield Row("glorot-third", source, where, "‖dW‖² factor a layer", 1.0, slope, jackknife(rates))


def _lecun(quick: bool) -> Iterator[Row]:
    source, name, width, depth = "LeCun et al. 1998", "scaled_tanh", 500, 20
    field = theory.mean_field(name, 1.0)
    starts = [Setting.at(field), Setting()]
    fixed, unit = measure(plain(name, width), width, depth, 3 if quick else 16, starts, seed=2)
    where = f"1.7159 tanh(2x/3), std 1/√n, n={width}, L={depth}"
    q = jackknife(fixed.q[:, 5:].mean(axis=1))
    yield Row("lecun-tanh", source, where, "q*", 0.3824, field.q_star, q, 0.02)
    yield Row("lecun-tanh", source, where, "χ₁", 1.0192, field.chi_1, fixed.rate)
    where, q, expected = f"{where}, from q = 1", jackknife(unit.q[:, -1]), field.lengths(depth, 1.0)[-1]
    finding = "The variance does not stay at 1: a tanh that maps ±1 to ±1 maps unit variance to less, to 0.38."
    yield Row("lecun-unit-variance", source, where, "q after L layers", 1.0, expected, q, 0.02, finding=finding)


def _rectifiers(quick: bool) -> Iterator[Row]:
    depth, networks, source = 50, 5 if quick else 24, "He et al. 2015"
    flows = measure(plain("relu", WIDTH), WIDTH, depth, networks, [Setting(HE), Setting(1.0)], seed=3)
    for variance, rate, flow in zip((2, 1), (1.0, 0.5), flows, strict=True):
        predicted = theory.mean_field("relu", math.sqrt(variance)).chi_1
        where = f"relu, σ_w²={variance}, n={WIDTH}, L={depth}"
        yield Row("he-factor-2", source, where, FACTOR, rate, predicted, flow.rate)
    where = f"relu with Glorot's variance, σ_w²=1, n={WIDTH}, L={depth}"
    finding = "Glorot's variance keeps gradients of linear units only; relu halves their mean square in every layer."
    yield Row("glorot-relu", "often said", where, FACTOR, 1.0, 0.5, flows[1].rate, finding=finding)
    for slope in (0.2,) if quick else (0.2, 0.5):
        sigma_w, name = math.sqrt(2 / (1 + slope**2)), f"leaky_relu({slope})"
        (flow,) = measure(plain(name, WIDTH), WIDTH, depth, networks, [Setting(sigma_w)], seed=4)
        where = f"leaky relu, slope {slope}, σ_w²=2/(1+a²), n={WIDTH}, L={depth}"
        predicted = theory.mean_field(name, sigma_w).chi_1
        yield Row("he-leaky", source, where, FACTOR, 1.0, predicted, flow.rate)
    if quick:
        return
    # A few layers: between its fixed points 0 and infinity the length map of gelu magnifies what finite widths do.
    (flow,) = measure(plain("gelu", WIDTH), WIDTH, 5, 100, [Setting(HE)], seed=5)
    expected = float(theory.propagation("gelu", HE, depth=5).backward.mean())
    where = f"gelu with He's variance, σ_w²=2, n={WIDTH}, q=1, L=5"
    finding = "He's 2 is relu's: under gelu lengths shrink, and gradients with them, the faster the deeper."
    what = "‖dZ‖² factor, mean over layers"
    yield Row("he-gelu", "often said", where, what, 1.0, expected, flow.rate, 0.02, finding=finding)


def _sigmoid(quick: bool) -> Iterator[Row]:
    fields = small, large = [theory.mean_field("sigmoid", sigma_w) for sigma_w in (1.0, 16.0)]
    settings = [Setting.at(field) for field in fields]
    flows = measure(plain("sigmoid", WIDTH), WIDTH, 20, 5 if quick else 30, settings, seed=6)
    where = f"sigmoid, σ_w²=1, σ_b=0, n={WIDTH}, L=20"
    yield Row("sigmoid-chi", DERIVED, where, "χ₁", None, small.chi_1, flows[0].rate)
    finding = (
        "A slope of at most 1/4 does not make gradients vanish: the weights count too, and from σ_w = "
        f"{float(theory.edge_of_chaos('sigmoid', 0.0)):.2f} on they explode."
    )
    where, bound = f"sigmoid, σ_w={large.sigma_w:g}, n={WIDTH}, L=20", {"at_most": True, "finding": finding}
    yield Row("sigmoid-vanishes", "often said", where, "χ₁, at most 1", 1.0, large.chi_1, flows[1].rate, 0.02, **bound)


def _self_normalizing() -> Iterator[Row]:
    source, field = "Klambauer et al. 2017", theory.mean_field("selu", 1.0)
    (flow,) = measure(plain("selu", WIDTH), WIDTH, 20, 60, examples=16, seed=7)
    where = f"selu, σ_w²=1, n={WIDTH}, L=20"
    q = jackknife(flow.q[:, 1:].mean(axis=1))
    yield Row("selu", source, where, "q*", 1.0, field.q_star, q, 0.02)
    finding = "Normal activations are not level gradients: the mean square of dZ grows by 7 % a layer."
    yield Row("selu-gradient", source, where, "χ₁", 1.0, field.chi_1, flow.rate, finding=finding)
