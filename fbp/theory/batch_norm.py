"""Gradients through batch normalization and the statistics of its batch, for any activation and batch size.

Yang, Pennington, Rao, Sohl-Dickstein & Schoenholz (2019). One unit's pre-activations over a batch of B examples are
h ~ N(0, Sigma); at the fixed point all examples are alike, so that what is left of h after its mean is removed points
anywhere in the B - 1 dimensions of G = I - 1 1^T / B. Write it r u, |u| = 1; then r and u are independent, and

    y = sqrt(B) u,    D = dy/dh = sqrt(B) / r (G - u u^T),    E 1/r^2 = 1 / (s (B - 3))

with s = sigma_w^2 E[g(y_i)^2 - g(y_i) g(y_j)] the variance of h within the batch. A gradient that reaches h has lost
its mean and is spread evenly over those dimensions, with covariance proportional to G. Hence the factor a layer of
E ||dZ||^2, in which sigma_w cancels and sigma_b never appears:

    lambda = B / ((B - 1) (B - 3)) E tr[(G - u u^T) M G M] / E[g(y_i)^2 - g(y_i) g(y_j)],    M = diag g'(y)

    E tr[G M G M] = (1 - 1/B) E[(B - 1) g'(y_i)^2 + g'(y_i) g'(y_j)]
    E u^T M G M u = (1 - 1/B) E[(y_i g'(y_i))^2 - y_i g'(y_i) y_j g'(y_j)]

All are averages over two coordinates of a point on a sphere. As B grows lambda tends to E g'(x)^2 / Var g(x).
For relu, with rho = -1 / (B - 1) and J(rho) = (sqrt(1 - rho^2) + rho (pi - arccos rho)) / (2 pi), they are closed:
E g^2 = E g'^2 = 1/2, E g(y_i) g(y_j) = J(rho), E g'(y_i) g'(y_j) = 1/4 + arcsin(rho) / (2 pi), and y g' = g.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fbp.activations import Nonlinearity
from fbp.errors import FbpError
from fbp.theory.maps import second_moment, slope_moment
from fbp.theory.quadrature import KNOTS, Floats, Function, derivative_of, function_of, normal_nodes, panels

_DEVIATIONS = np.array([-10.0, -7, -5, -3.5, -2, -1, 0, 1, 2, 3.5, 5, 7, 10])


class BatchNormMoments(NamedTuple):
    """What one layer of (batch normalization, activation, dense) does to lengths and gradients."""

    second_moment: float
    """E g(y)^2."""
    backward: float
    """The factor of E ||dZ||^2, towards the input."""


def _angles(knots: Floats, dimensions: int) -> tuple[Floats, Floats]:
    """Nodes sin(angle) and weights of one coordinate of a random point on a sphere, cut at knots."""
    spread = _DEVIATIONS / np.sqrt(dimensions)
    cuts = np.concatenate([knots, np.broadcast_to(spread, (*knots.shape[:-1], len(spread)))], axis=-1)
    # The angle, not its sine: at the poles the density of the sine may be infinite.
    angle, weight = panels(np.arcsin(np.clip(cuts, -1, 1)), 14, roots=True)
    weight = weight * np.cos(angle) ** (dimensions - 2)
    return np.sin(angle), weight / np.sum(weight, axis=-1, keepdims=True)


@lru_cache(maxsize=256)
def batch_norm_moments(activation: Nonlinearity, batch: int | None) -> BatchNormMoments:
    """The moments of a layer at its fixed point, with batch normalization of `batch` examples and eps = 0.

    Args:
        activation: one that acts on each entry alone.
        batch: B, at least 4; None for the limit of large batches.

    Raises:
        FbpError: fewer than 4 examples, whose gradients have an infinite mean square, or an activation without
            variance.
    """
    if batch is None:
        x, weight = normal_nodes(1.0, activation.kinks)
        mean = float(np.sum(weight * function_of(activation)(x)))
        second = float(second_moment(activation, 1.0))
        return BatchNormMoments(second, float(slope_moment(activation, 1.0)) / (second - mean**2))
    if batch < 4:
        raise FbpError(
            "a batch must have at least 4 examples, as E 1/variance of 3 is infinite and with it the mean square of "
            f"gradients, got a batch of {batch}; use a larger one"
        )
    B, n = batch, batch - 1
    to_y = np.sqrt(B - 1.0)
    # y_i = to_y v; y_j = to_y (rho v + sqrt(1 - rho^2) sqrt(1 - v^2) w), with v and w sines of independent angles.
    rho, off = -1 / (B - 1), np.sqrt(1 - 1 / (B - 1.0) ** 2)
    # Where y_j may not reach a kink beyond some y_i, the inner average has a root there.
    reach = np.arccos(np.clip(np.array(activation.kinks) / to_y, -1, 1))
    tilt = np.arctan2(rho, off)
    meets = np.sin(np.concatenate([tilt + reach, tilt - reach, reach - tilt, -reach - tilt]))
    cuts = np.union1d(KNOTS, activation.kinks)
    first, weight = _angles(np.concatenate([cuts / to_y, meets]), n)
    across = np.sqrt(1 - first**2)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        knots = (cuts / to_y - rho * first[:, None]) / (off * across)
    second, weight_2 = _angles(np.nan_to_num(knots), n - 1)
    y_i, y_j = to_y * first, to_y * (rho * first[:, None] + off * across * second)
    g, d = function_of(activation), derivative_of(activation)

    def alone(f: Function) -> float:
        return float(np.sum(weight * f(y_i) ** 2))

    def together(f: Function) -> float:
        return float(np.sum(weight * f(y_i) * np.sum(weight_2 * f(y_j), axis=-1)))

    slope = lambda y: y * d(y)
    spread = alone(g) - together(g)
    if spread <= 1e-14 * alone(g):
        raise FbpError(f"activations must vary over a batch, got {activation!r}, which is constant; use another one")
    share = 1 - 1 / B
    trace = share * ((B - 1) * alone(d) + together(d)) - share * (alone(slope) - together(slope))
    return BatchNormMoments(alone(g), B / ((B - 1) * (B - 3)) * trace / spread)
