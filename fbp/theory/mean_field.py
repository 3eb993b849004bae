"""The mean-field description of one network at initialization: fixed points, their slopes, and the way there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, cast

import numpy as np
from scipy.optimize import brentq

from fbp.activations import Nonlinearity
from fbp.errors import FbpError
from fbp.theory import fluctuations
from fbp.theory.fixed_points import NEAR, critical_point, length_fixed_points, length_limit
from fbp.theory.maps import (
    angle,
    check_correlation,
    check_lengths,
    check_sigmas,
    length_map,
    length_slope,
    secant,
    secant_curve,
    slope_moment,
)
from fbp.theory.quadrature import MOST, Floats, derivative_of, elementwise, half_mean_square_difference, limited

Phase = Literal["ordered", "critical", "chaotic"]

CRITICAL = 1e-5
"""How near to 1 chi_1 is called critical: sigma_w given to six digits is."""


@dataclass(frozen=True)
class MeanField:
    """A dense network of infinite width: z_l = W_l h_{l-1} + b_l, h = g(z), Var W = sigma_w^2 / fan_in.

    Attributes:
        activation: g.
        sigma_w: the weights' standard deviation times sqrt(fan_in).
        sigma_b: the biases' standard deviation.
        q_star: E z^2 far from the input, as the recursion reaches it from `mean_field`'s q_0. It may be 0 or infinity.
        chi_1: sigma_w^2 E g'(sqrt(q*) x)^2, the factor of E ||dZ||^2 a layer and the slope of the correlation map at 1.
        c_star: the stable fixed point of the correlation map; None where every correlation stays as it is.
        chi_c: the slope of the correlation map at c*.
        xi_q: -1 / ln |dq_l/dq_{l-1}| at q*, layers in which q forgets its start; infinite where it does so by a power.
        xi_c: -1 / ln chi_c, layers in which correlations do.
        phase: "ordered" for chi_1 < 1, where gradients vanish, "chaotic" for chi_1 > 1, where they explode, "critical"
            within 1e-5 of 1.
        critical_sigma_w: sigma_w with chi_1 = 1 at this sigma_b; None where there is none.
        fixed_points: all fixed points of the length map, rising; None where every length is one.
        reasons: for each attribute that is None, infinite or one choice of several, why.
    """

    activation: Nonlinearity
    sigma_w: float
    sigma_b: float
    q_star: float
    chi_1: float
    c_star: float | None
    chi_c: float
    xi_q: float
    xi_c: float
    phase: Phase
    critical_sigma_w: float | None
    fixed_points: tuple[float, ...] | None
    reasons: Mapping[str, str] = field(hash=False)

    def moment(self, k: int) -> float:
        """mu_k = E g'(sqrt(q*) x)^(2k)."""
        return float(slope_moment(self.activation, min(self.q_star, MOST), k))

    @property
    def kappa(self) -> float:
        """3 mu_2 / mu_1^2 - 1 at q*: n Var log ||J v||^2 a layer, for large width n and lengths that stay at q*."""
        return float(fluctuations.kappa(self.activation, min(self.q_star, MOST)))

    def log_variance(self, depth: int) -> float:
        """n Var log ||J v||^2 / depth for large width n, the fluctuations of the lengths included.

        Args:
            depth: the number of layers, at least 1; all at q*.
        """
        return fluctuations.log_variance(self.activation, self.sigma_w, self.q_star, depth)

    def lengths(self, depth: int, q_0: float | None = None) -> Floats:
        """q_l for l = 0, ..., depth.

        Args:
            depth: the number of layers.
            q_0: the mean square of the first pre-activation; None for q*.

        Returns:
            (depth + 1,).

        Raises:
            FbpError: depth is negative, or q_0 is not finite.
        """
        if depth < 0:
            raise FbpError(f"depth must be a number of layers, at least 0, got {depth}; use the network's depth")
        q = [float(check_lengths(self.q_star if q_0 is None else q_0, "q_0"))]
        for _ in range(depth):
            settled = len(q) > 1 and q[-1] == q[-2]
            q.append(q[-1] if settled else self._length(q[-1]))
        return np.array(q)

    def correlations(self, depth: int, c_0: float, q_0: float | None = None) -> Floats:
        """c_l for l = 0, ..., depth, of two inputs whose first pre-activations both have mean square q_0.

        Args:
            depth: the number of layers.
            c_0: the correlation of the first pre-activations, from -1 to 1.
            q_0: their mean square; None for q*.

        Returns:
            (depth + 1,). 1 - c_l keeps its relative accuracy; see `distances`.

        Raises:
            FbpError: a number is out of range, or q is not finite.
        """
        return 1 - self.distances(depth, c_0, q_0)

    def distances(self, depth: int, c_0: float, q_0: float | None = None) -> Floats:
        """1 - c_l for l = 0, ..., depth, accurate also where c_l rounds to 1; arguments as for `correlations`."""
        check_correlation(c_0)
        lengths = self.lengths(depth, q_0)
        distance = [1 - float(c_0)]
        for q, following in pairwise(lengths):
            # A settled length shares one interpolated map; on the way there each layer has its own.
            many = depth > 64 and abs(q - self.q_star) <= 1e-13 * q
            distance.append(distance[-1] * self._ratio(angle(distance[-1]), q, following, many))
        return np.array(distance)

    def gradients(self, depth: int, q_0: float | None = None) -> Floats:
        """The factors E ||dZ_l||^2 / E ||dZ_{l+1}||^2 = sigma_w^2 E g'(sqrt(q_l) x)^2 for l = 0, ..., depth - 1.

        With Var W = sigma_w^2 / fan_in they hold for any widths. `propagation` chains them, for more architectures.
        """
        lengths, layers = np.unique(self.lengths(depth, q_0)[:-1], return_inverse=True)
        return self.sigma_w**2 * slope_moment(self.activation, lengths)[layers]

    def _length(self, q: float) -> float:
        return float(length_map(self.activation, self.sigma_w, self.sigma_b, q))

    def _ratio(self, theta: float, q: float, following: float, interpolated: bool = False) -> float:
        """(1 - c_l) / (1 - c_{l-1}) at the angle theta of c_{l-1}."""
        # Below, quotients of lengths lose digits, and every activation has become its tangent.
        gain = following / q if min(q, following) > 1e-290 else length_slope(self.activation, self.sigma_w, 0.0)
        scale = self.sigma_w**2 / gain
        return scale * (
            secant_curve(self.activation, self.q_star)(theta) if interpolated else secant(self.activation, q, theta)
        )


