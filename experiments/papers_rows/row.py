"""One published number, what was measured for it, and the verdict that the two of them give."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t

LIMIT = 5
"""Off by up to this many tolerances a statement holds approximately."""
HOLDS, INSIDE, NEAR, FAILS = "within tolerance", "within the interval only", "off by", "does not hold as stated"
DERIVED = "derivation"
"""What the source of a row begins with where nobody states its number: theory is what is compared."""


class Measured(NamedTuple):
    """A number with its 95 % interval, from independent networks."""

    value: float
    low: float
    high: float
    networks: int


@dataclass(frozen=True)
class Row:
    """A statement about gradients, beside what theory and sampled networks say.

    Attributes:
        id: the name of the claim, shared by its settings.
        source: author and year; "often said", or "derivation" and whom it follows.
        setting: what was varied within the claim, and the network.
        quantity: what the numbers are.
        stated: the published figure, what a published formula gives for the setting, or what is commonly said; None
            for a derivation by `fbp.theory`, which is compared itself, and for nothing else.
        theory: the same by `fbp.theory`, or by a recursion beside the row; None where there is none.
        measured: over sampled networks.
        tolerance: the relative error within which the statement holds, smaller than the effect that it is about;
            absolute where 0 or a bound is stated.
        at_most: whether the statement is an upper bound.
        finding: what is the case where the statement is not.
    """

    id: str
    source: str
    setting: str
    quantity: str
    stated: float | None
    theory: float | None
    measured: Measured
    tolerance: float = 0.01
    at_most: bool = False
    finding: str = ""

    def __post_init__(self) -> None:
        derived = self.source.startswith(DERIVED)
        assert derived == (self.stated is None), f"{self.id}: a derivation states no number, all else does"
        assert not derived or self.theory is not None, f"{self.id}: a derivation must have a number of theory"

    @property
    def claim(self) -> float:
        """The number on which the verdict is: what is stated, or in a derivation what theory says."""
        claim = self.theory if self.stated is None else self.stated
        assert claim is not None
        return claim

    @property
    def verdict(self) -> str:
        """ "within tolerance", "within the interval only", "off by x %" or "does not hold as stated"."""
        return judge(self.claim, self.measured, self.tolerance, self.at_most)

    @property
    def holds(self) -> bool:
        """Whether the statement holds, be it to a few per cent."""
        return self.verdict != FAILS

    @property
    def theory_holds(self) -> bool | None:
        """Whether theory holds, within `LIMIT` tolerances; None where there is none."""
        return None if self.theory is None else judge(self.theory, self.measured, self.tolerance) != FAILS

    def record(self) -> dict[str, Any]:
        """A tidy row."""
        names = ("id", "source", "setting", "quantity", "stated", "at_most", "theory", "tolerance")
        return {
            **{name: getattr(self, name) for name in names},
            **dict(zip(("measured", "low", "high", "networks"), self.measured, strict=True)),
            "verdict": self.verdict,
            "theory_holds": self.theory_holds,
            "finding": "" if self.verdict == HOLDS else self.finding,
        }


def judge(stated: float, measured: Measured, tolerance: float, at_most: bool = False) -> str:
    """The verdict on a stated number.

    A statement holds within its tolerance where it lies that near to the measured value, and the interval is no wider
    than to tell it from one that is off by `LIMIT` tolerances. Otherwise, inside the interval, it holds within that
    only: nothing finer than its half width was seen, which is said. Outside of both it is off by x %, up to `LIMIT`
    tolerances.

    Args:
        stated: the number.
        measured: what it is compared with.
        tolerance: relative to the stated number; absolute where that is 0.
        at_most: whether smaller values agree with it.
    """
    scale = abs(stated) or 1.0
    value, low, high, _ = measured
    gap = value - stated
    off = (max(gap, 0.0) if at_most else abs(gap)) / scale
    inside = low <= stated and (at_most or stated <= high)
    blur = 0.0 if at_most and value <= stated else (high - low) / 2 / scale
    if off <= tolerance and blur <= LIMIT * tolerance:
        return HOLDS
    if inside:
        return f"{INSIDE} (± {_round_up(blur, stated)})"
    return f"{NEAR} {_round_up(off, stated)}" if off <= LIMIT * tolerance else FAILS


def _round_up(part: float, stated: float) -> str:
    # Up: what is said of a statement is not better than what was seen. Of 0 there are no per cent.
    step = 0.1 if part < 0.095 else 1.0
    percent = math.ceil(100 * part / step - 1e-9) * step
    return f"{percent:g} %" if stated else f"{percent / 100:g}"


def jackknife(
    samples: ArrayLike, statistic: Callable[[np.ndarray], float] = lambda x: float(np.mean(x)), blocks: int = 100
) -> Measured:
    """A smooth statistic of networks with its 95 % interval, Student's t by the jackknife; Tukey (1958).

    Of a mean it is the usual interval. Where there are more than `blocks` networks, they are left out in groups.

    Args:
        samples: (networks, ...).
        statistic: of (some networks, ...).
        blocks: the most groups.
    """
    samples = np.asarray(samples, np.float64)
    networks = len(samples)
    if networks < 2:
        raise ValueError(f"an interval must be that of at least two networks, got {networks}; draw more")
    groups = np.array_split(np.arange(networks), min(networks, blocks))
    left_out = np.array([statistic(np.delete(samples, group, axis=0)) for group in groups])
    n = len(groups)
    error = math.sqrt((n - 1) * np.mean((left_out - left_out.mean()) ** 2))
    value, half = statistic(samples), float(t.ppf(0.975, n - 1)) * error
    return Measured(float(value), float(value - half), float(value + half), networks)
