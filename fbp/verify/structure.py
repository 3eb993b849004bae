"""Structure before values: what is missing, what is not expected, and what has the wrong shape or dtype."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_WEAK = "weakly typed: it takes the dtype of what it is combined with; write jnp.asarray(x, dtype)"


@dataclass(frozen=True)
class Structure:
    """A gradient's leaves beside those of what it is the gradient of.

    Attributes:
        leaves: by path, the leaves whose values can be judged: a floating array of the right shape.
        problems: by path, what is wrong; a leaf may be in both (a wrong dtype has values still).
        notes: by path, what is unusual but not wrong.
    """

    leaves: dict[str, Any]
    problems: dict[str, str]
    notes: dict[str, str]


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by path, as `jax.tree_util.keystr` writes it; None counts as a leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is None)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def is_floating(leaf: Any) -> bool:
    """Whether a leaf has a gradient of its own dtype."""
    return jnp.issubdtype(_dtype(leaf), jnp.floating)


def check_structure(gradient: Any, wanted: Any) -> Structure:
    """A gradient beside the tree that it is the gradient of.

    Args:
        gradient: what a gradient function returned.
        wanted: the differentiated arguments.
    """
    given, expected = by_path(gradient), by_path(wanted)
    is_pair = isinstance(gradient, tuple) and len(gradient) == 2
    if is_pair and _have_same_structure(gradient[1], wanted) and not _have_same_structure(gradient, wanted):
        return Structure({}, dict.fromkeys(expected, "(value, gradient) was returned: pass has_value=True"), {})
    leaves, problems, notes = {}, {}, {}
    for path, like in expected.items():
        if like is None:
            continue
        if path not in given:
            problems[path] = "missing in the gradient"
            continue
        leaf = given[path]
        if problem := _check_floating(leaf, like) if is_floating(like) else _check_integer(leaf, _dtype(like)):
            problems[path] = problem
        if is_floating(like) and leaf is not None and is_floating(leaf) and np.shape(leaf) == np.shape(like):
            leaves[path] = leaf
            if getattr(leaf, "weak_type", False) and not getattr(like, "weak_type", False):
                notes[path] = _WEAK
    for path in given:
        if path not in expected and given[path] is not None:
            problems[path] = "not expected: the differentiated arguments have no such leaf"
    if not problems and not _have_same_structure(gradient, wanted):
        problems["<tree>"] = f"containers differ: {jax.tree.structure(gradient)} for {jax.tree.structure(wanted)}"
    return Structure(leaves, problems, notes)


def _have_same_structure(gradient: Any, wanted: Any) -> bool:
    # None where an integer leaf has no gradient is no difference.
    blank = lambda tree: jax.tree.structure(jax.tree.map(lambda _: 0, tree, is_leaf=lambda x: x is None))
    return blank(gradient) == blank(wanted)


def _check_integer(leaf: Any, dtype: Any) -> str:
    if leaf is None or _dtype(leaf) == jax.dtypes.float0:
        return ""
    return f"the gradient of a leaf of {dtype} must be None or of dtype float0, got {_describe(leaf)}"


def _check_floating(leaf: Any, like: Any) -> str:
    wanted = f"{_dtype(like)} {np.shape(like)}"
    if leaf is None:
        return f"None where an array {wanted} is expected"
    if _dtype(leaf) == jax.dtypes.float0:
        return f"float0, the gradient of an integer, where {wanted} is expected"
    if not is_floating(leaf):
        return f"{_describe(leaf)} where {wanted} is expected"
    if np.shape(leaf) != np.shape(like):
        transposed = np.shape(leaf) == np.shape(like)[::-1]
        return f"shape {np.shape(leaf)} for {np.shape(like)}" + (": transposed" if transposed else "")
    return "" if _dtype(leaf) == _dtype(like) else f"dtype {_dtype(leaf)} for {_dtype(like)}"


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)


def _describe(leaf: Any) -> str:
    return f"{_dtype(leaf)} {np.shape(leaf)}" if hasattr(leaf, "dtype") or np.isscalar(leaf) else repr(leaf)