def mean_field(activation: str | Nonlinearity, sigma_w: float, sigma_b: float = 0.0, q_0: float = 1.0) -> MeanField:
    """The mean-field description of a dense network at initialization.

        q_l = sigma_w^2 E g(sqrt(q_{l-1}) x)^2 + sigma_b^2,    chi_1 = sigma_w^2 E g'(sqrt(q*) x)^2

    Poole et al. (2016); Schoenholz et al. (2017); Hayou et al. (2019).

    Args:
        activation: a name as `fbp.activation` takes it, or a `Nonlinearity`; not softmax.
        sigma_w: Var W = sigma_w^2 / fan_in.
        sigma_b: Var b = sigma_b^2.
        q_0: the mean square of the first pre-activation; it matters where the length map has several fixed points.

    Returns:
        A `MeanField`.

    Raises:
        FbpError: the activation is unknown or softmax, a number is out of range, or the lengths do not settle.

    Example:
        >>> field = fbp.theory.mean_field("tanh", sigma_w=2.0, sigma_b=0.05**0.5)
        >>> field.phase, round(field.chi_1, 4), round(field.q_star, 4)  # Poole et al. (2016)
        ('chaotic', 1.3424, 2.1955)
    """
    found = elementwise(activation)
    check_sigmas(sigma_w, sigma_b)
    if not 0 < q_0 < math.inf:
        raise FbpError(f"q_0 must be a mean square, finite and positive, got {q_0}; use 1, that of standardized inputs")
    reasons: dict[str, str] = {}
    points = length_fixed_points(found, sigma_w, sigma_b)
    q = length_limit(found, sigma_w, sigma_b, float(q_0))
    if points is None:
        reasons["q_star"] = reasons["fixed_points"] = "every length is a fixed point: q stays at q_0"
    elif math.isinf(q):
        reasons["q_star"] = "lengths grow without bound; the other attributes are limits"
    elif q == 0:
        reasons["q_star"] = "lengths go to 0; the other attributes are limits"
    elif len(points) > 1:
        reasons["q_star"] = f"one of several fixed points, the one that is reached from q_0 = {q_0:g}"
    near = float(limited(q))
    chi_1 = sigma_w**2 * float(slope_moment(found, near))
    if math.isinf(q):
        gain = float(length_map(found, sigma_w, sigma_b, near)) / near
        slope = 1 / gain if gain > 1 + NEAR else 1.0
    else:
        gain = length_slope(found, sigma_w, 0.0) if q == 0 else 1.0
        slope = length_slope(found, sigma_w, q)
    c_star, chi_c = _correlation(found, sigma_w**2 / gain if gain else 0.0, near)
    if c_star is None:
        reasons["c_star"] = "every correlation is a fixed point: the layer acts as a linear map"
    critical, why = critical_point(found, sigma_b)
    if critical is None:
        reasons["critical_sigma_w"] = why
    xi_q, xi_c = _scale(slope), _scale(chi_c)
    for name, scale, what in (("xi_q", xi_q, "lengths"), ("xi_c", xi_c, "correlations")):
        if math.isinf(scale):
            reasons[name] = f"the slope at the fixed point is 1: {what} settle by a power of the depth, or do not move"
    phase: Phase = "critical" if abs(chi_1 - 1) <= CRITICAL else "ordered" if chi_1 < 1 else "chaotic"
    if phase == "chaotic" and c_star == 1:
        reasons["phase"] = "gradients explode, yet correlations go to 1: the lengths grow as fast as differences do"
    return MeanField(found, sigma_w, sigma_b, q, chi_1, c_star, chi_c, xi_q, xi_c, phase, critical, points, reasons)


def _scale(slope: float) -> float:
    if abs(slope) >= 1 - NEAR:
        return math.inf
    return -1 / math.log(abs(slope)) if slope else 0.0


def _correlation(activation: Nonlinearity, scale: float, q: float) -> tuple[float | None, float]:
    """The stable fixed point of the correlation map at a settled length, and the slope there.

    The map is a power series in c with coefficients of at least 0 (those of g in Hermite polynomials, squared), hence
    convex on [0, 1]: with a slope of at most 1 at c = 1 that is the only fixed point, else there is one more below.
    """
    excess = lambda theta: scale * secant(activation, q, theta) - 1
    at_one = excess(0.0)
    quarter = excess(math.pi / 2)
    if abs(at_one) <= NEAR and abs(quarter) <= NEAR:
        return None, 1.0
    if at_one <= NEAR:
        return 1.0, 1 + at_one
    # (1 - c_l) / (1 - c_{l-1}) is 1 - C(0) at c = 0: C(0) = 0 means that 0 is fixed.
    theta = math.pi / 2 if quarter > -NEAR else cast(float, brentq(excess, 1e-9, math.pi / 2, xtol=1e-14))
    parted = half_mean_square_difference(derivative_of(activation), q, theta, activation.kinks)
    return (0.0 if quarter > -NEAR else math.cos(theta)), 1 + at_one - scale * parted
