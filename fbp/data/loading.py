"""One way to all data: a name, a file or a folder."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from fbp.data.datasets import Dataset
from fbp.data.files import StrPath
from fbp.data.idx_folder import BUNDLED, has_idx, load_idx_folder
from fbp.errors import FbpError, unknown_name

NAMES: dict[str, Callable[[], Dataset]] = {
    "digits": lambda: load_idx_folder(BUNDLED),
}
FILES: dict[str, Callable[[Path], Dataset]] = {}
"""How a file is read, by the end of its name."""
FOLDERS: tuple[tuple[Callable[[Path], bool], Callable[[Path], Dataset]], ...] = ((has_idx, load_idx_folder),)
"""How a folder is recognized, and read; the first that fits."""


def load(source: StrPath | None = None) -> Dataset:
    """Load a data set.

    Args:
        source: a name, a file or a folder; None is "digits". A name comes before a file of that name, which is
            ./NAME.

    Returns:
        The data set, with pixels scaled to [0, 1] and everything else as it is.

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
    else:
        data = _load_path(Path(source))
    return dataclasses.replace(data, source=os.fspath(source))


def _load_path(path: Path) -> Dataset:
    if os.path.isdir(path):
        for fits, read in FOLDERS:
            if fits(path):
                return read(path)
        raise FbpError(f"a folder of data must hold four IDX files, got {str(path)!r} without them; check the path")
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
