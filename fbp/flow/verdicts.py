"""What curves of gradient norms say: vanishing, stable or exploding, how fast, with intervals, and beside theory."""

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fbp.errors import FbpError
from fbp.flow.intervals import confidence_interval, geometric_mean, mean_factors
from fbp.flow.prediction import Prediction
from fbp.theory.mean_field import Phase

Kind = Literal["vanishing", "stable", "exploding", "undecided"]

REACH = 6.0
"""Depth scales up to which networks were seen to train; Schoenholz, Gilmer, Ganguli & Sohl-Dickstein (2017)."""
LONG = 10_000
"""Depths from which a length in layers is not reported."""
LEVEL = 100
"""Layers: a rate by which the norm changes less than tenfold over so many is level."""
CLOSE = 20
"""Layers: an interval by whose ends the norm changes less than tenfold over so many is narrow."""
MOST = 2 / 3
"""Of a change: a single step that makes so much of it is told apart from the others."""


def judge_rate(low: float, rate: float, high: float, steps: int) -> Kind:
    """The word for a factor of ||dZ|| a layer with its confidence interval.

        level       |log10 rate| max(steps, 100) < 1: the norm changes less than tenfold over 100 layers, and over these
        narrow      |log10 end| max(steps, 20) < 1 for both ends of the interval
        stable      1 lies in the interval or the rate is level, and the interval is narrow
        undecided   the same, and the interval is not narrow
        vanishing   the interval lies below 1, and the rate is not level; "exploding" likewise above 1

    Args:
        low: the lower end of the interval.
        rate: the factor.
        high: the upper end.
        steps: how many factors are between the layers that were measured.

    Example:
        >>> fbp.flow.judge_rate(0.68, 0.7, 0.72, steps=2)
        'vanishing'
        >>> fbp.flow.judge_rate(0.97, 0.99, 1.01, steps=50)
        'stable'
    """

    def changes(factor: float, layers: int) -> bool:
        return not 0 < factor < math.inf or abs(math.log10(factor)) * max(steps, layers) >= 1

    if math.isnan(rate):
        return "undecided"
    if low <= 1 <= high or not changes(rate, LEVEL):
        return "undecided" if changes(low, CLOSE) or changes(high, CLOSE) else "stable"
    return "vanishing" if rate < 1 else "exploding"


@dataclass(frozen=True)
class Verdict:
    """How the norm of dZ changes from layer to layer, towards the input, in a typical network.

    Attributes:
        kind: the word for the rate and its interval, see `judge_rate`; for the rate alone where one network was
            measured.
        rate: the factor a layer, the geometric mean over layers and networks.
        low: the lower end of its 95 % confidence interval over networks; 0 for one network.
        high: the upper end; infinite for one network.
        decades: log10 of the whole change, from the last hidden layer to the first: that of the rate, for every layer.
        step: what one of the steps is called.
        networks: how many were measured.
        silent: how many of them let no gradient through; the rate is that of the others, or 0 where these are fewer.
        infinite: how many of them had infinite or NaN values; the rate is that of the others, or NaN where most are
            left out.
    """

    kind: Kind
    rate: float
    low: float
    high: float
    decades: float
    step: str = "layer"
    networks: int = 1
    silent: int = 0
    infinite: int = 0

    def __str__(self) -> str:
        if math.isnan(self.rate) or self.rate == 0:
            return "; ".join(filter(None, (self.kind, self.left_out)))
        ends = "in one network" if self.networks == 1 else _describe_interval(self.low, self.high)
        sentence = (
            f"{self.kind}, ×{_describe_factor(self.rate)} a {self.step} {ends}, {self.decades:+.2f} decades in all"
        )
        return "; ".join(filter(None, (sentence, self.left_out)))

    @property
    def left_out(self) -> str:
        """How many networks have no rate, and why; empty where all have one."""
        counts = {"no gradient": self.silent, "infinite or NaN values": self.infinite}
        return "; ".join(f"{what} in {count} of {self.networks} networks" for what, count in counts.items() if count)


