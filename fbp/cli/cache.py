"""Compiled programs kept from one call of the command line to the next."""

import os
import sys
from contextlib import suppress
from pathlib import Path

MOST_BYTES = 2**29
"""Of all programs that are kept."""


def cache_folder() -> Path:
    """The folder FBP_CACHE, by default that of fbp in the user's cache."""
    given = os.environ.get("FBP_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fbp"


def keep_programs() -> None:
    """Keep what JAX compiles in the user's cache folder; without one that can be written, compile again each time.

    A folder that JAX was already told of stays.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = cache_folder() / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _prune(folder)
    except OSError:
        return
    # Small programs, too: a command is made of them.
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in options.items():
        if "jax" in sys.modules:
            sys.modules["jax"].config.update(name, value)
        else:
            # Read when JAX is imported, which others do better while data are read.
            os.environ[name.upper()] = str(value)


def _prune(folder: Path) -> None:
    """Remove programs, the oldest first, until the rest is within `MOST_BYTES`."""
    found = []
    for path in folder.iterdir():
        with suppress(OSError):
            # Another call may remove the same ones.
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    left = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if left <= MOST_BYTES:
            return
        with suppress(OSError):
            path.unlink()
        left -= size
