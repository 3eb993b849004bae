"""How far a right gradient may be from the exact one: what rounding allows in each dtype.

The yardstick is `jax.grad` itself: how far it is from float64, and how far it moves when every input moves by some
roundings. A gradient that differs by less is explained by rounding; one that differs by more is wrong.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.verify.measures import LeafDifference
from fbp.verify.opinion import ZERO, Opinion
from fbp.verify.structure import is_floating

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
"""Relative norm error up to which a leaf passes: some tens of epsilons, thousands in float64."""

ALLOWED = 16
"""How many roundings of every input a gradient may be off."""
DRAWS = 4
_MOVE = {"float64": 16, "float32": 16, "float16": 2, "bfloat16": 2}
"""By how many roundings the inputs move. Many, where the dtype has digits to spare: a kink that one rounding may cross
is then crossed in some of the draws. Few in half precision, where 16 of them would be a step of 12 %."""
_RESOLVED = 0.05
"""The part of a gradient that rounding may explain while a right one is still told from a wrong one."""
_LOST = 0.5
_NOTHING = 1e-9
_UNCERTAIN = 1e-3


def moved(tree: Any, seed: int) -> Any:
    """A pytree with every floating entry moved by some roundings of its dtype, up or down.

    Args:
        tree: a pytree of numpy arrays; leaves that are not floating stay as they are.
        seed: of the signs.
    """
    draw = np.random.default_rng(seed)

    def one(leaf: Any) -> Any:
        if not is_floating(leaf):
            return leaf
        step = _MOVE[str(leaf.dtype)] * float(jnp.finfo(leaf.dtype).eps)
        return (leaf * (1 + step * (draw.integers(0, 2, leaf.shape) * 2 - 1))).astype(leaf.dtype)

    return jax.tree.map(one, tree)


def on_host(tree: Any) -> Any:
    """The leaves as numpy arrays, random keys as they are: arithmetic on them then compiles nothing."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(jnp.result_type(x), jax.dtypes.extended) else _host(x), tree)


def _host(x: Any) -> np.ndarray:
    return np.asarray(x) if hasattr(x, "dtype") else np.asarray(x, jnp.result_type(x))


def in_float64(tree: Any) -> Any:
    """Numpy arrays with the floating ones in float64."""
    return jax.tree.map(lambda x: x.astype(np.float64) if is_floating(x) else x, tree)


def norm(x: np.ndarray) -> float:
    """The Euclidean norm in float64, of entries of any size."""
    largest = float(np.max(np.abs(x), initial=0.0))
    return largest * float(np.linalg.norm(x / largest)) if 0 < largest < np.inf else largest


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """||a - b|| in float64; infinite where one of them is not finite."""
    found = norm(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    return found if np.isfinite(found) else float("inf")


@dataclass(frozen=True)
class Allowance:
    """What rounding explains of one leaf.

    Attributes:
        dtype: of the arithmetic.
        explained: the norm of a difference that rounding alone may make.
        autodiff_error: ||g_ad - g_64|| of `jax.grad` in that dtype.
    """

    dtype: str
    explained: float
    autodiff_error: float

    @classmethod
    def measured(cls, dtype: str, expected: np.ndarray, movements: list[np.ndarray], exact: np.ndarray) -> "Allowance":
        """From `jax.grad` in the dtype, the same at moved inputs, and `jax.grad` in float64."""
        off = distance(expected, exact)
        finite = np.isfinite(off)
        per_rounding = max((distance(m, expected) for m in movements), default=0.0) / _MOVE[dtype] if finite else np.inf
        # Autodiff's own error is one draw of the rounding; the other half of ALLOWED is for its spread.
        return cls(dtype, max(ALLOWED * per_rounding, ALLOWED / 2 * off), off)

    def with_jitter(self, jitter: float) -> "Allowance":
        """With the rounding of the gradient function itself: how erratically it follows when its inputs move.

        Where a difference of nearly equal numbers is inside (a normalization of one unit), it is far larger than what
        moved inputs do to the exact gradient.

        Args:
            jitter: ||(g' - g) - (g_ref' - g_ref)|| for moved inputs, the largest one.
        """
        return replace(self, explained=max(self.explained, ALLOWED / 2 * jitter))

    def is_zero(self, exact: np.ndarray, total: float) -> bool:
        """Whether an exact gradient is zero up to rounding: uncertain itself, and nothing beside the whole gradient.

        Args:
            exact: the leaf, in this dtype.
            total: the norm of the whole gradient.
        """
        size = norm(exact)
        return size <= _NOTHING * total and self.explained >= _UNCERTAIN * size

    def judge(self, found: LeafDifference, against_autodiff: float, zero_beside: float | None = None) -> Opinion:
        """Whether rounding explains the difference of a leaf from float64.

        Args:
            found: the difference from `jax.grad` in float64.
            against_autodiff: the relative error against `jax.grad` in the same dtype.
            zero_beside: where the exact gradient is zero up to rounding, the norm of the whole gradient; else None.
        """
        name, size, off = "autodiff", found.norm_ref, found.error
        if not found.finite_ref:
            return Opinion(name, "INCONCLUSIVE", "the reference is NaN or infinite: smaller inputs or parameters")
        if not found.finite:
            if np.isfinite(self.autodiff_error):
                return Opinion(name, "FAIL", "NaN or infinity where autodiff is finite")
            return Opinion(name, "INCONCLUSIVE", f"the gradient leaves the range of {self.dtype}, autodiff's too")
        # That both are lost in rounding, or zero by underflow, is no agreement.
        agrees = against_autodiff <= TOLERANCE[self.dtype] and self.autodiff_error <= _LOST * size
        if agrees or found.relative_error <= TOLERANCE[self.dtype]:
            return Opinion(name, "PASS")
        nothing = 0.0 if zero_beside is None else 4 * ALLOWED * float(jnp.finfo(self.dtype).eps) * zero_beside
        if off > max(self.explained, nothing):
            return Opinion(name, "FAIL")
        if zero_beside is not None:
            return Opinion(name, "PASS", ZERO)
        if self.explained <= _RESOLVED * size:
            return Opinion(name, "PASS", f"within rounding, which moves this leaf by {self.explained / size:.1e}")
        if not np.isfinite(self.explained):
            return Opinion(name, "INCONCLUSIVE", f"the gradient leaves the range of {self.dtype}, autodiff's too")
        part = f"{self.explained / size:.1e} of it"
        return Opinion(name, "INCONCLUSIVE", f"rounding in {self.dtype} alone may move this leaf by {part}")
