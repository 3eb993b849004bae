"""Files that are written whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file that takes the place of another once the body has written it; on an error the other one stays.

    The content reaches the disk before the name does, so that a power cut leaves the old file or the new one.

    Args:
        path: the file to be replaced, or made.

    Yields:
        The path to write to, in the same folder.

    Raises:
        OSError: the folder or the disk does not take it; the old file is untouched.

    Example:
        >>> import tempfile
        >>> from fbp.files import replacing
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder, "a.txt")) as new:
        ...         _ = new.write_text("whole")
        ...     print(Path(folder, "a.txt").read_text())
        whole
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        with suppress(OSError):
            # Not every file system can flush a folder.
            _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what `replacing` could not, because its program was killed.

    Args:
        folder: where nobody else writes at the moment; its subfolders, too.
    """
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
