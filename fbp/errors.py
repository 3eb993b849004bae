"""Errors that the user can fix, in one form: what must hold, what was received, what to do."""

import difflib
from collections.abc import Iterable
from enum import IntEnum
from numbers import Integral
from typing import ClassVar

from fbp.paths import Path, format_path

SEEDS = 2**32
"""The number of seeds: those that NumPy and JAX both take."""


class Status(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    MISUSED = 2
    INCONCLUSIVE = 3
    DIVERGED = 4
    BROKEN = 70
    INTERRUPTED = 130


class FbpError(ValueError):
    """A mistake that the caller can fix; the command line prints it as one line and exits with its status.

    The message reads "<subject> must <rule>, got <received>; <remedy>", for example
    "batch_size must be a positive integer, got 2.5; use 32".

    Attributes:
        path: from the network to the layer where it was found; the message begins with it.
    """

    exit_status: ClassVar[Status] = Status.MISUSED
    path: Path = ()

    def __str__(self) -> str:
        where = f"{format_path(self.path)}: " if self.path else ""
        return f"{where}{super().__str__()}"


def unknown_name(kind: str, received: str, known: Iterable[str]) -> FbpError:
    """Make the error for a name that is not in a table, with the closest known name.

    Args:
        kind: what is named, e.g. "activation".
        received: the name that was given.
        known: the names that exist.

    Returns:
        The error, for the caller to raise.
    """
    known = sorted(known)
    near = difflib.get_close_matches(str(received), known, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]!r}? " if near else ""
    return FbpError(f"unknown {kind} {received!r}: {remedy}known are {', '.join(known)}")


def is_count(received: object) -> bool:
    """Whether the value is an integer of at least 1; booleans are not integers here."""
    return isinstance(received, Integral) and not isinstance(received, bool) and int(received) >= 1


def check_count(name: str, received: object) -> None:
    """Raise an error unless the value is an integer of at least 1.

    Args:
        name: what is counted, for the message.
        received: the value that was given.

    Raises:
        FbpError: the value is not a positive integer.
    """
    if not is_count(received):
        raise FbpError(f"{name} must be a positive integer, got {received!r}; use a whole number of at least 1")


def check_seed(received: object) -> None:
    """Raise an error unless the value is a seed that NumPy and JAX take.

    Args:
        received: the value that was given.

    Raises:
        FbpError: the value is not an integer in 0..2**32-1.
    """
    if not isinstance(received, Integral) or isinstance(received, bool) or not 0 <= int(received) < SEEDS:
        raise FbpError(f"seed must be an integer in 0..{SEEDS - 1}, got {received!r}; use 0")


def describe_exception(error: BaseException) -> str:
    """The type of an exception and the first line of its message."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])
