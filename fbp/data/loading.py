"""One way to all data: a name, a file or a folder."""

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from fbp.data.csv_file import load_csv
from fbp.data.datasets import Dataset, scale
from fbp.data.downloads import REMOTES, load_remote
from fbp.data.files import StrPath, unreadable
from fbp.data.idx_folder import BUNDLED, has_idx, load_idx_folder
from fbp.data.images import has_images, load_image_folder
from fbp.data.modular import is_modular, load_modular
from fbp.data.numpy_files import has_npy, load_npy_folder, load_npz
from fbp.data.text import load_text
from fbp.errors import FbpError, unknown_name

NAMES: dict[str, Callable[[], Dataset]] = {
    "digits": lambda: load_idx_folder(BUNDLED),
    **{name: partial(load_remote, name) for name in REMOTES},
    "modular": lambda: load_modular("modular"),
}
FILES: dict[str, Callable[[Path], Dataset]] = {
    ".npz": load_npz,
    ".csv": load_csv,
    ".tsv": load_csv,
    ".txt": load_text,
}
"""How a file is read, by the end of its name."""
FOLDERS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Dataset]], ...] = (
    (has_idx, load_idx_folder),
    (has_npy, load_npy_folder),
    (has_images, load_image_folder),
)
"""How a folder is recognized, and read; the first that fits."""


def load(source: StrPath | None = None, *, scaled: bool = True) -> Dataset:
    """Load a data set.

    Names are "digits" (bundled; the default), "mnist", "fashion-mnist" and "kmnist" (downloaded once), and "modular" or
    "modular(97)" (addition mod 97, as tokens). Files are .npz, .csv and .txt; folders hold IDX files, one folder of
    images for each class, or .npy files, which stay on disk. docs/data.md describes them.

    Args:
        source: a name, a file or a folder. A name comes before a file of that name, which is ./NAME.
        scaled: make pixels, bytes in memory, numbers in [0, 1]; without, they stay bytes, a quarter of the memory, as
            `fbp.fit` and `fbp.training.evaluate` take them, too.

    Returns:
        The data set, with everything else as it is. Without a test part a tenth of the
        examples is held out as one, drawn with a fixed seed.

    Raises:
        FbpError: there is no such source, it is damaged, or its arrays do not fit each other.

    Example:
        >>> digits = fbp.data.load()
        >>> digits.train_X.shape, digits.test_X.shape, digits.classes
        ((5000, 784), (1000, 784), 10)
    """
    source = "digits" if source is None else source
    if isinstance(source, str) and source in NAMES:
        data = NAMES[source]()
    elif isinstance(source, str) and is_modular(source):
        data = load_modular(source)
    else:
        try:
            data = _load_path(Path(source))
        except OSError as error:
            raise unreadable("data", repr(os.fspath(source)), error) from error
    own = {} if not scaled else {name: _scale(getattr(data, name)) for name in ("train_X", "test_X")}
    return dataclasses.replace(data, source=os.fspath(source), **own)


def _scale(X: np.ndarray) -> np.ndarray:
    return X if isinstance(X, np.memmap) else scale(X)


def _load_path(path: Path) -> Dataset:
    if os.path.isdir(path):
        for fits, read in FOLDERS:
            if fits(path):
                return read(path)
        raise FbpError(
            "a folder of data must hold four IDX files, four .npy files, or images in one folder for each class, "
            f"got {str(path)!r} with none of them; check the path"
        )
    if not os.path.exists(path):
        if path.name == str(path) and not path.suffix:
            raise unknown_name("data set", str(path), NAMES)
        raise FbpError(f"data must be a name, a file or a folder, got nothing at {str(path)!r}; check the path")
    kind = path.suffix.lower()
    if kind not in FILES:
        raise FbpError(
            f"a file of data must be one of {', '.join(FILES)}, got {str(path)!r}; convert it, or name its folder"
        )
    return FILES[kind](path)
