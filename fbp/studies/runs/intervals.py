"""Percentages with their 95 % intervals."""

import math

Z95 = 1.959963984540054
"""The normal distribution has 95 % within so many standard deviations."""


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a probability, from independent trials. Wilson (1927).

    Args:
        hits: trials that succeeded.
        trials: of at least one.

    Example:
        >>> from fbp.studies.runs.intervals import wilson
        >>> low, high = wilson(0, 10)
        >>> round(low, 4), round(high, 4)
        (0.0, 0.2775)
    """
    p, z = hits / trials, Z95
    middle = p + z**2 / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def percent(value: float, trials: int) -> str:
    """A fraction as a percentage with the digits that so many trials give.

    Args:
        value: the fraction.
        trials: that it was measured on.
    """
    return f"{value:.{2 if trials >= 5000 else 1 if trials >= 50 else 0}%}"


def percent_interval(hits: int, trials: int) -> str:
    """The 95 % interval of a probability for a reader.

    Args:
        hits: trials that succeeded.
        trials: of at least one.
    """
    low, high = wilson(hits, trials)
    return f"{percent(low, trials)[:-1]} to {percent(high, trials)}".replace(" ", "\N{NO-BREAK SPACE}")
