"""Singular values of Jacobians, and how far one network lies from the mean over networks."""

import math
from collections.abc import Iterator

import numpy as np

import fbp
from fbp import theory
from papers_rows.networks import Setting, draw, jacobian_moments, measure, normal, plain, singular_values
from papers_rows.row import Measured, Row, jackknife

SIGMA_B = math.sqrt(0.05)
HE = math.sqrt(2)


def spectra(quick: bool) -> Iterator[Row]:
    """Pennington, Saxe, Hanin & Nica."""
    yield from _moments(quick)
    yield from _isometry(quick)
    yield from _hanin(quick)
    if not quick:
        yield from _finite()
        yield from _kappa()


def _moments(quick: bool) -> Iterator[Row]:
    width, depth, source = 400, 10, "Pennington 2017, 2018"
    edge = theory.mean_field("tanh", float(theory.edge_of_chaos("tanh", SIGMA_B)), SIGMA_B)
    settings = {"relu": Setting(HE), "tanh": Setting(edge.sigma_w, SIGMA_B, edge.q_star)}
    stated = {"gaussian": {"relu": 20, "tanh": 13.42, "linear": 10}, "orthogonal": {"relu": 10, "tanh": 3.42}}
    for weights, networks in (("gaussian", 4 if quick else 40), ("orthogonal", 3 if quick else 8)):
        init = fbp.initializers.Initializer(
            1.0, distribution="normal" if weights == "gaussian" else "orthogonal", bias_stddev=1.0
        )
        found: dict[str, list[np.ndarray]] = {name: [] for name in stated[weights]}
        rng = np.random.default_rng(20)
        for _ in range(networks):
            params = draw(plain("linear", width, init), (width,), (1, depth), rng)
            X = normal(rng, (1, width))
            for name in found:
                s = settings.get(name, Setting())
                args = s.sigma_w, s.sigma_b, np.float32(s.q**0.5) * X
                found[name].append(np.asarray(jacobian_moments(plain(name, width), params, *args), np.float64))
        for name, parts in found.items():
            moments = np.concatenate(parts)
            # Each network by itself: their means differ, which is worth 7 % at this width and nothing in the limit.
            variance = jackknife(moments[:, 1] / moments[:, 0] ** 2 - 1)
            where = f"{name}, {weights}, n={width}, L={depth}"
            q = settings.get(name, Setting()).q
            expected = theory.jacobian_variance(name, q, depth, weights)
            if name == "linear":
                yield _saxe(where, jackknife(moments[:, 1]), depth, width)
                continue
            yield Row(
                "pennington-var",
                source,
                where,
                "Var/mean² of squared singular values",
                stated[weights][name],
                expected,
                variance,
                tolerance=0.03,
            )
            if (name, weights) == ("relu", "orthogonal"):
                yield Row(
                    "isometry-relu",
                    "often said",
                    where,
                    "Var/mean² of squared singular values",
                    0.0,
                    expected,
                    variance,
                    tolerance=0.02,
                    finding="Orthogonal weights give no dynamical isometry with relu: half of the units are shut, "
                    "whatever the weights, and the spectrum widens by 1 a layer.",
                )


def _saxe(where: str, second: Measured, depth: int, width: int) -> Row:
    return Row(
        "saxe-moment",
        "Saxe et al. 2013",
        where,
        "E λ² of squared singular values",
        depth + 1,
        theory.linear_second_moment(depth, width),
        second,
        tolerance=0.02,
    )


