"""The conditions on arrays to train on, and the validation split."""

from collections.abc import Iterator
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike

from fbp.errors import FbpError

_BLOCK = 16 << 20


def validate(X: ArrayLike, Y: ArrayLike | None = None, *, classes: int | None = None) -> None:
    """Check a user's arrays before they are trained on.

    Args:
        X: (m, n_0) or more dimensions, numbers; rows are examples.
        Y: labels or targets, one row per example.
        classes: the number of classes; Y is then integer labels (m,) in 0..classes-1.

    Raises:
        FbpError: an array is empty, not numeric or not finite, the row counts differ, or a label is out
            of range.
    """
    X = _real(X, "X")
    if X.ndim < 2:
        raise FbpError(
            f"X must have rows of features, shape (m, n_0), got shape {X.shape}; reshape it, one row per example"
        )
    check_finite(X, "X")
    if Y is None:
        return
    Y = _real(Y, "Y")
    check_rows(X, Y)
    if classes is None:
        check_finite(Y, "Y")
    else:
        check_labels(Y, classes, "Y")


def split(
    X: ArrayLike, Y: ArrayLike, *, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shuffle the rows and hold a fraction of them out for validation; the seed decides which.

    Args:
        X: (m, ...) examples.
        Y: (m, ...) labels or targets.
        fraction: the fraction of rows to hold out, in [0, 1); the count is rounded to the nearest integer. At 0 the
            validation part is empty.
        seed: the seed of numpy's PCG64, at least 0.

    Returns:
        train_X, train_Y, val_X, val_Y: copies, the pairs kept.

    Raises:
        FbpError: the fraction or the seed is out of range, a part would be empty, or the row counts
            differ.
    """
    X, Y = np.asarray(X), np.asarray(Y)
    check_rows(X, Y)
    train, val = split_rows(len(X), fraction=fraction, seed=seed)
    return X[train], Y[train], X[val], Y[val]


def split_rows(m: int, *, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows for training and for validation, as `split` takes them.

    Args:
        m: the number of rows.
        fraction: to hold out, in [0, 1).
        seed: of numpy's PCG64, at least 0.

    Raises:
        FbpError: the fraction or the seed is out of range, or a part would be empty.
    """
    if not 0 <= fraction < 1:
        raise FbpError(f"the validation fraction must be in [0, 1), got {fraction}; 0.1 holds out one row in ten")
    if not isinstance(seed, Integral) or seed < 0:
        raise FbpError(f"seed must be an integer of at least 0, got {seed!r}; use 0")
    held_out = round(fraction * m)
    if fraction > 0 and not 0 < held_out < m:
        raise FbpError(
            "a validation split must leave rows on both sides, "
            f"got {held_out} of {m} rows for the fraction {fraction}; change the fraction"
        )
    order = np.random.Generator(np.random.PCG64(int(seed))).permutation(m)
    return order[held_out:], order[:held_out]


def check_labels(labels: np.ndarray, classes: int | None, what: str) -> None:
    """Check that an array holds one class number per example.

    Args:
        labels: the array.
        classes: labels must be below it; None sets no upper bound.
        what: the array's name in the message.

    Raises:
        FbpError: wrong rank, empty, not integers, or the first row that is out of range.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise FbpError(
            f"{what} must be integers of shape (examples,), got {labels.dtype} {labels.shape}; "
            "give one class number per example"
        )
    if not labels.size:
        raise FbpError(f"{what} must not be empty, got shape {labels.shape}; give at least one example")
    wrong = labels < 0
    if classes is not None:
        wrong |= labels >= classes
    if wrong.any():
        row = int(wrong.argmax())
        bounds = "at least 0" if classes is None else f"in 0..{classes - 1}"
        raise FbpError(
            f"{what} must be {bounds}, got {labels[row]} at row {row} ({np.count_nonzero(wrong)} such rows); "
            "number the classes from 0"
        )


def _real(values: ArrayLike, what: str) -> np.ndarray:
    try:
        array = np.asarray(values)
        # Not by dtype.kind: bfloat16, a real number, has the kind "V".
        np.isfinite(np.empty(0, array.dtype))
        if array.dtype.kind in "cmM":
            raise TypeError
    except (TypeError, ValueError):
        kind = getattr(values, "dtype", type(values).__name__)
        raise FbpError(f"{what} must be one array of real numbers, got {kind}; convert it to float") from None
    if not array.size:
        raise FbpError(f"{what} must not be empty, got shape {array.shape}; give at least one example")
    return array


def blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """Go through an array, which may be larger than memory, in blocks of rows of some megabytes."""
    rows = max(_BLOCK // max(array[:1].nbytes, 1), 1)
    return (array[start : start + rows] for start in range(0, len(array), rows))


def check_finite(array: np.ndarray, what: str) -> None:
    """Check that every number is finite.

    Args:
        array: the array, (m, ...).
        what: its name in the message.

    Raises:
        FbpError: how many are not, and where the first is.
    """
    if array.dtype.kind in "iub" or all(np.isfinite(block).all() for block in blocks(array)):
        return
    finite = np.isfinite(array)
    row, *columns = (int(i) for i in np.unravel_index(finite.argmin(), array.shape))
    nans = np.count_nonzero(np.isnan(array))
    infinite = finite.size - np.count_nonzero(finite) - nans
    column = f", column {columns[0] if len(columns) == 1 else columns}" if columns else ""
    raise FbpError(
        f"{what} must be finite, got {nans} NaN and {infinite} infinite values, the first at row {row}{column}; "
        "drop or fill those rows"
    )


def check_rows(X: np.ndarray, Y: np.ndarray) -> None:
    """Check that two arrays have equally many rows.

    Raises:
        FbpError: they have not.
    """
    if X.shape[:1] != Y.shape[:1] or not X.ndim:
        raise FbpError(
            f"X and Y must have one row per example each, got shapes {X.shape} and {Y.shape}; "
            "check that they belong together"
        )
