"""A data set: labelled examples or tokens in a training and a test part, and how arrays are made into one."""

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from fbp.data.arrays import blocks, check_finite, check_labels, split
from fbp.data.idx import encode_header
from fbp.errors import FbpError
from fbp.memory import check_memory

HELD_OUT = 0.1
"""The part of the examples that is held out where there is no test part."""
SEED = 0
"""Of what is drawn while data are loaded, so that the same source gives the same data."""
_LABEL_TYPES = (np.uint8, np.int8, np.int16, np.int32)
"""Those that IDX files have: such labels are hashed as they are."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples with their targets, split into a training and a test part; the arrays are read-only.

    Attributes:
        name: "digits" for the bundled data, otherwise the name of the data set, the file or the folder.
        train_X: (m, n_0) float32, rows are examples, pixels in [0, 1]; memory-mapped arrays as they are on disk (see
            `scale`); for text the tokens (m,) int32.
        train_Y: (m,) int32, labels in 0..classes-1; for text the next tokens.
        test_X: (m_test, n_0), like train_X.
        test_Y: (m_test,), like train_Y.
        classes: the number of classes, for tokens the vocabulary.
        sha256: the hash of train_X, train_Y, test_X, test_Y before scaling, as uncompressed IDX files in sequence.
        shape: of one example before it was made a row, e.g. (28, 28).
        class_names: the name of each class, of each token for tokens; None where they are numbers.
        vocabulary: the number of tokens; None where examples are numbers.
        held_out: whether the test part was drawn here from the only part there was.
        source: what `load` was called with, which gives the same data again.
    """

    name: str
    train_X: np.ndarray = field(repr=False)
    train_Y: np.ndarray = field(repr=False)
    test_X: np.ndarray = field(repr=False)
    test_Y: np.ndarray = field(repr=False)
    classes: int
    sha256: str
    shape: tuple[int, ...] = ()
    class_names: tuple[str, ...] | None = field(default=None, repr=False)
    vocabulary: int | None = None
    held_out: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        for part in (self.train_X, self.train_Y, self.test_X, self.test_Y):
            # The hash describes the content only as long as nobody changes it.
            part.setflags(write=False)


class Part(NamedTuple):
    """Examples and labels as they were read, and what to call them in messages.

    Attributes:
        X: (m, ...) numbers.
        Y: (m,) integers, or (m, 1).
        what: where they come from, e.g. "'iris.npz'".
    """

    X: np.ndarray
    Y: np.ndarray
    what: str


def scale(X: np.ndarray) -> np.ndarray:
    """Make pixels numbers in [0, 1]: bytes are divided by 255 and become float32; anything else stays as it is.

    `load` does it, except for memory-mapped arrays, which would no longer be on disk: scale their batches.

    Args:
        X: an array.

    Example:
        >>> fbp.data.scale(np.array([[0, 51, 255]], np.uint8))
        array([[0. , 0.2, 1. ]], dtype=float32)
    """
    return np.divide(X, 255, dtype=np.float32) if X.dtype == np.uint8 else X


def assemble(
    name: str, train: Part, test: Part | None = None, *, class_names: tuple[str, ...] | None = None
) -> Dataset:
    """Check parts against each other, hold a test part out where there is none, and make examples rows.

    Args:
        name: of the data set.
        train: the training part, or all there is.
        test: the test part.
        class_names: of the classes.

    Raises:
        FbpError: the arrays do not fit each other, or are not numbers to train on.
    """
    parts = [_check_part(part) for part in (train, test) if part]
    shapes = [part.X.shape[1:] for part in parts]
    if shapes[0] != shapes[-1]:
        raise FbpError(
            f"training and test examples must have one shape, got {shapes[0]} and {shapes[-1]} in {parts[-1].what}; "
            "check that they belong together"
        )
    for part in parts:
        if not isinstance(part.X, np.memmap):
            # As float32, and once more while a part is held out.
            needed = 4 * part.X.size + (part.X.nbytes if test is None else 0)
            received = f"{part.X.dtype} {part.X.shape}"
            check_memory(f"the examples of {part.what}", received, needed, "give .npy files, which stay on disk")
    if test is None:
        parts = _hold_out(*parts)
    arrays = [array for part in parts for array in part[:2]]
    sha256 = content_hash(*arrays)
    # Of labels on disk this makes a copy in memory.
    labels = [np.array(Y, np.int32) for Y in arrays[1::2]]
    return Dataset(
        name,
        _as_rows(arrays[0]),
        labels[0],
        _as_rows(arrays[2]),
        labels[1],
        classes=len(class_names) if class_names else 1 + max(int(Y.max()) for Y in labels),
        sha256=sha256,
        shape=shapes[0],
        class_names=class_names,
        held_out=test is None,
    )


def _as_rows(X: np.ndarray) -> np.ndarray:
    return X.reshape(len(X), -1)


def content_hash(*arrays: np.ndarray) -> str:
    """The sha256 of arrays as uncompressed IDX files, one after the other.

    Args:
        *arrays: arrays of one of the element types of IDX.

    Returns:
        64 hexadecimal digits.
    """
    sha256 = hashlib.sha256()
    for array in arrays:
        header, dtype = encode_header(array)
        sha256.update(header)
        for block in blocks(array):
            sha256.update(np.asarray(block, dtype, order="C").data)
    return sha256.hexdigest()


def _check_part(part: Part) -> Part:
    X, Y, what = part
    if X.dtype.kind not in "biuf":
        raise FbpError(f"X must be numbers, got {X.dtype} in {what}; convert it to float32")
    if X.ndim < 2 or not X.size:
        raise FbpError(
            f"X must have rows of features, shape (m, n_0), got shape {X.shape} in {what}; "
            "reshape it, one row per example"
        )
    X = _as_features(X)
    if X.dtype.kind == "f":
        check_finite(X, f"X in {what}")
    if Y.ndim == 2 and Y.shape[1] == 1:
        Y = Y[:, 0]
    check_labels(Y, 2**31 - 1, f"the labels in {what}")
    if len(X) != len(Y):
        raise FbpError(
            f"every example must have one label, got {len(X)} examples and {len(Y)} labels in {what}; "
            "check that they belong together"
        )
    return Part(X, Y if Y.dtype in _LABEL_TYPES else Y.astype(np.int32), what)


def _as_features(X: np.ndarray) -> np.ndarray:
    if isinstance(X, np.memmap):
        # Converting it would read it all into memory.
        encode_header(X)
        return X
    if X.dtype in (np.uint8, np.float32):
        return X
    with np.errstate(over="ignore"):
        # What overflows is infinite, and refused as such.
        return X.astype(np.float32)


def _hold_out(part: Part) -> list[Part]:
    m = len(part.X)
    if m < 2:
        raise FbpError(
            f"a data set without a test part must have at least 2 examples, one to hold out, got {m} in {part.what}; "
            "add examples"
        )
    train_X, train_Y, test_X, test_Y = split(part.X, part.Y, fraction=max(HELD_OUT, 1 / m), seed=SEED)
    return [Part(train_X, train_Y, part.what), Part(test_X, test_Y, part.what)]
