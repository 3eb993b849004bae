"""Whether a computation fits the machine's memory, before it is begun."""

import os
from pathlib import Path

from fbp.errors import FbpError

_CONTAINERS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Where versions 2 and 1 of Linux's control groups say limit, use, and what of it are files that can be read again."""


def check_memory(what: str, received: str, needed: int, remedy: str) -> None:
    """Refuse a computation that takes more memory than is free.

    Args:
        what: what needs the memory, for the message.
        received: what was asked for.
        needed: how many bytes that takes.
        remedy: what to do instead.

    Raises:
        FbpError: it does not fit.
    """
    free = available_bytes()
    if free is not None and needed > free:
        raise FbpError(
            f"{what} must fit the {_format_gib(free)} that are free, got {received}, which takes "
            f"{_format_gib(needed)}; {remedy}"
        )


def available_bytes() -> int | None:
    """Bytes of memory that are free or can be freed, in a container those of its limit; None where nobody says."""
    known = [free for free in (_free_of_machine(), *map(_free_of_container, _CONTAINERS)) if free is not None]
    return min(known, default=None)


def _free_of_machine() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = dict(line.split(":") for line in file)
        return int(found["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _free_of_container(places: tuple[str, str, str, str]) -> int | None:
    try:
        limit, used, statistics = (Path("/sys/fs/cgroup", name).read_text(encoding="ascii") for name in places[:3])
        cached = dict(line.split() for line in statistics.splitlines())[places[3]]
        return max(int(limit) - int(used) + int(cached), 0)
    except (OSError, KeyError, ValueError):
        # There is none, or its limit is "max".
        return None


def _format_gib(size: int) -> str:
    # Sizes from absurd options are too large for a float.
    return f"{min(size, 2**99) / 2**30:.3g} GiB"
