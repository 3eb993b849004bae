"""Means over networks with their confidence intervals: of values, of logarithms, and of factors from layer to layer."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fbp.errors import FbpError

Mean = Literal["log", "arithmetic"]


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


def interval_of_logs(log10: ArrayLike, mean: Mean = "log", power: int = 2) -> Interval:
    """The mean over seeds of positive quantities that are known by their logarithms, as a logarithm.

        "log": E log10 x        "arithmetic": log10 (E x^power)^(1/power), which mean-field theory predicts

    Args:
        log10: log10 x, (seeds, L).
        mean: which mean.
        power: 2 for a norm, 1 for a mean square.

    Returns:
        The interval. The lower end of an arithmetic mean is minus infinity where the seeds differ too much.

    Raises:
        FbpError: mean is neither word.
    """
    x = np.asarray(log10, np.float64)
    if mean == "log":
        return confidence_interval(x)
    if mean != "arithmetic":
        raise FbpError(f"mean must be 'log' or 'arithmetic', got {mean!r}; use 'log', for which few seeds suffice")
    # Relative to the largest, so that no power under- or overflows.
    top = x.max(axis=0)
    top = np.where(np.isfinite(top), top, 0.0)
    relative = confidence_interval(10 ** (power * (x - top)))
    with np.errstate(divide="ignore"):
        return Interval(*(np.log10(np.maximum(end, 0)) / power + top for end in relative))


def mean_factors(logs: np.ndarray) -> tuple[np.ndarray, Interval]:
    """The mean factors over networks, which need not be finite numbers themselves, and their mean over layers.

    Args:
        logs: ln of the factors, (networks, layers).

    Returns:
        ln of the mean factor of each layer, (layers,), and the mean of these with its interval by the jackknife; Tukey
        (1958).
    """
    n = len(logs)
    top = logs.max(axis=0)
    total = np.exp(logs - top).sum(axis=0)
    each = np.log(total / n) + top
    whole = float(np.mean(each))
    unknown = Interval(*np.array([-np.inf, whole, np.inf]))
    if n == 1:
        return each, unknown
    with np.errstate(divide="ignore", invalid="ignore"):
        left_out = np.mean(np.log((total - np.exp(logs - top)) / (n - 1)) + top, axis=1)
    return each, confidence_interval(n * whole - (n - 1) * left_out) if np.isfinite(left_out).all() else unknown


def geometric_mean(factors: np.ndarray) -> float:
    """The factor a layer that gives the same total; 0 where one of them is.

    Args:
        factors: of each layer.
    """
    with np.errstate(divide="ignore"):
        return float(np.exp(np.mean(np.log(factors))))
