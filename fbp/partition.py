"""A pytree as two: the leaves that are selected and the rest, and both put together again (as in Equinox)."""

from collections.abc import Callable
from typing import Any

import jax


def partition(tree: Any, is_selected: Callable[[Any], bool]) -> tuple[Any, Any]:
    """The selected leaves and the rest, each in the structure of the tree with None where the other has a leaf.

    Args:
        tree: a pytree.
        is_selected: called with each leaf.

    Returns:
        (selected, rest); None is no leaf, so that both are pytrees of their own leaves alone.

    Example:
        >>> from fbp.partition import combine, partition
        >>> partition({"W": 1.5, "depth": 3}, lambda leaf: isinstance(leaf, float))
        ({'W': 1.5, 'depth': None}, {'W': None, 'depth': 3})
        >>> combine({"W": 1.5, "depth": None}, {"W": None, "depth": 3})
        {'W': 1.5, 'depth': 3}
    """
    leaves, treedef = jax.tree.flatten(tree)
    chosen = [is_selected(leaf) for leaf in leaves]
    parts = (
        [leaf if yes == part else None for leaf, yes in zip(leaves, chosen, strict=True)] for part in (True, False)
    )
    selected, rest = map(treedef.unflatten, parts)
    return selected, rest


def combine(selected: Any, rest: Any) -> Any:
    """The inverse of `partition`.

    Args:
        selected: a pytree with None where `rest` has a leaf.
        rest: the other way round.
    """
    return jax.tree.map(lambda a, b: b if a is None else a, selected, rest, is_leaf=lambda leaf: leaf is None)