def _finite() -> Iterator[Row]:
    """Where the width is only ten times the depth, moments are those of the exact recursions."""
    width, depth, networks = 100, 10, 500
    params = draw(plain("linear", width), (width,), (networks, depth), np.random.default_rng(24))
    X = normal(np.random.default_rng(25), (networks, width))
    exact = {"linear": theory.linear_second_moment(depth, width), "relu": _relu_second_moment(depth, width)}
    for name, sigma_w, limit in (("linear", 1.0, depth + 1), ("relu", HE, 2 * depth + 1)):
        moments = jacobian_moments(plain(name, width), params, sigma_w, 0.0, X)
        yield Row(
            "finite-moment",
            "derived",
            f"{name}, gaussian, n={width}, L={depth}",
            "E λ² of squared singular values",
            limit,
            exact[name],
            jackknife(np.asarray(moments)[:, 1]),
            tolerance=0.01,
            finding=f"This is the limit of infinite width; at n = 10 L the moment is {exact[name]:.2f}.",
        )


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
    block = plain("linear", width, "orthogonal")
    rng = np.random.default_rng(21)
    params, X = draw(block, (width,), (networks, depth), rng), normal(rng, (networks, width))
    values = np.asarray(singular_values(block, params, X))
    for name, extreme in (("largest", values.max(axis=1)), ("smallest", values.min(axis=1))):
        where = f"linear, orthogonal, n={width}, L={depth}"
        measured = jackknife(extreme)
        yield Row("orthogonal-isometry", "Saxe et al. 2013", where, f"{name} singular value", 1.0, 1.0, measured, 1e-4)


def _hanin(quick: bool) -> Iterator[Row]:
    width, depth, networks, source = 100, 20, 400 if quick else 2000, "Hanin 2018; Hanin & Nica 2018"
    (flow,) = measure(plain("relu", width), width, depth, networks, [Setting(HE)], examples=1, seed=22)
    logs, exact = np.log(flow.gains), theory.relu_log_norm([width] * depth)
    where = f"relu, He, n={width}, L={depth}"
    variance = jackknife(logs, lambda x: float(np.var(x, ddof=1)))
    yield Row("hanin-var", source, where, "Var ln ‖Jv‖²", 1.0, exact.variance, variance, tolerance=0.05)
    yield Row("hanin-var", source, where, "mean of ln ‖Jv‖²", -0.5, exact.mean, jackknife(logs), tolerance=0.05)
    yield Row("hanin-mean", source, where, "mean of ‖Jv‖²", 1.0, 1.0, jackknife(flow.gains), tolerance=0.05)
    yield Row(
        "hanin-typical",
        "often said",
        where,
        "typical ‖Jv‖², exp of the mean of logs",
        1.0,
        math.exp(exact.mean),
        jackknife(logs, lambda x: math.exp(x.mean())),
        tolerance=0.05,
        finding="He's variance keeps the mean over networks, which few networks with large gradients make up; the "
        "typical network loses, the more the greater L/n.",
    )


def _kappa() -> Iterator[Row]:
    width, depth, networks = 50, 10, 4000
    edge = theory.mean_field("tanh", float(theory.edge_of_chaos("tanh", SIGMA_B)), SIGMA_B)
    for name, stated, field in (("linear", 2.0, theory.mean_field("linear", 1.0)), ("tanh", 3.0, edge)):
        setting = Setting(field.sigma_w, field.sigma_b, field.q_star)
        (flow,) = measure(plain(name, width), width, depth, networks, [setting], examples=1, seed=23)
        yield Row(
            "kappa",
            "Hanin & Nica 2018",
            f"{name}{', critical, σ_b²=.05' if name == 'tanh' else ''}, n={width}, L={depth}",
            "n Var ln ‖Jv‖² a layer",
            stated,
            field.log_variance(depth),
            jackknife(np.log(flow.gains), lambda x: width / depth * float(np.var(x, ddof=1))),
            tolerance=0.03,
            finding=f"κ = 3 μ₂/μ₁² - 1 = {field.kappa:.2f} takes the lengths as fixed. For tanh they fluctuate by one "
            "part in n as well, δ feels it through tanh', and the variance of ln ‖Jv‖² is larger by "
            f"{field.log_variance(depth) / field.kappa - 1:.0%} at any width.",
        )
