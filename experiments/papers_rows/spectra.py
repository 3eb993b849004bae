"""Singular values of Jacobians, and how far one network lies from the mean over networks."""

import math
from collections.abc import Iterator

import numpy as np

import fbp
from fbp import theory
from fbp.initializers import Distribution
from papers_rows.networks import CRITICAL, HE, Setting, draw_normal, jacobian_moments, measure, plain
from papers_rows.row import Row, jackknife

PENNINGTON = "Pennington 2017, 2018"
SECOND_MOMENT = "E λ² of squared singular values"
NO_ISOMETRY = (
    "Orthogonal weights give no dynamical isometry with relu: half of the units are shut, whatever the weights, and "
    "the spectrum widens by 1 a layer."
)
TYPICAL = (
    "He's variance keeps the mean over networks, which few networks with large gradients make up; the typical network "
    "loses, the more the greater L/n."
)


def spectra(quick: bool) -> Iterator[Row]:
    """Pennington, Saxe, Hanin & Nica."""
    yield from _moments(quick)
    yield from _isometry(quick)
    yield from _hanin(quick)
    if not quick:
        yield from _finite()
        yield from _kappa()


def _moments(quick: bool) -> Iterator[Row]:
    width, depth, source = 400, 10, PENNINGTON
    settings = {"relu": Setting(HE), "tanh": Setting.at(CRITICAL), "linear": Setting()}
    published: dict[str, tuple[Distribution, int, dict[str, float | None]]] = {
        "gaussian": ("normal", 4 if quick else 40, {"relu": 20, "tanh": 13.42, "linear": None}),
        "orthogonal": ("orthogonal", 3 if quick else 8, {"relu": 10, "tanh": 3.42}),
    }
    for weights, (distribution, networks, numbers) in published.items():
        init = fbp.initializers.Initializer(1.0, distribution=distribution, bias_stddev=1.0)
        net = fbp.Repeat(plain("linear", width, init), depth)
        params = fbp.flow.sample_parameters(net, (width,), networks, seed=20)
        X = draw_normal(np.random.default_rng(20), (networks, width))
        for name, stated in numbers.items():
            s, net = settings[name], fbp.Repeat(plain(name, width), depth)
            moments = jacobian_moments(net, params, np.float32(s.q**0.5) * X, s.sigma_w, s.sigma_b)
            where = f"{name}, {weights}, n={width}, L={depth}"
            if stated is None:
                exact, second = theory.linear_second_moment(depth, width), jackknife(moments[:, 1])
                yield Row("saxe-moment", "Saxe et al. 2013", where, SECOND_MOMENT, depth + 1, exact, second)
                continue
            # Each network by itself: their means differ, which is worth 7 % at this width and nothing in the limit.
            spread, what = jackknife(moments[:, 1] / moments[:, 0] ** 2 - 1), "Var/mean² of squared singular values"
            expected = theory.jacobian_variance(name, s.q, depth, weights)
            yield Row("pennington-var", source, where, what, stated, expected, spread, 0.03)
            if (name, weights) == ("relu", "orthogonal"):
                yield Row("isometry-relu", "often said", where, what, 0.0, expected, spread, 0.02, finding=NO_ISOMETRY)


def _finite() -> Iterator[Row]:
    """Where the width is only ten times the depth, moments are those of the exact recursions."""
    width, depth, networks = 100, 10, 500
    params = fbp.flow.sample_parameters(fbp.Repeat(plain("linear", width), depth), (width,), networks, seed=24)
    X = draw_normal(np.random.default_rng(25), (networks, width))
    linear, relu = theory.linear_second_moment(depth, width), _relu_second_moment(depth, width)
    finding = (
        f"The stated number is the limit of infinite width; at n = {width // depth} L the moment is {linear:.2f} "
        f"(linear) and {relu:.2f} (relu)."
    )
    # L + 1 for linear layers, and one more than Var / mean^2 = 2 L for relu.
    cases = ("linear", 1.0, depth + 1, linear, "Saxe et al. 2013"), ("relu", HE, 2 * depth + 1, relu, PENNINGTON)
    for name, sigma_w, limit, exact, source in cases:
        moments = jacobian_moments(fbp.Repeat(plain(name, width), depth), params, X, sigma_w)
        second, where = jackknife(moments[:, 1]), f"{name}, gaussian, n={width}, L={depth}"
        yield Row("finite-moment", source, where, SECOND_MOMENT, limit, exact, second, finding=finding)


