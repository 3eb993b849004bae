"""How lengths, correlations and gradients pass one layer of infinite width: averages over Gaussian pre-activations.

z_l = W_l h_{l-1} + b_l with Var W = sigma_w^2 / fan_in, Var b = sigma_b^2, h = g(z), q = E z^2; x is standard normal.
Poole, Lahiri, Raghu, Sohl-Dickstein & Ganguli (2016); Schoenholz, Gilmer, Ganguli & Sohl-Dickstein (2017).
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.polynomial import Chebyshev
from numpy.typing import ArrayLike

from fbp.activations import Nonlinearity
from fbp.errors import FbpError
from fbp.theory.quadrature import (
    Floats,
    derivative_of,
    elementwise,
    function_of,
    half_mean_square_difference,
    limited,
    normal_nodes,
)


def check_sigmas(sigma_w: float, sigma_b: float) -> None:
    """Check that both are standard deviations.

    Raises:
        FbpError: one is negative or not finite.
    """
    if not (0 <= sigma_w < math.inf and 0 <= sigma_b < math.inf):
        raise FbpError(
            "sigma_w and sigma_b must be standard deviations, finite and at least 0, "
            f"got sigma_w={sigma_w}, sigma_b={sigma_b}; use Var W = sigma_w^2 / fan_in, Var b = sigma_b^2"
        )


def check_lengths(q: ArrayLike, name: str = "q") -> Floats:
    """A variance or an array of variances, as float64.

    Raises:
        FbpError: one is negative or not finite.
    """
    lengths = np.asarray(q, np.float64)
    if not np.all((lengths >= 0) & np.isfinite(lengths)):
        raise FbpError(
            f"{name} must be a mean square of pre-activations, finite and at least 0, got {q}; use 1 for unit inputs"
        )
    return lengths


def check_correlation(c: float) -> None:
    """Check that c is a correlation.

    Raises:
        FbpError: it is not between -1 and 1.
    """
    if not -1 <= c <= 1:
        raise FbpError(f"a correlation must be a number from -1 to 1, got {c}; divide the covariance by q")


def second_moment(activation: str | Nonlinearity, q: ArrayLike) -> Floats:
    """E g(sqrt(q) x)^2.

    Args:
        activation: a name or a `Nonlinearity`.
        q: variances of the pre-activation, any shape.

    Returns:
        The mean square of the activations, in the shape of q.

    Raises:
        FbpError: the activation is unknown or softmax, or q is no variance.
    """
    q = check_lengths(q)
    activation = elementwise(activation)
    x, weight = normal_nodes(limited(q), activation.kinks)
    with np.errstate(over="ignore"):
        return np.sum(weight * function_of(activation)(np.sqrt(q)[..., None] * x) ** 2, axis=-1)


def slope_moment(activation: str | Nonlinearity, q: ArrayLike, k: int = 1) -> Floats:
    """mu_k = E g'(sqrt(q) x)^(2k); Pennington, Schoenholz & Ganguli (2017).

    Args:
        activation: a name or a `Nonlinearity`.
        q: variances of the pre-activation, any shape.
        k: a positive integer.

    Returns:
        The moment, in the shape of q. At q = 0 it is the limit from above, which at a kink sees both sides.

    Raises:
        FbpError: the activation is unknown or softmax, q is no variance, or k is not positive.
    """
    if k < 1:
        raise FbpError(f"k must be at least 1, the number of a moment of g'(z)^2, got {k}; use 1 for E g'^2")
    q = limited(check_lengths(q))
    activation = elementwise(activation)
    x, weight = normal_nodes(q, activation.kinks)
    return np.sum(weight * derivative_of(activation)(np.sqrt(q)[..., None] * x) ** (2 * k), axis=-1)


def length_map(activation: str | Nonlinearity, sigma_w: float, sigma_b: float, q: ArrayLike) -> Floats:
    """q_l = sigma_w^2 E g(sqrt(q_{l-1}) x)^2 + sigma_b^2; Poole et al. (2016).

    Args:
        activation: a name or a `Nonlinearity`.
        sigma_w: Var W = sigma_w^2 / fan_in.
        sigma_b: Var b = sigma_b^2.
        q: q_{l-1}, any shape.

    Returns:
        q_l, in the shape of q.

    Raises:
        FbpError: the activation is unknown or softmax, or a number is out of range.
    """
    check_sigmas(sigma_w, sigma_b)
    return sigma_w**2 * second_moment(activation, q) + sigma_b**2


def length_slope(activation: Nonlinearity, sigma_w: float, q: float) -> float:
    """dq_l/dq_{l-1} = sigma_w^2 E g(z) g'(z) x / sqrt(q), by the first derivative alone; at q = 0 its limit."""
    q = float(limited(q))
    x, weight = normal_nodes(q, activation.kinks)
    z = math.sqrt(q) * x
    return sigma_w**2 * float(np.sum(weight * function_of(activation)(z) * derivative_of(activation)(z) * x / q**0.5))


