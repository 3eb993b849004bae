"""A folder of four IDX files under MNIST's names, the bundled digits among them."""

import os
from pathlib import Path

import numpy as np

from fbp.data.arrays import check_labels
from fbp.data.datasets import Dataset, Part, assemble
from fbp.data.files import StrPath
from fbp.data.idx import read_idx
from fbp.errors import FbpError

STEMS = (
    ("train-images", "idx3-ubyte"),
    ("train-labels", "idx1-ubyte"),
    ("t10k-images", "idx3-ubyte"),
    ("t10k-labels", "idx1-ubyte"),
)
BUNDLED = Path(__file__).with_name("digits")
_CANDIDATES = [[f"{stem}{joint}{kind}{end}" for joint in "-." for end in ("", ".gz")] for stem, kind in STEMS]


def load_idx_folder(folder: Path, class_names: tuple[str, ...] | None = None) -> Dataset:
    """Load the data set of a folder of IDX files.

    Args:
        folder: as for `read_folder`.
        class_names: of the classes.

    Raises:
        FbpError: as for `read_folder`.
    """
    train_X, train_Y, test_X, test_Y = read_folder(folder)
    train, test = (Part(X, Y, repr(str(folder))) for X, Y in ((train_X, train_Y), (test_X, test_Y)))
    return assemble(folder.resolve().name or str(folder), train, test, class_names=class_names)


def has_idx(folder: Path) -> bool:
    """Whether a folder holds one of the four files at least."""
    return any(_present(folder))


def read_folder(folder: StrPath) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read the four arrays of a folder as they are on disk, checked against each other.

    Args:
        folder: holds the files under MNIST's names (train-images-idx3-ubyte, train-labels-idx1-ubyte,
            t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte; also with a dot before idx, also gzipped as .gz).

    Returns:
        Training images (m, rows, columns) uint8, training labels (m,), test images, test labels.

    Raises:
        FbpError: the folder or a file is missing or damaged, or the arrays do not fit each other.
    """
    name = repr(os.fspath(folder))
    if not os.path.isdir(folder):
        raise FbpError(f"a data set must be a folder of IDX files, got {name}, which is not a folder; check the path")
    present = _present(folder)
    missing = [
        f"{files[0]} (or {', '.join(files[1:])})" for kept, files in zip(present, _CANDIDATES, strict=True) if not kept
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


def _present(folder: StrPath) -> list[list[str]]:
    return [[file for file in files if os.path.isfile(Path(folder, file))] for files in _CANDIDATES]


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