def _relu_second_moment(depth: int, width: int) -> float:
    """`theory.linear_second_moment` for relu layers of variance 2/n: each unit is open for half of the inputs.

    With A = J J^T, a = E tr(A^2) / n and b = E (tr A)^2 / n^2, and D, W of the layer independent of A,

        a' = (1 + 3/n) a + 2 b,    b' = (1 + 1/n) b + 4 a / n^2
    """
    n, a, b = width, 1.0, 1.0
    for _ in range(depth):
        a, b = (1 + 3 / n) * a + 2 * b, (1 + 1 / n) * b + 4 * a / n**2
    return a


def _isometry(quick: bool) -> Iterator[Row]:
    width, depth, networks = 64, 100, 2 if quick else 5
    net = fbp.Repeat(plain("linear", width, "orthogonal"), depth)
    params = fbp.flow.sample_parameters(net, (width,), networks, seed=21)
    X = draw_normal(np.random.default_rng(21), (networks, 1, width))
    values = 10 ** fbp.flow.log10_singular_values(net, params, X)
    for name, extreme in (("largest", values.max(axis=1)), ("smallest", values.min(axis=1))):
        where = f"linear, orthogonal, n={width}, L={depth}"
        what, source = f"{name} singular value", "Saxe et al. 2013"
        yield Row("orthogonal-isometry", source, where, what, 1.0, 1.0, jackknife(extreme), 1e-4)


def _hanin(quick: bool) -> Iterator[Row]:
    width, depth, networks, source = 100, 20, 400 if quick else 2000, "Hanin 2018; Hanin & Nica 2018"
    (flow,) = measure(plain("relu", width), width, depth, networks, [Setting(HE)], examples=1, seed=22)
    logs, exact = np.log(flow.gains), theory.relu_log_norm([width] * depth)
    where = f"relu, He, n={width}, L={depth}"
    variance = jackknife(logs, lambda x: float(np.var(x, ddof=1)))
    yield Row("hanin-var", source, where, "Var ln ‖Jv‖²", 1.0, exact.variance, variance, 0.03)
    yield Row("hanin-var", source, where, "mean of ln ‖Jv‖²", -0.5, exact.mean, jackknife(logs), 0.05)
    yield Row("hanin-mean", source, where, "mean of ‖Jv‖²", 1.0, 1.0, jackknife(flow.gains), 0.05)
    typical, what = jackknife(logs, lambda x: math.exp(x.mean())), "typical ‖Jv‖², exp of the mean of logs"
    yield Row("hanin-typical", "often said", where, what, 1.0, math.exp(exact.mean), typical, 0.05, finding=TYPICAL)


def _kappa() -> Iterator[Row]:
    width, depth, networks = 50, 10, 4000
    for name, stated, field in (("linear", 2.0, theory.mean_field("linear", 1.0)), ("tanh", 3.0, CRITICAL)):
        (flow,) = measure(plain(name, width), width, depth, networks, [Setting.at(field)], examples=1, seed=23)
        measured = jackknife(np.log(flow.gains), lambda x: width / depth * float(np.var(x, ddof=1)))
        finding = (
            f"κ = 3 μ₂/μ₁² - 1 = {field.kappa:.2f} takes the lengths as fixed. For tanh they fluctuate by one "
            "part in n as well, dZ feels it through tanh', and the variance of ln ‖Jv‖² is larger by "
            f"{field.log_variance(depth) / field.kappa - 1:.0%} at any width."
        )
        finding = finding if name == "tanh" else ""
        where = f"{name}{', critical, σ_b²=.05' if name == 'tanh' else ''}, n={width}, L={depth}"
        expected, what = field.log_variance(depth), "n Var ln ‖Jv‖² a layer"
        yield Row("kappa", "Hanin & Nica 2018", where, what, stated, expected, measured, 0.03, finding=finding)
