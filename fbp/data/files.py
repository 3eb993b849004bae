"""What readers of files share, the form of their errors above all; and files that are written whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fbp.errors import FbpError

StrPath = str | os.PathLike[str]

DEFLATE_RATIO = 1032
"""Deflate spends at least 2 bits on a match, and a match is at most 258 bytes long."""
CHUNK = 1 << 20


def reject(kind: str, rule: str, received: str, remedy: str = "fetch it again") -> FbpError:
    """Make the error for a file that cannot be used.

    Args:
        kind: what was read, with its article, e.g. "an IDX file".
        rule: what it must do.
        received: what was found, with the name of the file.
        remedy: what to do instead.

    Returns:
        The error, for the caller to raise.
    """
    return FbpError(f"{kind} must {rule}, got {received}; {remedy}")


def check_file(kind: str, path: StrPath) -> str:
    """Check that a path is a regular file, and quote it for messages.

    Args:
        kind: what it should hold, with its article.
        path: of the file.

    Returns:
        The path in quotation marks.

    Raises:
        FbpError: there is nothing, or something else.
    """
    name = repr(os.fspath(path))
    if os.path.isdir(path):
        raise reject(kind, "be a file", f"the directory {name}", "name a file inside it")
    if not os.path.exists(path):
        raise reject(kind, "exist", f"nothing at {name}", "check the path")
    if not os.path.isfile(path):
        # A pipe or a device has no size, and opening one may wait forever.
        raise reject(kind, "be a regular file", name, "copy its content to a file")
    return name


def unreadable(kind: str, name: str, error: OSError) -> FbpError:
    """Make the error for a file that the system does not let us read.

    Args:
        kind: what it should hold, with its article.
        name: the path in quotation marks.
        error: what the system said.
    """
    return reject(kind, "be readable", f"{name} ({error.strerror or error})", "check its permissions")


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
        >>> from fbp.data.files import replacing
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


def replace_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all.

    Args:
        path: the file to be replaced, or made.
        text: what it is to hold.

    Raises:
        OSError: as `replacing`.
    """
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8")


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
