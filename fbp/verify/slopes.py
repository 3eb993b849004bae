"""Two judges that need no gradient: finite differences and the adjoint identity, along directions in one leaf.

Both ask for the derivative of the loss along v, which a gradient says is <g, v>: finite differences from values of the
loss alone, the adjoint identity <1, J v> = <J^T 1, v> from forward-mode differentiation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from fbp.verify.structure import is_inexact
from fbp.verify.tolerance import Verdict, chunks, norm

STEPS = tuple(10.0**-k for k in range(1, 8))
"""The ladder of steps, in units of the size of the leaf's entries."""
FIRST_STEPS = (1e-3, 1e-4)
"""What is tried before the whole ladder: enough for a smooth loss."""
_EPS = float(np.finfo(np.float64).eps)
_ROUNDINGS = 16.0
"""How many roundings of its value a loss may be off: the floor under every difference."""
_RESOLUTION = 0.02
"""A direction passes where its derivative is known to this part of the gradient's size along it, at least."""
_SAFETY = 10.0
_APPROXIMATE = 1e-6
"""The part of a gradient that differences leave to a loss whose values are approximated, as special functions are."""
SIGMAS = 5.0
"""How many standard deviations <error, v> is allowed: for random signs one is the error's norm times their size."""

KINK = "a kink at this point"
"""How the reason of a judge begins where the loss has no derivative."""


@dataclass(frozen=True)
class Slope:
    """The derivative of the loss along a direction.

    Attributes:
        value: the derivative.
        uncertainty: how far it may be off.
        low: the smaller one of the derivatives to both sides.
        high: the larger one; further from `low` than the uncertainty only at a kink.
        spread: how far the one-sided differences of that step are apart: small for a smooth loss, and not where
            kinks lie inside of the step.
        approximate: the part of a gradient that the loss's own approximations explain.
    """

    value: float
    uncertainty: float
    low: float
    high: float
    spread: float = 0.0
    approximate: float = 0.0


