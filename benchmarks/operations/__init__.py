"""Operations that are not ours, by library: what `verify_operations.py` judges."""

import importlib
from importlib.util import find_spec

from operations.operation import Operation

ROOMS = ("jax", "scipy", "optax", "flax", "equinox", "kernels")
NEEDED = {"flax": "flax", "equinox": "equinox"}
"""What a room needs besides fbp's own requirements."""


def load_operations() -> dict[str, tuple[Operation, ...]]:
    """Operations by library, of the libraries that are installed."""
    rooms = [room for room in ROOMS if room not in NEEDED or find_spec(NEEDED[room])]
    tables = [importlib.import_module(f"operations.{room}").TABLE for room in rooms]
    return {library: operations for table in tables for library, operations in table.items()}
