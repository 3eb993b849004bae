"""Statistics over seeds: means of logs, logs of means, and their confidence intervals by Student's t."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fbp.errors import FbpError

Mean = Literal["log", "arithmetic"]


class Interval(NamedTuple):
    """A mean over seeds and the ends of its confidence interval, each (L,).

    Attributes:
        low: the lower end.
        mean: the mean.
        high: the upper end.
    """

    low: np.ndarray
    mean: np.ndarray
    high: np.ndarray


def interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean over the first axis, with the interval mean +- t s / sqrt(n); Student (1908).

    Args:
        values: (seeds, L).
        confidence: the probability that the interval covers the expectation, in (0, 1).

    Returns:
        The interval; infinitely wide for one seed. Where a value is minus infinity the mean is.

    Raises:
        FbpError: confidence is no probability.
    """
    x = np.asarray(values, np.float64)
    n = len(x)
    with np.errstate(invalid="ignore"):
        mean = x.mean(axis=0)
        half = student(n - 1, confidence) * x.std(axis=0, ddof=1) / n**0.5 if n > 1 else np.full_like(mean, np.inf)
        half = np.where(np.isneginf(mean), 0.0, half)
    return Interval(mean - half, mean, mean + half)


def log_interval(log10: ArrayLike, mean: Mean = "log", power: int = 2, confidence: float = 0.95) -> Interval:
    """The mean over seeds of positive quantities that are known by their logarithms, as a logarithm.

        "log": E log10 x        "arithmetic": log10 (E x^power)^(1/power), which mean-field theory predicts

    Args:
        log10: log10 x, (seeds, L).
        mean: which mean.
        power: 2 for a norm, 1 for a mean square.
        confidence: of the interval, in (0, 1).

    Returns:
        The interval. The lower end of an arithmetic mean is minus infinity where the seeds differ too much.

    Raises:
        FbpError: confidence is no probability, or mean is neither word.
    """
    x = np.asarray(log10, np.float64)
    if mean == "log":
        return interval(x, confidence)
    if mean != "arithmetic":
        raise FbpError(f"mean is 'log' or 'arithmetic'; received {mean!r}; take 'log', which few seeds suffice for")
    # Relative to the largest, so that no power under- or overflows.
    top = x.max(axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    found = interval(10 ** (power * (x - top)), confidence)
    with np.errstate(divide="ignore"):
        return Interval(*(np.log10(np.maximum(end, 0)) / power + top for end in found))


def student(freedom: int, confidence: float = 0.95) -> float:
    """The two-sided quantile of Student's t.

    Args:
        freedom: degrees of freedom, at least 1.
        confidence: in (0, 1).

    Raises:
        FbpError: confidence is no probability.
    """
    from scipy.stats import t

    if not 0 < confidence < 1:
        raise FbpError(f"confidence is a probability between 0 and 1; received {confidence}; use 0.95")
    return float(t.ppf(0.5 + confidence / 2, freedom))
