"""What curves of gradient norms say: vanishing, stable or exploding, how fast, with intervals, and beside theory."""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fbp.errors import FbpError
from fbp.flow.prediction import Prediction
from fbp.theory.mean_field import Phase

Kind = Literal["vanishing", "stable", "exploding"]

REACH = 6.0
"""Depth scales up to which networks were seen to train; Schoenholz, Gilmer, Ganguli & Sohl-Dickstein (2017)."""
LONG = 10_000
"""Depths from which a length in layers is not reported."""
THRESHOLD = 1.0
"""Decades between the first and the last hidden layer from which a gradient vanishes or explodes."""


class Interval(NamedTuple):
    """A mean over networks and the ends of its confidence interval, each (L,).

    Attributes:
        low: the lower end.
        mean: the mean.
        high: the upper end.
    """

    low: np.ndarray
    mean: np.ndarray
    high: np.ndarray


def confidence_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean over the first axis, with the interval mean +- t s / sqrt(n); Student (1908).

    Args:
        values: (networks, L).
        confidence: the probability that the interval covers the expectation, in (0, 1).

    Returns:
        The interval; infinitely wide for one network. Where a value is minus infinity the mean is.

    Raises:
        FbpError: confidence is not between 0 and 1.
    """
    from scipy.stats import t

    if not 0 < confidence < 1:
        raise FbpError(f"confidence must be a probability between 0 and 1, got {confidence}; use 0.95")
    x = np.asarray(values, np.float64)
    n = len(x)
    with np.errstate(invalid="ignore"):
        mean = x.mean(axis=0)
        half = np.full_like(mean, np.inf)
        if n > 1:
            half = float(t.ppf(0.5 + confidence / 2, n - 1)) * x.std(axis=0, ddof=1) / n**0.5
        half = np.where(np.isneginf(mean), 0.0, half)
    return Interval(mean - half, mean, mean + half)


@dataclass(frozen=True)
class Verdict:
    """How the norm of dZ changes from layer to layer, towards the input.

    Attributes:
        kind: "vanishing" or "exploding" where the median changes by at least a factor of ten over the network.
        rate: the factor a layer, the geometric mean over layers and seeds.
        low: the lower end of its 95 % confidence interval over seeds.
        high: the upper end.
        decades: log10 of the whole change, from the last hidden layer to the first, the median over seeds.
        step: what one of the steps is called.
    """

    kind: Kind
    rate: float
    low: float
    high: float
    decades: float
    step: str = "layer"

    def __str__(self) -> str:
        return f"{self.kind}, ×{self.rate:.3f} a {self.step} [{self.low:.3f}, {self.high:.3f}]"


def verdict(log10_norms: ArrayLike, step: str = "layer") -> Verdict:
    """The verdict on log10 ||dZ_l|| of several seeds.

    Args:
        log10_norms: (seeds, L) for the hidden layers 1..L, L at least 2. A norm of zero is minus infinity.
        step: what one of the layers is called.

    Returns:
        The verdict. The rate of a network is the slope of a straight line through its curve; the interval is that of
        Student's t over networks. Where a gradient is zero the rate is 0.

    Raises:
        FbpError: there are fewer than two layers.
    """
    curves = np.asarray(log10_norms, np.float64)
    layers = curves.shape[1]
    if layers < 2:
        raise FbpError(f"a rate must be that of at least two hidden layers, got {layers}; measure a deeper network")
    decades = float(np.median(curves[:, 0] - curves[:, -1])) if np.isfinite(curves).all() else -np.inf
    if not np.isfinite(decades):
        return Verdict("vanishing", 0.0, 0.0, 0.0, decades, step)
    centred = np.arange(layers) - (layers - 1) / 2
    # The slope over l, with its sign turned: backpropagation goes towards the input.
    slopes = -(curves @ centred) / np.sum(centred**2)
    low, rate, high = (float(10**x) for x in confidence_interval(slopes))
    kind: Kind = "stable" if abs(decades) < THRESHOLD else "vanishing" if decades < 0 else "exploding"
    return Verdict(kind, rate, low, high, decades, step)


@dataclass(frozen=True)
class Diagnosis:
    """A verdict beside mean-field theory. Rates are factors of ||dZ||^2 a layer, towards the input.

    Attributes:
        verdict: the verdict on the norms; its rate is a geometric mean, which finite width puts below the arithmetic
            one by about kappa/4n a layer, in its logarithm (Hanin & Nica 2018).
        rate: the mean over layers and networks of ||dZ_l||^2 / ||dZ_{l+1}||^2, whose expectation theory predicts at
            any depth: a ratio of two layers does not scatter as the norms themselves do.
        low: the lower end of its 95 % confidence interval over networks.
        high: the upper end.
        half_depth: the layers in which ||dZ||^2 halves or doubles at that rate; infinite where it does neither.
        theory: what theory predicts for the rate; None where no theory holds.
        chi_1: its limit for many layers.
        phase: "ordered", "critical" or "chaotic".
        trainable: about six depth scales, 6 min(xi_c, 1 / |ln chi_1|), layers to which networks train; infinite on the
            critical line.
        critical_sigma_w: the weights' sigma_w with chi_1 = 1; None where there is none.
        note: why theory says nothing, or names no critical_sigma_w.
    """

    verdict: Verdict
    rate: float
    low: float
    high: float
    half_depth: float
    theory: float | None = None
    chi_1: float | None = None
    phase: Phase | None = None
    trainable: float | None = None
    critical_sigma_w: float | None = None
    note: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether theory lies in the confidence interval; None where there is none."""
        return None if self.theory is None else self.low <= self.theory <= self.high

    def __str__(self) -> str:
        fate = {"vanishing": "vanish", "stable": "keep their size", "exploding": "explode"}
        parts = [] if self.phase is None else [f"{self.phase} phase"]
        parts.append(f"gradients {fate[self.verdict.kind]}")
        step = self.verdict.step
        measured = f"‖dZ‖² ×{self.rate:.3f} a {step} [{self.low:.3f}, {self.high:.3f}]"
        parts.append(measured if self.theory is None else f"{measured} (theory {self.theory:.3f})")
        if self.half_depth < LONG and self.verdict.kind != "stable":
            word = "half-depth" if self.rate < 1 else "doubling depth"
            parts.append(f"{word} {self.half_depth:.1f} {step.split()[0]}s")
        if self.trainable is not None and self.trainable < LONG:
            parts.append(f"trainable to about {self.trainable:.0f} layers")
        sentence = ", ".join(parts)
        if self.critical_sigma_w is not None and self.phase != "critical":
            sentence += f"; use σ_w² = {self.critical_sigma_w**2:.2f}"
        return sentence + (f"; {self.note}" if self.note else "")