def verdict(log10_norms: ArrayLike, step: str = "layer") -> Verdict:
    """The verdict on log10 ||dZ_l|| of several seeds.

    Args:
        log10_norms: (seeds, L) for the hidden layers 1..L, L at least 2. A norm of zero is minus infinity, one of a
            network that left the range of its numbers NaN.
        step: what one of the layers is called.

    Returns:
        The verdict. The rate of a network is the geometric mean of its factors a layer; the interval is that of
        Student's t over networks.

    Raises:
        FbpError: there are fewer than two layers.

    Example:
        >>> str(fbp.flow.verdict([[-2.0, -1.0, 0.0], [-2.2, -1.1, 0.0]]))
        'vanishing, ×0.0891 a layer [0.0206, 0.385], -2.10 decades in all'
    """
    curves = _check_curves(log10_norms)
    networks, steps = len(curves), curves.shape[1] - 1
    silent, infinite = _find_left_out(curves)
    counts = (step, networks, int(silent.sum()), int(infinite.sum()))
    if 2 * silent.sum() >= networks > 2 * infinite.sum():
        return Verdict("vanishing", 0.0, 0.0, 0.0, -math.inf, *counts)
    if 2 * (silent | infinite).sum() >= networks:
        return Verdict("undecided", math.nan, math.nan, math.nan, math.nan, *counts)
    kept = curves[~(silent | infinite)]
    # Backpropagation goes towards the input. Between its ends the curve cancels: a rate agrees with its total.
    with np.errstate(over="ignore"):
        low, rate, high = (float(10**x) for x in confidence_interval((kept[:, 0] - kept[:, -1]) / steps))
    ends = (low, high) if len(kept) > 1 else (rate, rate)
    kind = judge_rate(ends[0], rate, ends[1], steps)
    return Verdict(kind, rate, low, high, float((kept[:, 0] - kept[:, -1]).mean()), *counts)


class Jump(NamedTuple):
    """A single step that makes most of the change, so that the mean over all steps says nothing of the others.

    Attributes:
        layer: the layer, or part of the stream, from which it leads to the one before.
        share: its part of ln of the change over the network.
        factor: of ||dZ||^2 by it.
        elsewhere: the mean factor of the other steps.
    """

    layer: int
    share: float
    factor: float
    elsewhere: float


