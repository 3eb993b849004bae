"""Standard output and error: a reader may leave, a full disk is one line, and JSON stands alone."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from fbp.errors import FbpError

_OUT, _ERROR = 1, 2
_reserved: list[TextIO] = []
"""Where `print_result` prints, while all else goes to standard error."""


class _Outlet(io.FileIO):
    """A file descriptor whose reader may leave, as `head` does: what nobody reads is dropped."""

    def __init__(self, descriptor: int):
        super().__init__(descriptor, "wb", closefd=False)
        self._is_open = True

    def write(self, data: Any, /) -> int:
        size = memoryview(data).nbytes
        if not self._is_open:
            return size
        try:
            return super().write(data)
        except OSError as error:
            self._is_open = False
            # On standard error nothing can be said about standard error.
            if isinstance(error, BrokenPipeError) or self.fileno() == _ERROR:
                return size
            raise FbpError(
                f"standard output must take what is printed, got {error.strerror}; print to another file or free space"
            ) from error


@contextmanager
def guard_streams() -> Iterator[None]:
    """Print through outlets that a reader may leave; streams that others have put in their place stay."""
    before = sys.stdout, sys.stderr
    for name, descriptor in (("stdout", _OUT), ("stderr", _ERROR)):
        stream = getattr(sys, name)
        if stream is None:
            # The descriptor is closed; the null device takes its number before any other file does.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - stays open
        elif stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _open_text(descriptor, stream))
    ours = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in ours:
            # What failed was said when it failed.
            with suppress(FbpError):
                stream.flush()


@contextmanager
def reserve_stdout(reserved: bool) -> Iterator[None]:
    """Keep standard output for `print_result`; all else that the body prints goes to standard error, from C too.

    Args:
        reserved: False changes nothing.
    """
    if not reserved:
        yield
        return
    out = sys.stdout
    streams = [stream for stream in (out, sys.__stdout__) if stream is not None]
    kept = os.dup(_OUT)
    is_ours = isinstance(getattr(getattr(out, "buffer", None), "raw", None), _Outlet)
    _reserved.append(_open_text(kept, out) if is_ours else out)
    _flush(*streams)
    os.dup2(_ERROR, _OUT)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        # What is still in a buffer was printed by somebody else.
        _flush(*streams)
        os.dup2(kept, _OUT)
        sys.stdout = out
        _flush(_reserved.pop())
        os.close(kept)


def print_result(text: str) -> None:
    """Print on standard output, also where it is reserved.

    Args:
        text: JSON, as a rule.
    """
    print(text, file=_reserved[-1] if _reserved else None, flush=True)


def _open_text(descriptor: int, like: TextIO) -> TextIO:
    # A terminal of few characters shows the others escaped.
    outlet = io.BufferedWriter(_Outlet(descriptor))
    return io.TextIOWrapper(outlet, like.encoding, "backslashreplace", line_buffering=bool(like.line_buffering))


def _flush(*streams: TextIO) -> None:
    import ctypes

    for stream in streams:
        stream.flush()
    # What C code has printed waits in a buffer of its own.
    ctypes.CDLL(None).fflush(None)
