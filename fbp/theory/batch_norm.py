"""Gradients through batch normalization and the statistics of its batch, for any activation and batch size.

Yang, Pennington, Rao, Sohl-Dickstein & Schoenholz (2019). One unit's pre-activations over a batch of B examples are
h ~ N(0, Sigma). Where all examples are alike, as at the fixed point, what is left of h after its mean is removed points
anywhere in the B - 1 dimensions of G = I - 1 1^T / B. Write it r u, |u| = 1; then r and u are independent, and

    y = sqrt(B) u,    D = dy/dh = sqrt(B) / r (G - u u^T),    E 1/r^2 = 1 / (s (B - 3))

with s the variance of h within the batch. Let a gradient of covariance sigma_w^2 (a I + b 1 1^T) over the batch reach
g(y), so that it has the mean square a + b and the correlation b / (a + b). That of h has the mean square

    sigma_w^2 T / (s (B - 3)),    T = E tr[(G - u u^T) M (a I + b 1 1^T) M],    M = diag g'(y)
    T = a ((B - 1) E g'^2 - E (y g')^2) + b ((B - 1) (E g'^2 - E g'_i g'_j) - E (y g')^2 - (B - 1) E y_i g'_i y_j g'_j)

and the correlation -1 / (B - 1), as D removes its mean. Behind the layer s' = sigma_w^2 E[g(y_i)^2 - g(y_i) g(y_j)].
At the fixed point s = s', a + b = 1 and b = -1 / (B - 1) give the factor lambda a layer, in which sigma_w cancels and
sigma_b never appears. All are averages over two coordinates of a point on a sphere. As B grows lambda tends to
E g'(x)^2 / Var g(x). For relu, with rho = -1 / (B - 1) and J(rho) = (sqrt(1 - rho^2) + rho (pi - arccos rho)) / (2 pi),
they are closed: E g^2 = E g'^2 = 1/2, E g(y_i) g(y_j) = J(rho), E g'(y_i) g'(y_j) = 1/4 + arcsin(rho) / (2 pi), and
y g' = g.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fbp.activations import Nonlinearity
from fbp.errors import FbpError
from fbp.theory.quadrature import KNOTS, Floats, Function, derivative_of, function_of, normal_nodes, panels

_DEVIATIONS = np.array([-10.0, -7, -5, -3.5, -2, -1, 0, 1, 2, 3.5, 5, 7, 10])


class BatchNormMoments(NamedTuple):
    """Averages over the normalized examples y of a batch."""

    second: float
    """E g(y)^2."""
    spread: float
    """E[g(y_i)^2 - g(y_i) g(y_j)], the variance of g(y) within a batch."""
    alone: float
    """T / (B - 3) for a = 1, b = 0."""
    shared: float
    """The same for a = 0, b = 1."""
    correlation: float
    """-1 / (B - 1), that of the gradients of two examples in front of the normalization."""

    def pass_back(self, correlation: float) -> float:
        """T / (B - 3) for a gradient of mean square 1 and this correlation between examples."""
        return (1 - correlation) * self.alone + correlation * self.shared

    @property
    def backward(self) -> float:
        """lambda, the factor of E ||dZ||^2 a layer, towards the input."""
        return self.pass_back(self.correlation) / self.spread


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
        g, d = function_of(activation)(x), derivative_of(activation)(x)
        mean = lambda values: float(np.sum(weight * values))
        slope = mean(d**2)
        spread = _check_spread(activation, mean(g**2) - mean(g) ** 2, mean(g**2))
        return BatchNormMoments(mean(g**2), spread, slope, slope - mean(d) ** 2 - mean(x * d) ** 2, 0.0)
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
    spread = _check_spread(activation, alone(g) - together(g), alone(g))
    for_one = (B - 1) * alone(d) - alone(slope)
    for_all = for_one - (B - 1) * (together(d) + together(slope))
    return BatchNormMoments(alone(g), spread, for_one / (B - 3), for_all / (B - 3), rho)


def _check_spread(activation: Nonlinearity, spread: float, second: float) -> float:
    if spread <= 1e-14 * second:
        raise FbpError(f"activations must vary over a batch, got {activation!r}, which is constant; use another one")
    return spread