@dataclass(frozen=True)
class Diagnosis:
    """A verdict beside mean-field theory. Rates are factors of ||dZ||^2 a layer, towards the input.

    Attributes:
        verdict: the verdict on a typical network; its rate is a geometric mean, which finite width puts below the
            arithmetic one by about kappa/4n a layer, in its logarithm (Hanin & Nica 2018).
        kind: the word for the rate below and its interval, see `judge_rate`, of which it takes the root.
        rate: the mean over networks of ||dZ_l||^2 / ||dZ_{l+1}||^2, whose expectation theory predicts at any depth,
            as a ratio of two layers does not scatter like the norms themselves; of these the geometric mean over
            layers. Networks that let no gradient through, or have infinite values, are left out.
        low: the lower end of its 95 % confidence interval over networks, by the jackknife.
        high: the upper end.
        half_depth: the layers in which ||dZ||^2 halves or doubles at that rate; infinite where it does neither.
        steps: how many such ratios a network has.
        theory: what theory predicts for the rate; None where no theory holds.
        chi_1: its limit for many layers.
        phase: "ordered", "critical" or "chaotic".
        trainable: about six depth scales, 6 min(xi_c, 1 / |ln chi_1|), layers to which networks train; infinite on the
            critical line.
        critical_sigma_w: the weights' sigma_w with chi_1 = 1; None where there is none.
        advice: a sigma_w by which theory makes the logarithm of the rate of these layers less than half of what was
            measured; None where the rate is stable or 0, theory calls these layers critical, or no such sigma_w is
            known.
        note: why theory says nothing, or names no critical_sigma_w.
        jump: where gradients vanish or explode, the step that makes most of the change; None where there is none.
    """

    verdict: Verdict
    kind: Kind
    rate: float
    low: float
    high: float
    half_depth: float
    steps: int
    theory: float | None = None
    chi_1: float | None = None
    phase: Phase | None = None
    trainable: float | None = None
    critical_sigma_w: float | None = None
    advice: float | None = None
    note: str = ""
    jump: Jump | None = None

    @property
    def word(self) -> str:
        """The kind; "exploding by one step" and the like where the other steps would be stable by themselves."""
        if self.jump is None:
            return self.kind
        elsewhere = math.sqrt(self.jump.elsewhere)
        alone = judge_rate(elsewhere, elsewhere, elsewhere, self.steps) == "stable"
        return f"{self.kind} by one step" if alone else self.kind

    @property
    def agrees(self) -> bool | None:
        """Whether theory lies in the confidence interval; None without theory or a rate, and for one network."""
        if self.theory is None or math.isnan(self.rate) or self.verdict.networks == 1:
            return None
        return self.low <= self.theory <= self.high

    def __str__(self) -> str:
        networks, step = self.verdict.networks, self.verdict.step
        fate = {
            "vanishing": "gradients vanish",
            "stable": f"gradients keep their size over {self.steps + 1} {_plural(step)}",
            "exploding": "gradients explode",
            "undecided": f"undecided by {networks} network{'s' if networks > 1 else ''}",
        }
        ends = "in one network" if networks == 1 else _describe_interval(self.low, self.high)
        measured = f", ‖dZ‖² ×{_describe_factor(self.rate)} a {step}" + (f" {ends}" if self.rate else "")
        by = self.word.removeprefix(self.kind)
        parts = ["undecided" if math.isnan(self.rate) else fate[self.kind] + by + measured]
        parts[0] += f" ({self._describe_theory()})" if self.theory is not None else ""
        if self.jump is not None:
            at, share, factor, elsewhere = self.jump
            parts.append(
                f"{share:.0%} of that in one step, {at} to {at - 1} (×{factor:.3g}; ×{elsewhere:.4g} elsewhere)"
            )
        elif self.half_depth < LONG and self.kind in ("vanishing", "exploding"):
            word = "half-depth" if self.rate < 1 else "doubling depth"
            parts.append(f"{word} {self.half_depth:.1f} {_plural(step)}")
        typical = self.verdict
        if typical.kind != self.kind and "undecided" not in (typical.kind, self.kind):
            parts.append(f"in a typical network ‖dZ‖ ×{_describe_factor(typical.rate)} a {step}: {typical.kind}")
        if self.trainable is not None and self.trainable < LONG:
            parts.append(f"trainable to about {_count_layers(self.trainable)}")
        advice = ""
        if self.advice is not None:
            square = self.advice**2
            advice = f"use σ_w² = {square:.2f}" if square >= 1 else f"use σ_w² = {square:#.3g}"
        return "; ".join(filter(None, (", ".join(parts), typical.left_out, advice, self.note)))

    def _describe_theory(self) -> str:
        theory = _describe_factor(self.theory or 0.0)
        if self.phase is None:
            return f"theory {theory}"
        limit = _describe_factor(self.chi_1 or 0.0)
        # "Stable" is said of these layers, a phase of ever more of them.
        if limit != theory or (self.kind == "stable" and self.phase != "critical"):
            return f"theory {theory}, with depth {limit}: {self.phase} phase"
        return f"theory {theory}, {self.phase} phase"