@lru_cache(maxsize=4096)
def radial_moments(activation: Nonlinearity, q: float) -> tuple[float, float, float]:
    """E (g g')^2, E (z g')^2 / q and E z g g' / q for z of variance q > 0: what gradients along Z depend on."""
    x, weight = normal_nodes(limited(q), activation.kinks)
    z = math.sqrt(q) * x
    g, d = function_of(activation)(z), derivative_of(activation)(z)
    along, across, scale = (float(np.sum(weight * f)) for f in ((g * d) ** 2, (z * d) ** 2 / q, z * g * d / q))
    return along, across, scale


@lru_cache(maxsize=256)
def homogeneous_slope(activation: Nonlinearity) -> float | None:
    """The slope a of an activation that is z above 0 and a z below; None for any other."""
    if not activation.homogeneous:
        return None
    return float(derivative_of(activation)(np.array([-1.0]))[0])


def _arc(theta: float) -> float:
    """(sin theta - theta cos theta) / (1 - cos theta)."""
    if theta < 1e-2:
        # By its series: the two terms of the numerator agree to theta^3 / 3.
        return theta * (2 / 3 - theta**2 / 90 - theta**4 / 2520)
    return (math.sin(theta) - theta * math.cos(theta)) / (2 * math.sin(theta / 2) ** 2)


@lru_cache(maxsize=4096)
def secant(activation: Nonlinearity, q: float, theta: float) -> float:
    """E (g(z_1) - g(z_2))^2 / E (z_1 - z_2)^2, for pre-activations of variance q at the angle theta.

    It tends to E g'(z)^2 as theta goes to 0, and carries 1 - c through a layer without cancellation. For z above 0 and
    a z below it is closed: the arc-cosine kernel of Cho & Saul (2009).
    """
    a = homogeneous_slope(activation)
    if a is not None:
        return (1 + a * a) / 2 - (1 - a) ** 2 / (2 * math.pi) * _arc(theta)
    q = float(limited(q))
    if theta == 0:
        return float(slope_moment(activation, q))
    # 1 - cos theta = 2 sin^2(theta / 2), which does not cancel.
    apart = 2 * q * math.sin(theta / 2) ** 2
    return half_mean_square_difference(function_of(activation), q, theta, activation.kinks) / apart


@lru_cache(maxsize=4096)
def slope_product(activation: Nonlinearity, q: float, theta: float) -> float:
    """E g'(z_1) g'(z_2), for pre-activations of variance q at the angle theta.

    For z above 0 and a z below it is closed: the arc-cosine kernel of degree 0, Cho & Saul (2009).
    """
    a = homogeneous_slope(activation)
    if a is not None:
        return (1 + a * a) / 2 - (1 - a) ** 2 * theta / (2 * math.pi)
    q = float(limited(q))
    slope = float(slope_moment(activation, q))
    if theta == 0:
        return slope
    return slope - half_mean_square_difference(derivative_of(activation), q, theta, activation.kinks)


def slope_correlation(activation: str | Nonlinearity, q: float, c: float) -> float:
    """E g'(z_1) g'(z_2) / E g'(z)^2, for pre-activations of variance q and correlation c.

    What a layer leaves of the correlation of two examples' gradients, which are E dZ_1 . dZ_2 over E ||dZ||^2:

        E dZ_1 . dZ_2 = sigma_w^2 E g'(z_1) g'(z_2) E dZ'_1 . dZ'_2

    For relu it is 1 - arccos(c) / pi: 1/2 for orthogonal examples, so that gradients of plain relu networks shatter;
    Balduzzi, Frean, Leary, Lewis, Ma & McWilliams (2017). Schoenholz et al. (2017) have the same kernel.

    Args:
        activation: a name or a `Nonlinearity`.
        q: the variance of the pre-activation.
        c: the correlation of those of the two examples.

    Returns:
        The factor; 1 at c = 1.

    Raises:
        FbpError: the activation is unknown or softmax, q is no variance, or c no correlation.

    Example:
        >>> round(fbp.theory.slope_correlation("relu", 1.0, 0.0), 6)
        0.5
    """
    check_correlation(c)
    found, length = elementwise(activation), float(check_lengths(q))
    return slope_product(found, length, math.acos(c)) / float(slope_moment(found, length))


@lru_cache(maxsize=64)
def secant_curve(activation: Nonlinearity, q: float) -> Callable[[float], float]:
    """`secant` over theta at one q, for many calls: interpolated where a polynomial in theta reaches 1e-13.

    It is smooth in the angle also for functions with kinks, but too steep near pi where q is large.
    """
    each = lambda theta: secant(activation, q, theta)
    if homogeneous_slope(activation) is not None:
        return each
    sampled = lambda thetas: np.array([each(float(theta)) for theta in thetas])
    for degree in (24, 48):
        curve = Chebyshev.interpolate(sampled, degree, domain=[0, math.pi])
        if np.max(np.abs(curve.coef[-4:])) < 1e-13:
            return lambda theta, curve=curve: float(curve(theta))
    return each


def angle(distance: float) -> float:
    """theta with 1 - cos theta = distance."""
    return 2 * math.asin(math.sqrt(min(max(distance, 0.0), 2.0) / 2))
