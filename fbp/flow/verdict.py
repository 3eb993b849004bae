"""What a curve of gradient norms says: vanishing, stable or exploding, and how fast."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Kind = Literal["vanishing", "stable", "exploding"]

THRESHOLD = 1.0
"""Decades between the first and the last hidden layer from which a gradient vanishes or explodes."""


@dataclass(frozen=True)
class Verdict:
    """How the norm of dZ changes from layer to layer, towards the input.

    Attributes:
        kind: "vanishing" or "exploding" where the median changes by at least a factor of ten over the network.
        rate: the factor a layer, the geometric mean over layers and seeds.
        low: the lower end of its 95 % confidence interval over seeds.
        high: the upper end.
        decades: log10 of the whole change, from the last hidden layer to the first, the median over seeds.
    """

    kind: Kind
    rate: float
    low: float
    high: float
    decades: float

    def __str__(self) -> str:
        return f"{self.kind}, x{self.rate:.3f} a layer [{self.low:.3f}, {self.high:.3f}]"


def verdict(log10_norms: ArrayLike) -> Verdict:
    """The verdict on log10 ||dZ_l|| of several seeds.

    Args:
        log10_norms: (seeds, L) for the hidden layers 1..L, L at least 2. A norm of zero is minus infinity.

    Returns:
        The verdict. The rate of a network is the slope of a straight line through its curve; the interval is that of
        Student's t over networks. Where a gradient is zero the rate is 0.
    """
    curves = np.asarray(log10_norms, np.float64)
    seeds, layers = curves.shape
    decades = float(np.median(curves[:, 0] - curves[:, -1])) if np.isfinite(curves).all() else -np.inf
    if not np.isfinite(decades):
        return Verdict("vanishing", 0.0, 0.0, 0.0, decades)
    centred = np.arange(layers) - (layers - 1) / 2
    # The slope over l, with its sign turned: backpropagation goes towards the input.
    slopes = -(curves @ centred) / np.sum(centred**2)
    half = _student_975(seeds - 1) * slopes.std(ddof=1) / seeds**0.5 if seeds > 1 else np.inf
    rate, low, high = (float(10**x) for x in (slopes.mean(), slopes.mean() - half, slopes.mean() + half))
    kind: Kind = "stable" if abs(decades) < THRESHOLD else "vanishing" if decades < 0 else "exploding"
    return Verdict(kind, rate, low, high, decades)


def _student_975(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
