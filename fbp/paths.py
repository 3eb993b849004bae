"""Where a layer stands in a network: `blocks[3].q`."""

from types import EllipsisType
from typing import TypeAlias

Step: TypeAlias = str | int | EllipsisType
"""A line's name, the place in a sequence, or `...` for every copy in a loop."""
Path: TypeAlias = tuple[Step, ...]
"""The steps from a network to one of its layers."""


def format_path(path: Path) -> str:
    """Write a path as the expression that finds it.

    Args:
        path: the steps from the network to the layer.

    Example:
        >>> from fbp.paths import format_path
        >>> format_path(("blocks", 3, "q")), format_path(("blocks", ..., "q"))
        ('blocks[3].q', 'blocks[*].q')
    """
    steps = (f".{step}" if isinstance(step, str) else "[*]" if step is ... else f"[{step}]" for step in path)
    return "".join(steps).removeprefix(".")
