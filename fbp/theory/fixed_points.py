"""Fixed points of the length map, and the weights at which gradients neither grow nor vanish."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from fbp.activations import Nonlinearity
from fbp.errors import FbpError
from fbp.theory.maps import check_sigmas, homogeneous_slope, length_map, length_slope, second_moment, slope_moment
from fbp.theory.quadrature import LEAST, MOST, Floats, elementwise

_GRID = np.concatenate([[LEAST], np.logspace(-10, 8, 18 * 16 + 1), [MOST]])
_ROUNDING = 1e-12
"""Relative differences below this are rounding."""
NEAR = 1e-9
"""Slopes this near to 1 count as 1: a fixed point solved to rounding moves its slope by less."""


@lru_cache(maxsize=64)
def _moments(activation: Nonlinearity) -> tuple[Floats, Floats]:
    return second_moment(activation, _GRID), slope_moment(activation, _GRID)


def _sided(values: Floats) -> Floats:
    """Differences on the grid, relative to q, with those that are rounding set to 0.

    Towards the ends a difference may vanish in the limit (hard_tanh is linear to rounding up to q = 0.02): there it is
    given the side from which it does.
    """
    values = np.where(np.abs(values) < _ROUNDING, 0, values)
    sure = np.flatnonzero(values)
    if sure.size:
        values[: sure[0]], values[sure[-1] + 1 :] = values[sure[0]], values[sure[-1]]
    return values


def _roots(values: Floats, function: Callable[[float], float]) -> list[float]:
    """The zeros of a function of q with these values on the grid."""
    change = np.flatnonzero(np.sign(values[:-1]) * np.sign(values[1:]) < 0)
    exact = [float(q) for q in _GRID[values == 0]]
    found = [
        cast(float, brentq(lambda t: function(math.exp(t)), *np.log(_GRID[i : i + 2]), xtol=1e-15)) for i in change
    ]
    return sorted(exact + [math.exp(t) for t in found])


def length_fixed_points(activation: Nonlinearity, sigma_w: float, sigma_b: float) -> tuple[float, ...] | None:
    """Every q with q = sigma_w^2 E g(sqrt(q) x)^2 + sigma_b^2, in rising order.

    Returns:
        The positive fixed points; 0 where it is one; infinity where lengths grow without bound from large
        ones. None where every q is a fixed point.
    """
    a = homogeneous_slope(activation)
    if a is not None:
        gain = sigma_w**2 * (1 + a * a) / 2
        if abs(gain - 1) < _ROUNDING:
            return (math.inf,) if sigma_b else None
        outside = (math.inf,) if gain > 1 else ()
        if sigma_b:
            return outside or (sigma_b**2 / (1 - gain),)
        return (0.0, *outside)
    seconds, _ = _moments(activation)
    relative = (sigma_w**2 * seconds + sigma_b**2) / _GRID - 1
    relative = _sided(relative)
    if not relative.any():
        return None
    points = _roots(relative, lambda q: float(length_map(activation, sigma_w, sigma_b, q)) / q - 1)
    if float(length_map(activation, sigma_w, sigma_b, 0.0)) == 0:
        points = [0.0, *points]
    return tuple(points) + ((math.inf,) if relative[-1] > 0 else ())


def length_limit(activation: Nonlinearity, sigma_w: float, sigma_b: float, q_0: float) -> float:
    """Where the lengths go from q_0: the nearest fixed point in the direction of the first step.

    This is so where the length map rises, as it does for every activation of the table; elsewhere the map is followed
    step by step.

    Raises:
        FbpError: the lengths of a map that does not rise have not settled after 10,000 layers.
    """
    points = length_fixed_points(activation, sigma_w, sigma_b)
    first = float(length_map(activation, sigma_w, sigma_b, q_0))
    if points is None or abs(first - q_0) <= _ROUNDING * q_0:
        return q_0
    seconds, _ = _moments(activation)
    if np.all(np.diff(seconds) >= -_ROUNDING * seconds[1:]):
        if first > q_0:
            return min((p for p in points if p > q_0), default=math.inf)
        return max((p for p in points if p < q_0), default=0.0)
    before = q = q_0
    for _ in range(10_000):
        before, q = q, float(length_map(activation, sigma_w, sigma_b, q))
        if abs(q - before) <= _ROUNDING * q:
            return q
    raise FbpError(
        f"the lengths of {activation!r} with sigma_w={sigma_w}, sigma_b={sigma_b} must settle, got a change from "
        f"{before:.6g} to {q:.6g} after 10,000 layers; change sigma_w, or follow `lengths`"
    )


def critical_point(activation: Nonlinearity, sigma_b: float) -> tuple[float | None, str]:
    """sigma_w with chi_1 = 1, or None and the reason.

    On the edge sigma_w^2 = 1 / E g'^2, so that q - E g^2 / E g'^2 = sigma_b^2 is one equation for q alone; Hayou,
    Doucet & Rousseau (2019). Of several solutions it is that of the least sigma_w with a stable length.
    """
    a = homogeneous_slope(activation)
    if a is not None:
        edge = math.sqrt(2 / (1 + a * a))
        if sigma_b:
            return None, f"chi_1 = 1 at sigma_w = {edge:.6g} for every q, but with sigma_b > 0 no q is fixed there"
        return edge, ""
    seconds, slopes = _moments(activation)
    seen = slopes > 1e-290
    rest = np.full_like(_GRID, math.nan)
    rest[seen] = (_GRID[seen] - seconds[seen] / slopes[seen] - sigma_b**2) / _GRID[seen]
    rest = _sided(rest)

    def relative(q: float) -> float:
        return (q - float(second_moment(activation, q) / slope_moment(activation, q)) - sigma_b**2) / q

    lengths = _roots(rest, relative)
    if sigma_b == 0 and float(second_moment(activation, 0.0)) == 0:
        lengths = [LEAST, *lengths]
    edges = [(float(slope_moment(activation, q)) ** -0.5, q) for q in lengths]
    stable = [(s, q) for s, q in edges if _attracts(activation, s, sigma_b, q)]
    if stable:
        return min(stable)[0], ""
    if edges:
        s, q = min(edges)
        return (
            None,
            f"chi_1 = 1 at sigma_w = {s:.6g} holds for the length {0 if q == LEAST else q:.6g}, not a stable one",
        )
    return None, "no length is fixed where chi_1 = 1"


def _attracts(activation: Nonlinearity, sigma_w: float, sigma_b: float, q: float) -> bool:
    if q == LEAST:
        # A slope of exactly 1 at q = 0, on the edge: what attracts or repels is the next order.
        return float(length_map(activation, sigma_w, sigma_b, 1e-4)) <= 1e-4 * (1 + NEAR)
    return length_slope(activation, sigma_w, q) <= 1 + NEAR


def edge_of_chaos(activation: str | Nonlinearity, sigma_b: ArrayLike) -> float | Floats:
    """The curve sigma_w(sigma_b) on which chi_1 = 1; Schoenholz et al. (2017), Hayou et al. (2019).

    Args:
        activation: a name or a `Nonlinearity`.
        sigma_b: Var b = sigma_b^2, a number or an array.

    Returns:
        sigma_w, in the shape of sigma_b; NaN where there is none (`mean_field(...).reasons` says why).

    Raises:
        FbpError: the activation is unknown or softmax, or sigma_b is no standard deviation.
    """
    found = elementwise(activation)
    biases = np.asarray(sigma_b, np.float64)
    for b in biases.flat:
        check_sigmas(0, float(b))
    edges = [critical_point(found, float(b))[0] for b in biases.flat]
    curve = np.array([math.nan if edge is None else edge for edge in edges]).reshape(biases.shape)
    return float(curve) if curve.ndim == 0 else curve
