"""Labelled images from a folder of IDX files, the bundled digits among them."""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fbp.data.arrays import check_labels
from fbp.data.idx import StrPath, encode, read_idx
from fbp.errors import FbpError

STEMS = (
    ("train-images", "idx3-ubyte"),
    ("train-labels", "idx1-ubyte"),
    ("t10k-images", "idx3-ubyte"),
    ("t10k-labels", "idx1-ubyte"),
)
_BUNDLED = Path(__file__).with_name("digits")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled examples, split into a training and a test part; the arrays are read-only.

    Attributes:
        name: "digits" for the bundled data, otherwise the name of the folder.
        train_X: (m, n_0) float32, pixels in [0, 1]; rows are examples.
        train_Y: (m,) int32, labels in 0..classes-1.
        test_X: (m_test, n_0) float32, pixels in [0, 1].
        test_Y: (m_test,) int32, labels in 0..classes-1.
        classes: the number of classes, 1 + the largest label.
        sha256: the hash of the four decompressed files in sequence: training images and labels, test images and
            labels.
    """

    name: str
    train_X: np.ndarray = field(repr=False)
    train_Y: np.ndarray = field(repr=False)
    test_X: np.ndarray = field(repr=False)
    test_Y: np.ndarray = field(repr=False)
    classes: int
    sha256: str


def load(folder: StrPath | None = None) -> Dataset:
    """Load a data set from the four IDX files of a folder.

    Args:
        folder: holds the files under MNIST's names (train-images-idx3-ubyte, train-labels-idx1-ubyte,
            t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte; also with a dot before idx, also gzipped as
            .gz). None is the bundled digits: 5,000 + 1,000 examples of MNIST.

    Returns:
        The data set, pixels scaled to [0, 1].

    Raises:
        FbpError: the folder or a file is missing or damaged, or the arrays do not fit each other.

    Example:
        >>> digits = fbp.data.load()
        >>> digits.train_X.shape, digits.test_X.shape, digits.classes
        ((5000, 784), (1000, 784), 10)
    """
    path = _BUNDLED if folder is None else Path(folder)
    arrays = read_folder(path)
    train_images, train_labels, test_images, test_labels = arrays
    parts = (
        _scale_rows(train_images),
        train_labels.astype(np.int32),
        _scale_rows(test_images),
        test_labels.astype(np.int32),
    )
    for part in parts:
        # The hash describes the content only as long as nobody changes it.
        part.setflags(write=False)
    return Dataset(
        path.resolve().name or str(path),
        *parts,
        classes=1 + int(max(train_labels.max(), test_labels.max())),
        sha256=content_hash(*arrays),
    )


def read_folder(folder: StrPath) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read the four arrays of a folder as they are on disk, checked against each other.

    Args:
        folder: as for `load`.

    Returns:
        Training images (m, rows, columns) uint8, training labels (m,), test images, test labels.

    Raises:
        FbpError: as for `load`.
    """
    name = repr(os.fspath(folder))
    if not os.path.isdir(folder):
        raise FbpError(f"a data set must be a folder of IDX files, got {name}, which is not a folder; check the path")
    candidates = [[f"{stem}{joint}{kind}{end}" for joint in "-." for end in ("", ".gz")] for stem, kind in STEMS]
    present = [[file for file in files if os.path.isfile(Path(folder, file))] for files in candidates]
    missing = [
        f"{files[0]} (or {', '.join(files[1:])})" for kept, files in zip(present, candidates, strict=True) if not kept
    ]
    if missing:
        raise FbpError(
            f"a data set must have four IDX files, got a folder {name} that lacks {len(missing)}: "
            f"{'; '.join(missing)}; add them under one of these names"
        )
    files = [Path(folder, kept[0]) for kept in present]
    train_images, train_labels, test_images, test_labels = (read_idx(file) for file in files)
    _check_part(train_images, train_labels, *files[:2])
    _check_part(test_images, test_labels, *files[2:])
    if train_images.shape[1:] != test_images.shape[1:]:
        raise FbpError(
            f"training and test images must have one shape, got {train_images.shape[1:]} and {test_images.shape[1:]} "
            f"in {name}; check that the files belong together"
        )
    return train_images, train_labels, test_images, test_labels


def content_hash(*arrays: np.ndarray) -> str:
    """The sha256 of arrays as uncompressed IDX files, one after the other.

    Args:
        *arrays: arrays of one of the element types of IDX.

    Returns:
        64 hexadecimal digits.
    """
    sha256 = hashlib.sha256()
    for array in arrays:
        header, elements = encode(array)
        sha256.update(header)
        sha256.update(elements.data)
    return sha256.hexdigest()


def _check_part(images: np.ndarray, labels: np.ndarray, images_file: Path, labels_file: Path) -> None:
    if images.ndim != 3 or images.dtype != np.uint8:
        raise FbpError(
            f"images must be uint8 of shape (examples, rows, columns), got {images.dtype} {images.shape} "
            f"in {str(images_file)!r}; check that it is the right file"
        )
    if not images.size:
        raise FbpError(
            f"images must not be empty, got shape {images.shape} in {str(images_file)!r}; "
            "check that it is the right file"
        )
    check_labels(labels, None, f"the labels in {str(labels_file)!r}")
    if len(images) != len(labels):
        raise FbpError(
            f"every image must have one label, got {len(images)} images in {str(images_file)!r} and {len(labels)} "
            f"labels in {str(labels_file)!r}; check that the files belong together"
        )


def _scale_rows(images: np.ndarray) -> np.ndarray:
    return np.divide(images.reshape(len(images), -1), 255, dtype=np.float32)
