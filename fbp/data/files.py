"""What every reader of files shares: the form of its errors, and that a file can be read without waiting for it."""

import os

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
