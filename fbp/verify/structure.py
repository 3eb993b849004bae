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


def leaves_like(gradient: Any, wanted: Any) -> dict[str, Any]:
    """The leaves of a gradient by the paths of the tree that it is the gradient of.

    Containers of other libraries are looked through: the gradient by a module may be a `flax.nnx.State`, that by a
    dictionary a `FrozenDict`. Their leaves are matched by the names on the way, whether these are keys or attributes.

    Args:
        gradient: what a gradient function returned.
        wanted: the differentiated arguments.
    """
    given = by_path(gradient)
    if given.keys() == by_path(wanted).keys() or not (has_foreign_node(gradient) or has_foreign_node(wanted)):
        return given
    names, others = _paths_by_name(wanted), _paths_by_name(gradient)
    if len(names) < len(by_path(wanted)) or len(others) < len(given):
        return given
    return {names.get(name, path): given[path] for name, path in others.items()}


def _paths_by_name(tree: Any) -> dict[tuple[str, ...], str]:
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is None)]
    # The last step into a variable of a framework is its value.
    names = (tuple(jax.tree_util.keystr((step,), simple=True) for step in path) for path in paths)
    return {
        tuple(n for n in each if n != "value"): jax.tree_util.keystr(p) for each, p in zip(names, paths, strict=True)
    }


def has_foreign_node(tree: Any) -> bool:
    """Whether a container in a tree is none of Python's own."""

    def look(treedef: Any) -> bool:
        node = treedef.node_data()
        if node is not None and not issubclass(node[0], (dict, list, tuple, type(None))):
            return True
        return any(look(child) for child in treedef.children())

    return look(jax.tree.structure(tree))


def is_floating(leaf: Any) -> bool:
    """Whether a leaf has a gradient of its own dtype."""
    return jnp.issubdtype(_dtype(leaf), jnp.floating)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf has a gradient: it is floating or complex."""
    return jnp.issubdtype(_dtype(leaf), jnp.inexact)


def check_structure(gradient: Any, wanted: Any) -> Structure:
    """A gradient beside the tree that it is the gradient of.

    Args:
        gradient: what a gradient function returned.
        wanted: the differentiated arguments.
    """
    given, expected = leaves_like(gradient, wanted), by_path(wanted)
    is_pair = isinstance(gradient, tuple) and len(gradient) == 2
    if is_pair and _have_same_structure(gradient[1], wanted) and not _have_same_structure(gradient, wanted):
        return Structure({}, dict.fromkeys(expected, "(value, gradient) was returned: pass has_value=True"), {})
    leaves, problems, notes = {}, {}, {}
    for path, like in expected.items():
        if like is None:
            continue
        if path not in given and not is_inexact(like):
            continue
        if path not in given:
            problems[path] = "missing in the gradient"
            continue
        leaf = given[path]
        if problem := _check_inexact(leaf, like) if is_inexact(like) else _check_integer(leaf, _dtype(like)):
            problems[path] = problem
        if _has_values(leaf, like):
            leaves[path] = leaf
            if getattr(leaf, "weak_type", False) and not getattr(like, "weak_type", False):
                notes[path] = _WEAK
    for path in given:
        if path not in expected and given[path] is not None:
            problems[path] = "not expected: the differentiated arguments have no such leaf"
    # Leaves that have no gradient may be left out.
    if not problems and expected.keys() <= given.keys() and not _have_same_structure(gradient, wanted):
        differ = f"containers differ: {jax.tree.structure(gradient)} for {jax.tree.structure(wanted)}"
        if has_foreign_node(gradient) or has_foreign_node(wanted):
            kinds = (type(gradient).__name__, type(wanted).__name__)
            notes = {
                path: f"a {kinds[0]} for a {kinds[1]}" for path in list(leaves)[:1] if kinds[0] != kinds[1]
            } | notes
        else:
            problems["<tree>"] = differ
    return Structure(leaves, problems, notes)


def _has_values(leaf: Any, like: Any) -> bool:
    """Whether a leaf can be compared with a gradient of `like`."""
    if leaf is None or not (is_inexact(like) and is_inexact(leaf)):
        return False
    return np.shape(leaf) == np.shape(like) and jnp.iscomplexobj(leaf) == jnp.iscomplexobj(like)


def _have_same_structure(gradient: Any, wanted: Any) -> bool:
    # None where an integer leaf has no gradient is no difference.
    blank = lambda tree: jax.tree.structure(jax.tree.map(lambda _: 0, tree, is_leaf=lambda x: x is None))
    return blank(gradient) == blank(wanted)


def _check_integer(leaf: Any, dtype: Any) -> str:
    if leaf is None or _dtype(leaf) == jax.dtypes.float0:
        return ""
    return f"the gradient of a leaf of {dtype} must be None or of dtype float0, got {_describe(leaf)}"


def _check_inexact(leaf: Any, like: Any) -> str:
    wanted = f"{_dtype(like)} {np.shape(like)}"
    if leaf is None:
        return f"None where an array {wanted} is expected"
    if _dtype(leaf) == jax.dtypes.float0:
        return f"float0, the gradient of an integer, where {wanted} is expected"
    if not is_inexact(leaf):
        return f"{_describe(leaf)} where {wanted} is expected"
    if np.shape(leaf) != np.shape(like):
        transposed = np.shape(leaf) == np.shape(like)[::-1]
        return f"shape {np.shape(leaf)} for {np.shape(like)}" + (": transposed" if transposed else "")
    return "" if _dtype(leaf) == _dtype(like) else f"dtype {_dtype(leaf)} for {_dtype(like)}"


def _dtype(leaf: Any) -> Any:
    if hasattr(leaf, "dtype"):
        return leaf.dtype
    try:
        return np.dtype(object) if leaf is None else jnp.result_type(leaf)
    except TypeError:
        # What is no number has no gradient.
        return np.dtype(object)


def _describe(leaf: Any) -> str:
    is_array = hasattr(leaf, "dtype") or isinstance(leaf, (bool, int, float, complex))
    return f"{_dtype(leaf)} {np.shape(leaf)}" if is_array else repr(leaf)