@dataclass(frozen=True)
class PushForward:
    """The derivative of a loss along a direction by forward-mode differentiation, called as (*args, *v).

    Equal ones compile once.
    """

    loss: Callable[..., Any]

    def __call__(self, *args_and_v: Any) -> Any:
        args, v = args_and_v[: len(args_and_v) // 2], args_and_v[len(args_and_v) // 2 :]
        zero = lambda x: np.zeros(x.shape, jax.dtypes.float0)
        tangents = jax.tree.map(lambda x, d: d.astype(x.dtype) if is_inexact(x) else zero(x), args, v)
        return jax.jvp(self.loss, args, tangents)[1]


@np.errstate(invalid="ignore", over="ignore")
def estimate_slope(values: np.ndarray, steps: tuple[float, ...] = STEPS, eps: float = _EPS) -> Slope:
    """The derivative from values of the loss at 0, +h and -h for each step h.

    Of each step the central difference (L(h) - L(-h)) / 2h; the step is chosen where its change from the next larger
    step and the rounding of the loss are smallest together.

    Args:
        values: [L(0), L(h_1), L(-h_1), L(h_2), ...].
        steps: h_1 > h_2 > ..., two at least.
        eps: of the dtype that they were computed in.
    """
    here, ahead, behind = values[0], values[1::2], values[2::2]
    h = np.asarray(steps)
    floor = _ROUNDINGS * eps * np.maximum(np.maximum(np.abs(ahead), np.abs(behind)), abs(here)) / h
    central = (ahead - behind) / (2 * h)
    forward, backward = (ahead - here) / h, (here - behind) / h
    # Step i + 1 judged by how far it is from step i.
    uncertainty = np.abs(np.diff(central)) + floor[1:]
    uncertainty = np.where(np.isfinite(uncertainty), uncertainty, np.inf)
    i = int(np.argmin(uncertainty)) + 1
    # Steps that are larger than what the loss does in them may agree with each other, and smaller ones do not.
    apart = np.abs(central[i + 1 :] - central[i])
    contradicted = apart > _SAFETY * (uncertainty[i - 1] + floor[i + 1 :])
    if np.any(contradicted):
        uncertainty[i - 1] = max(uncertainty[i - 1], float(np.max(apart[contradicted])))
    # A kink at zero: the one-sided derivatives do not come together as the step shrinks.
    gap, before = forward[i] - backward[i], forward[i - 1] - backward[i - 1]
    kink = abs(gap) > 0.5 * abs(before) and abs(gap) > _SAFETY * (uncertainty[i - 1] + 2 * floor[i])
    sides = (forward[i], backward[i]) if kink else (central[i], central[i])
    low, high = float(min(sides)), float(max(sides))
    return Slope(float(central[i]), float(uncertainty[i - 1]), low, high, float(abs(gap)), _APPROXIMATE)


def assess_slope(inner: float, slope: Slope, scale: float, tolerance: float, at_kink: float) -> tuple[Verdict, str]:
    """Whether <g, v> is the derivative of the loss along v, and why.

    Args:
        inner: <g, v>.
        slope: the derivative.
        scale: the size that <g, v> has for a gradient of the right norm.
        tolerance: what the arithmetic of g explains, relative to `scale`.
        at_kink: the same where rounding crosses no kink; at a kink it takes one side or the other.
    """
    if not np.isfinite(slope.value) or not np.isfinite(slope.uncertainty):
        return "INCONCLUSIVE", "the loss is NaN or infinite along the direction"
    known = _SAFETY * slope.uncertainty
    room, beside = (known + max(part, slope.approximate) * scale for part in (tolerance, at_kink))
    if slope.high - slope.low > beside:
        if slope.low - beside <= inner <= slope.high + beside:
            sides = f"{slope.low:.4g} to one side, {slope.high:.4g} to the other"
            return "INCONCLUSIVE", f"{KINK}: the derivative is {sides}"
        return "FAIL", f"<g, v> = {inner:.6g}, one-sided {slope.low:.6g} and {slope.high:.6g}"
    if abs(inner - slope.value) > max(room, slope.spread):
        return "FAIL", f"<g, v> = {inner:.6g}, the loss changes by {slope.value:.6g}"
    if abs(inner - slope.value) > room or _SAFETY * slope.uncertainty > _RESOLUTION * scale:
        known = max(slope.uncertainty, abs(inner - slope.value))
        floor = f"the loss shows changes from {known:.1e} on, the gradient's is {scale:.1e}"
        return "INCONCLUSIVE", f"the noise floor, or a kink inside every step: {floor}"
    if tolerance > _RESOLUTION:
        return "INCONCLUSIVE", f"rounding of the gradient explains {tolerance:.1e} of it"
    return "PASS", ""


def draw_signs(shape: tuple[int, ...], size: float, seed: int) -> np.ndarray:
    """A direction of random signs times `size`: a gradient of norm n has a slope of about n * size along it."""
    up = np.random.default_rng(seed).integers(0, 2, shape, np.bool_)
    return np.where(up, *in_few_digits(np.array([size, -size])))


def scale_direction(difference: np.ndarray, size: float) -> np.ndarray | None:
    """The direction in which two gradients differ, with entries of at most `size`: being wrong shows most there."""
    largest = float(np.max(np.abs(difference), initial=0.0))
    return None if not 0 < largest < np.inf else in_few_digits(difference / largest * size)


def in_few_digits(v: np.ndarray) -> np.ndarray:
    """A direction in float32, which takes half the memory, unless its entries are out of range there."""
    return np.asarray(v, np.float32) if 1e-30 < norm(v) < 1e30 else np.asarray(v)


def inner_product(g: np.ndarray, v: np.ndarray) -> float:
    """<g, v>, exact in scale: gradients of 1e-200 are no zeros."""
    largest = norm(g)
    if not 0 < largest < np.inf:
        return 0.0
    return largest * sum(float(np.vdot(part / largest, along)) for _, part, along in chunks(g, v))
