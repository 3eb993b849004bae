"""Arguments that are no arrays: Python integers, strings and the like stay what they are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True, eq=False)
class _Bound:
    """A function of arrays alone: what is no array is put back before the call."""

    function: Callable[..., Any]
    constants: tuple[Any, ...]

    def __call__(self, *args: Any) -> Any:
        whole = jax.tree.map(
            lambda x, constant: x if constant is None else constant,
            args,
            self.constants,
            is_leaf=lambda x: x is None,
        )
        return self.function(*whole)


def without_constants(
    args: tuple[Any, ...], *functions: Callable[..., Any]
) -> tuple[tuple[Any, ...], tuple[Callable[..., Any], ...]]:
    """The arguments with None for what is no array, and the functions that know what was there.

    Args:
        args: pytrees of arrays, Python numbers and constants.
        functions: called with the arguments.
    """
    leaves, treedef = jax.tree.flatten(args)
    kept = [hasattr(x, "dtype") or isinstance(x, float) for x in leaves]
    arrays = treedef.unflatten([x if keep else None for x, keep in zip(leaves, kept, strict=True)])
    constants = treedef.unflatten([None if keep else x for x, keep in zip(leaves, kept, strict=True)])
    if not jax.tree.leaves(constants):
        return args, functions
    return arrays, tuple(_Bound(function, constants) for function in functions)
