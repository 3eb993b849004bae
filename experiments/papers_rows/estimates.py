"""Means over networks with their intervals, exponents of powers, and how they are told."""

from typing import NamedTuple

import numpy as np

from fbp.flow import confidence_interval
from fbp.report import fixed, number


class Estimate(NamedTuple):
    """A mean over networks with its 95 % interval."""

    low: float
    mean: float
    high: float


def estimate(values) -> Estimate:
    """The mean of one value for each network."""
    return Estimate(*(float(end[0]) for end in confidence_interval(np.reshape(values, (-1, 1)))))


def fit_exponents(x, logs) -> Estimate:
    """The exponent of a power of x, fitted to the logarithms (len(x), networks) of each network."""
    x = np.log(x) - np.log(x).mean()
    return estimate(x @ np.asarray(logs, np.float64) / np.sum(x**2))


def describe_power(base: str, found: Estimate) -> str:
    """A power of the base, with the interval of its exponent."""
    low, mean, high = (number(fixed(x, 2)) for x in found)
    return f"${base}^{{{mean}}}$ [{low}, {high}]"


def locate(value: float, low: float, high: float) -> str:
    """Where a value lies: "inside", "below" or "above" an interval."""
    return "inside" if low <= value <= high else "below" if value < low else "above"
