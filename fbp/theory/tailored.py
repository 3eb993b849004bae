"""Activation functions shaped by the depth of their network."""

from typing import cast

from scipy.optimize import brentq

from fbp.activations import leaky_relu
from fbp.errors import FbpError
from fbp.theory.maps import angle, secant


def tailored_leaky_slope(depth: int, correlation: float = 0.9) -> float:
    """The slope of a leaky relu that takes orthogonal inputs to a given correlation in `depth` layers.

        c_L(0) = correlation,    c_l = c + (1 - a)^2 / (pi (1 + a^2)) (sqrt(1 - c^2) - c arccos c),  c = c_{l-1}

    Tailored rectifiers; Zhang, Botev & Martens (2022): deep networks without shortcuts, whose inputs stay apart. The
    weights have variance 2 / ((1 + a^2) fan_in).

    Args:
        depth: L, the number of activations.
        correlation: what two orthogonal inputs arrive at, between 0 and 1.

    Returns:
        The slope a below 0: with 0.9, 0.43052 for 50 layers and 0.57044 for 100.

    Raises:
        FbpError: depth is not positive, the correlation is not between 0 and 1, or relu itself stays below it.
    """
    if depth < 1 or not 0 < correlation < 1:
        raise FbpError(
            "depth must be at least 1 and correlation between 0 and 1, "
            f"got depth={depth}, correlation={correlation}; e.g. 50 and 0.9"
        )
    reached = _correlation(0.0, depth)
    if reached < correlation:
        raise FbpError(
            f"correlation must be at most {reached:.4f}, to which even relu takes orthogonal inputs in {depth} layers, "
            f"got {correlation}; ask for less"
        )
    return cast(float, brentq(lambda a: _correlation(a, depth) - correlation, 0, 1, xtol=1e-14))


def _correlation(slope: float, depth: int) -> float:
    activation, gain, distance = leaky_relu(slope), 2 / (1 + slope**2), 1.0
    for _ in range(depth):
        distance *= gain * secant(activation, 1.0, angle(distance))
    return 1 - distance