def diagnose(log10_norms: ArrayLike, prediction: Prediction | None, note: str = "", step: str = "layer") -> Diagnosis:
    """The diagnosis of log10 ||dZ_l|| of several seeds.

    Args:
        log10_norms: (seeds, L) for hidden layers of equal width.
        prediction: what theory says of them, or None.
        note: why theory says nothing.
        step: what one of the layers is called.

    Raises:
        FbpError: there are fewer than two layers.
    """
    curves = np.asarray(log10_norms, np.float64)
    kind = verdict(curves, step)
    with np.errstate(invalid="ignore"):
        # A gradient that has become zero stays zero: 0 / 0 counts as 0.
        ratios = np.nan_to_num(10 ** (2 * (curves[:, :-1] - curves[:, 1:])), nan=0.0)
    low, rate, high = (float(x) for x in confidence_interval(ratios.mean(axis=1)))
    half = math.log(2) / abs(math.log(rate)) if 0 < rate < math.inf and rate != 1 else math.inf
    measured = Diagnosis(kind, rate, low, high, half, note=note)
    if prediction is None:
        return measured
    field = prediction.field
    fades = field.phase != "critical" and field.chi_1 > 0
    scales = [field.xi_c, 1 / abs(math.log(field.chi_1)) if fades else math.inf]
    return replace(
        measured,
        theory=prediction.rate,
        chi_1=field.chi_1,
        phase=field.phase,
        trainable=REACH * min(scale for scale in scales if scale > 0),
        critical_sigma_w=field.critical_sigma_w,
        note="" if field.phase == "critical" else field.reasons.get("critical_sigma_w", ""),
    )
