"""Arrays for readers: all numbers of small ones, and of large ones what tells a healthy one from a broken one."""

import math
from typing import Any

import numpy as np

from fbp.report import number
from fbp.report.inline import superscript

ALL = 64
"""Arrays of at most so many entries are given in full."""
_BINS = 24
_MOST, _MOST_IN_ALL = 4, 9
_FIGURE_SPACE = "\N{FIGURE SPACE}"


def summarize(x: np.ndarray | None) -> dict[str, Any] | None:
    """An array as plain data: `values` of a small one, `statistics` of a large one.

    Args:
        x: the array; None where there is none.
    """
    if x is None:
        return None
    return {"values": plain(x).tolist()} if x.size <= ALL else {"statistics": find_statistics(x)}


def find_statistics(x: np.ndarray) -> dict[str, Any]:
    """The norm, the mean, the extremes and the histogram of an array with entries."""
    y = np.abs(plain(x)) if x.dtype.kind == "c" else plain(x).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = float(np.mean(y))
    found: dict[str, Any] = {"norm": norm(x), "mean": mean, "min": float(np.min(y)), "max": float(np.max(y))}
    finite = y[np.isfinite(y)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    # Equal numbers have no histogram, nor has a range whose width is no number.
    if low < high and math.isfinite(high - low):
        counts, _ = np.histogram(finite, _BINS, (low, high))
        found["histogram"] = {"low": low, "high": high, "counts": counts.tolist()}
    return found


def norm(x: np.ndarray) -> float:
    """The square root of the sum of squares."""
    y = np.abs(plain(x)).astype(np.float64).ravel()
    top = float(y.max(initial=0.0))
    return top * float(np.linalg.norm(y / top)) if top and math.isfinite(top) else top


def short(x: np.ndarray | None, digits: int = 4) -> str:
    """An array in a few characters: a number, a short list of numbers, or the norm."""
    if x is None:
        return ""
    if x.ndim == 0:
        return entry(plain(x)[()], digits)
    if x.size <= _MOST and x.size == max(x.shape, default=0):
        return "[" + ", ".join(entry(v, digits - 1) for v in plain(x).ravel()) + "]"
    return f"‖{number(norm(x), digits - 1)}‖"


def lines(x: np.ndarray | None) -> list[str]:
    """An array for the label of an edge: a small one row by row, a vector as a column, and else its shape and norm."""
    if x is None:
        return []
    if x.ndim == 0:
        return [entry(plain(x)[()], 4)]
    rows = x.reshape(-1, 1) if x.ndim == 1 else x
    if x.ndim > 2 or not 0 < x.size <= _MOST_IN_ALL or max(rows.shape) > _MOST:
        return [f"{shape(x.shape)}  ‖{number(norm(x), 3)}‖" if x.size else shape(x.shape)]
    power = _power(rows)
    texts = _align(plain(rows) / 10.0**power if power else plain(rows))
    width = max(len(text) for row in texts for text in row)
    padded = [(_FIGURE_SPACE * 2).join(text.rjust(width, _FIGURE_SPACE) for text in row) for row in texts]
    return [*padded, f"×10{superscript(power)}"] if power else padded


def _align(rows: np.ndarray) -> list[list[str]]:
    """Entries with as many decimal places as three digits of the largest need, unless that makes one of them zero."""
    if rows.dtype.kind == "f" and np.all(np.isfinite(rows)) and np.any(rows):
        most = 2 - math.floor(math.log10(np.max(np.abs(rows))))
        rounded = np.round(rows, most)
        if not np.any((rounded == 0) & (rows != 0)):
            places = next((k for k in range(max(most, 0)) if np.allclose(rounded, np.round(rounded, k), 0, 1e-9)), most)
            return [[f"{v:z.{max(places, 0)}f}".replace("-", "−") for v in row.tolist()] for row in rounded]
    return [[entry(v, 3) for v in row] for row in rows]


def _power(x: np.ndarray) -> int:
    """The power of ten that all entries share, where they are far from 1."""
    top = float(np.max(np.abs(plain(x)), initial=0.0))
    is_far = x.dtype.kind != "b" and math.isfinite(top) and top > 0 and not 1e-2 <= top < 1e4
    return math.floor(math.log10(top)) if is_far else 0


def shape(of: tuple[int, ...]) -> str:
    """2×3; "" for a number."""
    return "×".join(map(str, of)) if len(of) != 1 else f"{of[0]}"


def entry(value: Any, digits: int = 4) -> str:
    """One entry of an array."""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (complex, np.complexfloating)):
        sign = "+" if value.imag >= 0 or math.isnan(value.imag) else "−"
        return f"{number(float(value.real), digits)} {sign} {number(abs(float(value.imag)), digits)}i"
    if isinstance(value, (int, np.integer)):
        return number(int(value))
    return number(float(value), digits)


def plain(x: np.ndarray) -> np.ndarray:
    """In a dtype that NumPy itself knows."""
    return x if x.dtype.kind in "biufc" else x.astype(np.float64)
