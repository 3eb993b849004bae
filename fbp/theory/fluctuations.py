"""Networks of finite width: how far one network's gradient norms lie from their mean over networks."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, polygamma
from scipy.stats import binom

from fbp.activations import Nonlinearity
from fbp.errors import FbpError, unknown_name
from fbp.theory.maps import slope_moment
from fbp.theory.quadrature import Floats, derivative_of, elementwise, function_of, limited, normal_nodes

_SPECTRUM = {"gaussian": -1.0, "orthogonal": 0.0}


class LogNorm(NamedTuple):
    """The mean and the variance of log ||J v||^2 over networks, v a fixed vector."""

    mean: float
    variance: float


def kappa(activation: str | Nonlinearity, q: ArrayLike) -> Floats:
    """3 mu_2 / mu_1^2 - 1: n times the variance of log ||J v||^2 that a layer of n units adds, for large n.

    A layer multiplies ||v||^2 by the mean of n independent g'(z)^2 x^2 with Gaussian weights: E x^4 = 3. It is 2 for
    linear layers, 5 for relu and near 3 for tanh at criticality. The lengths q_l are taken as fixed; `log_variance`
    lets them fluctuate.

    Args:
        activation: a name or a `Nonlinearity`.
        q: variances of the pre-activation, any shape.

    Returns:
        kappa, in the shape of q.

    Raises:
        FbpError: the activation is unknown or softmax, or q is no variance.
    """
    return 3 * slope_moment(activation, q, 2) / slope_moment(activation, q) ** 2 - 1


def log_variance(activation: str | Nonlinearity, sigma_w: float, q: float, depth: int) -> float:
    """n Var log ||J v||^2 / L to first order in 1/n, where the lengths q_l fluctuate about their fixed point as well.

    With F and G the maps of lengths and of slopes, a layer multiplies by G(q_l) (1 + a_l) and q_{l+1} = F(q_l) + e_l,
    where a_l and e_l are means over the same n units, and what e_l does to the layers behind it adds up:

        log ||J v||^2 = const + sum_l a_l + s T_l e_l,    s = G'/G,    T_l = sum_{k < L-1-l} F'^k

    so n Var a_l = kappa is not all, unless G is constant (relu, linear). Derivatives by q are moments too:
    d/dq E f(sqrt(q) x) = E (x^2 - 1) f(sqrt(q) x) / 2q.

    Args:
        activation: a name or a `Nonlinearity`.
        sigma_w: Var W = sigma_w^2 / fan_in.
        q: the fixed point of the lengths, where the first layer is too.
        depth: L.

    Returns:
        The variance a layer, times the width of the layers.

    Raises:
        FbpError: depth is not positive, or as for `kappa`.
    """
    if depth < 1:
        raise FbpError(f"depth must be a number of layers, at least 1, got {depth}; use the network's depth")
    activation, near = elementwise(activation), float(limited(q))
    x, weight = normal_nodes(near, activation.kinks)
    h, d = (function(math.sqrt(near) * x) ** 2 for function in (function_of(activation), derivative_of(activation)))
    mean = lambda values: float(np.sum(weight * values))
    by_q = lambda values: mean((x**2 - 1) * values) / (2 * near)
    slope, contraction = by_q(d) / mean(d), sigma_w**2 * by_q(h)
    shared = sigma_w**2 * (mean(h * d) / mean(d) - mean(h))
    noise = sigma_w**4 * (mean(h**2) - mean(h) ** 2)
    # T_l for the last layer first.
    carried = slope * np.cumsum([0.0, *contraction ** np.arange(depth - 1)])
    return float(kappa(activation, near) + np.mean(2 * carried * shared + carried**2 * noise))


def relu_log_norm(widths: Iterable[int]) -> LogNorm:
    """log ||J v||^2 through relu layers with Gaussian weights of variance 2 / fan_in, exactly; Hanin (2018).

    Whether a unit is active is a fair coin that does not depend on (W v)^2, so that a layer of n units multiplies by
    2/n times a chi-squared variable of K degrees of freedom, K ~ Binomial(n, 1/2). About 5 sum 1/n_l in variance. That
    a whole layer is dead, which has probability 2^-n, is left out.

    Args:
        widths: n_l of each layer that is passed.

    Returns:
        (mean, variance), given that no layer is dead.

    Raises:
        FbpError: a width is not positive.
    """
    total = np.zeros(2)
    for n in _widths(widths):
        active = np.arange(1, n + 1)
        weight = binom.pmf(active, n, 0.5)
        weight = weight / weight.sum()
        log = digamma(active / 2)
        mean = weight @ log
        total += mean + math.log(4 / n), weight @ (polygamma(1, active / 2) + (log - mean) ** 2)
    return LogNorm(float(total[0]), float(total[1]))


def jacobian_variance(activation: str | Nonlinearity, q: float, depth: int, weights: str = "gaussian") -> float:
    """Var / mean^2 of the squared singular values of the input-output Jacobian, at infinite width.

        L (mu_2 / mu_1^2 - 1 - s_1),    s_1 = -1 for Gaussian weights, 0 for orthogonal ones

    Pennington, Schoenholz & Ganguli (2017, 2018). For linear Gaussian layers it is L, so that at a mean of 1 the second
    moment is L + 1; Saxe, McClelland & Ganguli (2013).

    Args:
        activation: a name or a `Nonlinearity`.
        q: the variance of the pre-activations, q*.
        depth: L.
        weights: "gaussian" or "orthogonal".

    Returns:
        The relative variance.

    Raises:
        FbpError: `weights` is neither, depth is negative, or as for `kappa`.
    """
    if weights not in _SPECTRUM:
        raise unknown_name("distribution of weights", weights, _SPECTRUM)
    if depth < 0:
        raise FbpError(f"depth must be a number of layers, at least 0, got {depth}; use the network's depth")
    mu_1, mu_2 = (float(slope_moment(activation, q, k)) for k in (1, 2))
    return depth * (mu_2 / mu_1**2 - 1 - _SPECTRUM[weights])


def linear_second_moment(depth: int, width: int) -> float:
    """E of the squared squared singular value of a product of L square Gaussian matrices of variance 1/n, exactly.

    With A = J J^T, a = E tr(A^2) / n and b = E (tr A)^2 / n^2, one more factor gives a' = (1 + 1/n) a + b and
    b' = b + 2 a / n^2. As n grows it tends to L + 1.

    Args:
        depth: L.
        width: n.

    Returns:
        E lambda^2, where E lambda = 1.

    Raises:
        FbpError: depth is negative or the width not positive.
    """
    (n,) = _widths([width])
    if depth < 0:
        raise FbpError(f"depth must be a number of layers, at least 0, got {depth}; use the network's depth")
    a = b = 1.0
    for _ in range(depth):
        a, b = (1 + 1 / n) * a + b, b + 2 * a / n**2
    return float(a)


def _widths(widths: Iterable[int]) -> np.ndarray:
    n = np.asarray(list(widths))
    if n.size == 0 or not np.all((n >= 1) & (n == np.floor(n))):
        raise FbpError(f"widths must be positive integers, at least one, got {n.tolist()}; e.g. [100] * 20")
    return n