def diagnose(
    log10_norms: ArrayLike,
    prediction: Prediction | None,
    note: str = "",
    step: str = "layer",
    advised: Prediction | None = None,
    first: int = 1,
) -> Diagnosis:
    """The diagnosis of log10 ||dZ_l|| of several seeds.

    Args:
        log10_norms: (seeds, L) for hidden layers of equal width.
        prediction: what theory says of them, or None.
        note: why theory says nothing.
        step: what one of the layers is called.
        advised: what theory says of them with the prediction's critical sigma_w.
        first: the number of the first of them.

    Raises:
        FbpError: there are fewer than two layers.
    """
    curves = _check_curves(log10_norms)
    typical, steps = verdict(curves, step), curves.shape[1] - 1
    low, rate, high = (typical.rate,) * 3
    each = np.empty(0)
    if typical.rate > 0:
        silent, infinite = _find_left_out(curves)
        kept = curves[~(silent | infinite)]
        with np.errstate(over="ignore"):
            each, whole = mean_factors(2 * math.log(10) * (kept[:, :-1] - kept[:, 1:]))
            low, rate, high = (float(np.exp(x)) for x in whole)
    ends = (low, high) if len(curves) - typical.silent - typical.infinite > 1 else (rate, rate)
    kind = judge_rate(math.sqrt(ends[0]), math.sqrt(rate), math.sqrt(ends[1]), steps)
    half = math.log(2) / abs(math.log(rate)) if 0 < rate < math.inf and rate != 1 else math.inf
    jump = _find_jump(each, first) if kind in ("vanishing", "exploding") else None
    measured = Diagnosis(typical, kind, rate, low, high, half, steps, note=note, jump=jump)
    if prediction is None:
        return measured
    field = prediction.field
    fades = field.phase != "critical" and field.chi_1 > 0
    scales = [field.xi_c, 1 / abs(math.log(field.chi_1)) if fades else math.inf]
    # No sigma_w mends what theory does not see: layers that are dead by chance, or narrow.
    curable = kind in ("vanishing", "exploding") and rate > 0 and field.phase != "critical"
    helps = curable and advised is not None and _is_nearer(geometric_mean(advised.factors), rate)
    return replace(
        measured,
        theory=geometric_mean(prediction.factors),
        chi_1=field.chi_1,
        phase=field.phase,
        trainable=REACH * min(scale for scale in scales if scale > 0),
        critical_sigma_w=field.critical_sigma_w,
        advice=field.critical_sigma_w if helps else None,
        note="" if field.phase == "critical" else field.reasons.get("critical_sigma_w", ""),
    )


def _check_curves(log10_norms: ArrayLike) -> np.ndarray:
    curves = np.asarray(log10_norms, np.float64)
    if curves.ndim != 2 or not len(curves) or curves.shape[1] < 2:
        raise FbpError(
            f"a rate must be that of at least two hidden layers, got the shape {curves.shape}; measure a deeper network"
        )
    return curves


def _find_left_out(curves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which networks let no gradient through, and which had infinite or NaN values."""
    # NaN is in no order.
    infinite = np.logical_not(np.all(curves < np.inf, axis=1))
    return np.isneginf(curves).any(axis=1) & ~infinite, np.asarray(infinite)


def _find_jump(each: np.ndarray, first: int) -> Jump | None:
    """The step that makes most of the change, of ln of the factors of all, where there are at least three."""
    total = float(each.sum())
    if len(each) < 3 or not math.isfinite(total) or total == 0:
        return None
    at = int(np.argmax(each / total))
    share = float(each[at] / total)
    with np.errstate(over="ignore"):
        factors = np.exp(each[at]), np.exp((total - each[at]) / (len(each) - 1))
    return Jump(first + at + 1, share, *map(float, factors)) if share > MOST else None


def _is_nearer(advised: float, measured: float) -> bool:
    """Whether one rate is at most half as far from 1 as another, in their logarithms."""
    return advised > 0 and 2 * abs(math.log(advised)) <= abs(math.log(measured))


def _describe_factor(factor: float) -> str:
    """Three digits, and as many more as tell a factor from 1."""
    if not 0.1 <= factor < 100:
        return f"{factor:.3g}"
    apart = abs(factor - 1)
    return f"{factor:.{max(3, 1 - math.floor(math.log10(apart))) if apart > 1e-8 else 3}f}"


def _describe_interval(low: float, high: float) -> str:
    return f"[{_describe_factor(low)}, {_describe_factor(high)}]"


def _count_layers(number: float) -> str:
    return "1 layer" if round(number) <= 1 else f"{number:.0f} layers"


def _plural(step: str) -> str:
    first, *rest = step.split(" ", 1)
    return " ".join([f"{first}s", *rest])
