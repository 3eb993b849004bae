"""What is said to a user who can mend the matter: the invariant, what was received, the remedy."""

import difflib
from collections.abc import Iterable
from numbers import Integral


class FbpError(ValueError):
    """A mistake that the caller can mend; the command line prints it as one line and exits with 2."""


def unknown_name(kind: str, received: str, known: Iterable[str]) -> FbpError:
    """The error for a name that is in no table, with the nearest right one.

    Args:
        kind: what is named, e.g. "activation".
        received: the name that was given.
        known: the names that exist.

    Returns:
        The error, to be raised by the caller.
    """
    known = sorted(known)
    near = difflib.get_close_matches(str(received), known, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]!r}? " if near else ""
    return FbpError(f"unknown {kind} {received!r}: {remedy}known are {', '.join(known)}")


def is_count(received: object) -> bool:
    """Whether it is an integer of at least 1, and no boolean."""
    return isinstance(received, Integral) and not isinstance(received, bool) and int(received) >= 1


def check_count(name: str, received: object) -> None:
    """Refuse what is not an integer of at least 1.

    Args:
        name: what is counted.
        received: what was given.

    Raises:
        FbpError: it is not such an integer.
    """
    if not is_count(received):
        raise FbpError(f"{name} is an integer of at least 1; received {received!r}; give a positive count")


def first_line(error: Exception) -> str:
    """What an exception says, in one line; its type's name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def raised(error: Exception) -> str:
    """An exception's type and what it says, in one line."""
    kind = type(error).__name__
    return f"{kind}: {first_line(error)}" if str(error).strip() else kind
