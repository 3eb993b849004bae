"""Gaussian averages of activation functions, exact to rounding also where a function has kinks.

Gauss-Hermite converges like 1/nodes across a kink, and misses a tanh that is a step on the scale of sqrt(q). So the
line is cut into panels, at the activation's kinks, at powers of two of the pre-activation and at a few standard
deviations, and each panel has its Gauss-Legendre nodes. The number of panels does not depend on q: cuts that lie
outside the Gaussian are moved to its end, where the panels between them are empty.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from fbp.activations import Nonlinearity
from fbp.activations import activation as activations
from fbp.errors import FbpError

Floats = NDArray[np.float64]
Function = Callable[[Floats], Floats]

END = 10.0
"""Standard deviations at which a Gaussian is cut off: its density there is 2e-22 of its largest."""
LEAST = 1e-30
"""The variance that stands for the limit of zero: every activation is its own tangent there, to rounding."""
MOST = 1e30
"""The variance that stands for the limit of infinity."""


def _mirrored(positive: ArrayLike) -> Floats:
    right = np.asarray(positive, np.float64)
    return np.concatenate([-right[::-1], [0.0], right])


# Cuts at all scales of the pre-activation: one where a function is smooth does no harm.
KNOTS = _mirrored(2.0 ** np.arange(-5, 9))
# A plane has the square of the nodes of a line, and with two families of cuts panels are short anyhow.
_PLANE_KNOTS = _mirrored(2.0 ** np.arange(-5, 6))
_DEVIATIONS = _mirrored(np.array([1.5, 3, 4.5, 6, 8, END]))
_HALF = _DEVIATIONS[_DEVIATIONS >= 0]


def elementwise(activation: str | Nonlinearity) -> Nonlinearity:
    """The activation of that name, which must act on each entry alone.

    Args:
        activation: a name as `fbp.activation` takes it, or a `Nonlinearity`.

    Raises:
        FbpError: the name is unknown, or the activation is softmax.
    """
    found = activations(activation)
    if not found.elementwise:
        raise FbpError(
            f"an activation must act on each entry alone for mean-field theory, got {found!r}; softmax_head has what "
            "is known of an output layer"
        )
    return found


def function_of(activation: Nonlinearity) -> Function:
    """g, on float64 arrays of numpy."""
    return partial(_evaluate, activation, False)


def derivative_of(activation: Nonlinearity) -> Function:
    """g', on float64 arrays of numpy."""
    return partial(_evaluate, activation, True)


def _evaluate(activation: Nonlinearity, derivative: bool, Z: Floats) -> Floats:
    # Padded to a power of two: a few compiled programs serve arrays of all sizes.
    padded = np.zeros(1 << max(Z.size - 1, 1023).bit_length())
    padded[: Z.size] = Z.ravel()
    with jax.enable_x64(True):
        return np.asarray(_compiled(activation, derivative, padded))[: Z.size].reshape(Z.shape)


@partial(jax.jit, static_argnums=(0, 1))
def _compiled(activation: Nonlinearity, derivative: bool, Z: jax.Array) -> jax.Array:
    return activation.slope(Z) if derivative else activation(Z)


@lru_cache
def _legendre(order: int) -> tuple[Floats, Floats]:
    return np.polynomial.legendre.leggauss(order)


def panels(cuts: Floats, order: int, roots: bool = False) -> tuple[Floats, Floats]:
    """Gauss-Legendre nodes and weights between neighbouring cuts.

    Args:
        cuts: (..., c), in any order.
        order: nodes a panel.
        roots: whether the integrand may behave like a square root at cuts.

    Returns:
        Nodes and weights, each (..., (c - 1) * order).
    """
    node, weight = _legendre(order)
    if roots:
        # By the sine of a right angle's part the root of a distance to the end becomes smooth.
        node, weight = np.sin(math.pi / 2 * node), math.pi / 2 * np.cos(math.pi / 2 * node) * weight
    cuts = np.sort(cuts, axis=-1)
    half = 0.5 * np.diff(cuts)[..., None]
    middle = 0.5 * (cuts[..., 1:] + cuts[..., :-1])[..., None]
    shape = (*cuts.shape[:-1], -1)
    return (middle + half * node).reshape(shape), (half * weight).reshape(shape)


def _density(x: Floats) -> Floats:
    return np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _cuts(knots: Floats, deviations: Floats) -> Floats:
    inside = np.clip(knots, deviations[0], END)
    return np.concatenate([inside, np.broadcast_to(deviations, (*inside.shape[:-1], len(deviations)))], axis=-1)


def normal_nodes(q: ArrayLike, kinks: Sequence[float] = ()) -> tuple[Floats, Floats]:
    """Nodes x and weights w with E f(x) = sum w f(x), for standard normal x and f a function of sqrt(q) x.

    Args:
        q: variances.
        kinks: where f is not smooth.

    Returns:
        Nodes and weights, each (*q.shape, N).
    """
    spread = np.sqrt(np.asarray(q, np.float64))[..., None]
    x, weight = panels(_cuts(np.union1d(KNOTS, kinks) / spread, _DEVIATIONS), 16)
    return x, weight * _density(x)


def limited(q: ArrayLike) -> Floats:
    """q, with its limits of zero and infinity by the variances that stand for them."""
    return np.clip(np.asarray(q, np.float64), LEAST, MOST)


def half_mean_square_difference(function: Function, q: float, theta: float, kinks: Sequence[float]) -> float:
    """E (f(z_1) - f(z_2))^2 / 2, for z_1, z_2 of variance q and correlation cos theta.

    With z_1, z_2 = sqrt(q) (cos(theta/2) x +- sin(theta/2) y) for independent standard normal x, y, nothing cancels
    as theta goes to 0. The inner integral, over x, is cut where z_1 or z_2 is at a knot; what it leaves is smooth in y.

    Args:
        function: f.
        q: a positive variance.
        theta: the angle, from 0 (excluded) to pi.
        kinks: where f is not smooth.
    """
    knots = np.union1d(_PLANE_KNOTS, kinks)
    common, apart = math.sqrt(q) * math.cos(theta / 2), math.sqrt(q) * math.sin(theta / 2)
    y, weight_y = panels(_cuts(np.unique(np.abs(knots)) / apart, _HALF), 10)
    shift = apart * y[:, None]
    cuts = np.concatenate([knots - shift, knots + shift], axis=-1) / max(common, 1e-300)
    x, weight_x = panels(_cuts(cuts, _DEVIATIONS), 10)
    difference = function(common * x + shift) - function(common * x - shift)
    inner = np.sum(weight_x * _density(x) * difference**2, axis=-1)
    # y and -y count alike: twice the half line, times the half of the definition.
    return float(np.sum(weight_y * _density(y) * inner))
