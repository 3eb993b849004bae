"""How far one gradient tree is from another: structure first, then each leaf."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from fbp.errors import FbpError


@dataclass(frozen=True)
class LeafDifference:
    """One leaf of a gradient against the same leaf of a reference, in float64 arithmetic.

    Attributes:
        path: the leaf's path in the tree, as `jax.tree_util.keystr` writes it.
        error: ||g - g_ref||, the Euclidean norm over all entries.
        norm: ||g||.
        norm_ref: ||g_ref||.
        cosine: <g, g_ref> / (||g|| ||g_ref||); NaN where one of them is zero.
        worst: the index of the largest difference.
        finite: whether every entry of g is finite.
        finite_ref: whether every entry of g_ref is finite.
    """

    path: str
    error: float
    norm: float
    norm_ref: float
    cosine: float
    worst: tuple[int, ...]
    finite: bool
    finite_ref: bool

    @property
    def relative_error(self) -> float:
        """||g - g_ref|| / ||g_ref||; 0 where both are zero."""
        return _ratio(self.error, self.norm_ref) if self.error else 0.0

    @property
    def norm_ratio(self) -> float:
        """||g|| / ||g_ref||; 1 where both are zero."""
        return _ratio(self.norm, self.norm_ref) if self.norm or self.norm_ref else 1.0


def differences(gradient: Any, reference: Any) -> tuple[LeafDifference, ...]:
    """Each leaf of a gradient against a reference of the same structure.

    Args:
        gradient: a pytree of arrays.
        reference: a pytree of the same structure and shapes; the dtypes may differ.

    Raises:
        FbpError: structure or shapes differ; the message names the first leaf that does.
    """
    found, wanted = (jax.tree_util.tree_leaves_with_path(tree) for tree in (gradient, reference))
    found_paths, wanted_paths = ([jax.tree_util.keystr(path) for path, _ in leaves] for leaves in (found, wanted))
    for path in sorted(set(found_paths) ^ set(wanted_paths)):
        state = "missing in" if path in wanted_paths else "not expected in"
        raise FbpError(f"a gradient has the structure of the parameters; leaf {path} is {state} the gradient")
    if jax.tree.structure(gradient) != jax.tree.structure(reference):
        raise FbpError(
            "a gradient has the structure of the parameters; "
            f"received {jax.tree.structure(gradient)} for {jax.tree.structure(reference)}"
        )
    rows = []
    for path, (_, g), (_, g_ref) in zip(found_paths, found, wanted, strict=True):
        if jnp.shape(g) != jnp.shape(g_ref):
            raise FbpError(
                f"a gradient has the shapes of the parameters; leaf {path} is {jnp.shape(g)} for {jnp.shape(g_ref)}"
            )
        rows.append(difference(path, g, g_ref))
    return tuple(rows)


def difference(path: str, gradient: ArrayLike, reference: ArrayLike) -> LeafDifference:
    """One array against a reference of its shape.

    Args:
        path: what the array is called.
        gradient: an array of any floating dtype.
        reference: an array of the same shape.
    """
    g, g_ref = np.asarray(gradient, np.float64), np.asarray(reference, np.float64)
    finite, finite_ref = bool(np.isfinite(g).all()), bool(np.isfinite(g_ref).all())
    # Divided by the largest entry first: gradients of 1e-200 are compared as well as gradients of 1.
    scale = max(np.max(np.abs(g), initial=0.0), np.max(np.abs(g_ref), initial=0.0)) if finite and finite_ref else 1.0
    scale = scale or 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(g / scale - g_ref / scale)
        norm, norm_ref = np.linalg.norm(g / scale), np.linalg.norm(g_ref / scale)
        inner = float(np.vdot(g / scale, g_ref / scale))
        cosine = _ratio(inner, float(norm * norm_ref)) if norm and norm_ref else float("nan")
        worst = tuple(int(i) for i in np.unravel_index(np.argmax(gap), gap.shape)) if gap.size else ()
        error = float(np.linalg.norm(gap) * scale)
        return LeafDifference(
            path, error, float(norm * scale), float(norm_ref * scale), cosine, worst, finite, finite_ref
        )


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("inf")
