"""How far two gradients are from each other, and how far rounding may move a right one from the exact one.

The yardstick is `jax.grad` itself: how far it is from float64, and how far it moves when every input moves by some
roundings. Rounding explains a difference that is no larger.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from fbp.errors import FbpError
from fbp.verify.structure import by_path, is_inexact

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]
ZERO = "zero up to rounding"
"""What is said of a gradient that is nothing but rounding."""
EXCESS = "excess error"
"""How the reason begins where a gradient is off by more than rounding explains, and not by enough to be wrong."""

ALLOWED = 16
"""How many roundings of every input a gradient may be off."""
BOUND = 32
"""How many times the difference that rounding explains may be exceeded before a gradient in one dtype is called wrong:
up to there it may be a less careful formula."""
DRAWS = 4
"""At how many perturbed inputs the effect of rounding is measured."""
_LARGEST_EXCESS = 0.25
"""The part of a gradient beyond which no excess error is excused."""
_FLOAT64 = 1e-12
"""The relative norm error that is no fault in float64: thousands of roundings, and less than any mistake makes."""
_RESOLVED = 0.05
"""The part of a gradient that rounding may explain while a right one is still told from a wrong one."""
_LOST = 0.5
"""The part of a gradient from which on autodiff's own rounding error says that it is lost."""
_CHUNK = 1 << 18
"""How many entries of an array are in float64 at a time."""
_NEGLIGIBLE = 1e-9
_UNCERTAIN = 1e-3
_SHRINKS = 1e3
"""How much smaller a gradient that is nothing but rounding is in float64, at least."""


def epsilon(dtype: Any) -> float:
    """The distance from 1 to the next number of a dtype; of a complex one that of its parts."""
    return float(jnp.finfo(dtype).eps)


def is_double(dtype: Any) -> bool:
    """Whether a dtype has the digits of float64."""
    return epsilon(dtype) <= epsilon(np.float64)


def widest(dtype: Any) -> Any:
    """float64, or complex128 for a complex dtype."""
    return np.dtype(np.complex128 if jnp.issubdtype(dtype, jnp.complexfloating) else np.float64)


def floor_of(dtype: Any) -> float:
    """The relative norm error up to which a gradient of a dtype passes, whatever rounding was measured."""
    return max(ALLOWED * epsilon(dtype), _FLOAT64)


def close_of(dtype: Any) -> float:
    """The same where nothing else tells: in half precision sixteen epsilons are a tenth of a gradient."""
    return floor_of(dtype) if epsilon(dtype) < 1e-4 else 4 * epsilon(dtype)


def step_of(dtype: Any) -> int:
    """By how many roundings inputs of a dtype are perturbed.

    Many, where the dtype has digits to spare: a kink that one rounding may cross is then crossed in some of the draws.
    Few in half precision, where 16 of them would be a step of 12 %.
    """
    return 16 if epsilon(dtype) < 1e-4 else 2 if epsilon(dtype) < 0.1 else 1


def as_real(x: Any) -> np.ndarray:
    """A gradient as real numbers. A complex one, dL/dx - i dL/dy by JAX's convention, becomes (dL/dx, dL/dy)."""
    array = np.asarray(x)
    if not jnp.issubdtype(array.dtype, jnp.complexfloating):
        # Not every narrow dtype has infinities.
        return array.astype(np.float32) if array.dtype.itemsize < 4 else array
    return np.stack([np.real(array), -np.imag(array)], -1)


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
    given, wanted = ({p: x for p, x in by_path(tree).items() if x is not None} for tree in (gradient, reference))
    remedy = "return one array for each array of the parameters"
    for path in sorted(given.keys() ^ wanted.keys()):
        state = "without the leaf" if path in wanted else "with the additional leaf"
        raise FbpError(f"a gradient must have the structure of the parameters, got one {state} {path}; {remedy}")
    if jax.tree.structure(gradient) != jax.tree.structure(reference):
        raise FbpError(
            f"a gradient must have the structure of the parameters, {jax.tree.structure(reference)}, "
            f"got {jax.tree.structure(gradient)}; {remedy}"
        )
    for path, g in given.items():
        if jnp.shape(g) != jnp.shape(wanted[path]):
            raise FbpError(
                f"leaf {path} of a gradient must have the parameter's shape {jnp.shape(wanted[path])}, "
                f"got {jnp.shape(g)}; {remedy}"
            )
    return tuple(difference(path, g, wanted[path]) for path, g in given.items())


def difference(path: str, gradient: ArrayLike, reference: ArrayLike) -> LeafDifference:
    """One array against a reference of its shape.

    Args:
        path: the leaf's path.
        gradient: an array of any floating or complex dtype.
        reference: an array of the same shape.
    """
    g, g_ref = as_real(gradient), as_real(reference)
    largest, largest_ref = largest_of(g), largest_of(g_ref)
    finite, finite_ref = bool(np.isfinite(largest)), bool(np.isfinite(largest_ref))
    # Divided by the largest entry first: gradients of 1e-200 are compared as well as gradients of 1.
    scale = (max(largest, largest_ref) if finite and finite_ref else 1.0) or 1.0
    squares, furthest, at = np.zeros(3), -1.0, 0
    with np.errstate(invalid="ignore", over="ignore"):
        for begin, x, y in chunks(g, g_ref):
            x, y = x / scale, y / scale
            gap = np.abs(x - y)
            squares += (np.vdot(x, x), np.vdot(y, y), np.vdot(gap, gap))
            i = int(np.argmax(gap))
            if gap[i] > furthest or np.isnan(gap[i]) > np.isnan(furthest):
                furthest, at = gap[i], begin + i
        norm, norm_ref, error = map(float, np.sqrt(squares))
        inner = sum(float(np.vdot(x / scale, y / scale)) for _, x, y in chunks(g, g_ref))
        cosine = _ratio(inner, norm * norm_ref) if norm and norm_ref else float("nan")
        worst = tuple(int(i) for i in np.unravel_index(at, g.shape)) if g.size else ()
        error, norm, norm_ref = (float(x * scale) for x in (error, norm, norm_ref))
        return LeafDifference(path, error, norm, norm_ref, cosine, worst, finite, finite_ref)


def norm(x: np.ndarray) -> float:
    """The Euclidean norm in float64, of entries of any size; infinite where one of them is not finite."""
    return norm_of(lambda x: x, x)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """||a - b|| in float64; infinite where one of them is not finite."""
    return norm_of(np.subtract, a, b)


def norm_of(combine: Callable[..., np.ndarray], *arrays: np.ndarray) -> float:
    """The norm of combine(*arrays), an elementwise function, without an array of their size.

    Args:
        combine: of parts of the arrays, in float64.
        arrays: of one shape.
    """
    parts = lambda: (combine(*chunk) for _, *chunk in chunks(*arrays))
    with np.errstate(invalid="ignore", over="ignore"):
        largest = max(map(largest_of, parts()), default=0.0)
        if largest == 0 or not np.isfinite(largest):
            return 0.0 if largest == 0 else float("inf")
        return largest * float(np.sqrt(sum(float(np.vdot(x / largest, x / largest)) for x in parts())))


def largest_of(x: np.ndarray) -> float:
    """The largest absolute value; NaN or infinite where an entry is."""
    return max(float(np.max(x, initial=-np.inf)), -float(np.min(x, initial=np.inf))) if x.size else 0.0


def chunks(*arrays: np.ndarray) -> Iterator[tuple[Any, ...]]:
    """(begin, *parts) of flat arrays, in float64."""
    flat = [np.ravel(x) for x in arrays]
    for begin in range(0, flat[0].size, _CHUNK):
        yield begin, *(x[begin : begin + _CHUNK].astype(np.float64) for x in flat)


def perturb(tree: Any, seed: int) -> Any:
    """A pytree with every floating or complex entry moved by some roundings of its dtype, up or down.

    Args:
        tree: a pytree of numpy arrays; other leaves stay as they are.
        seed: of the signs.
    """
    draw = np.random.default_rng(seed)

    def perturb_leaf(leaf: Any) -> Any:
        if not is_inexact(leaf):
            return leaf
        step = step_of(leaf.dtype) * epsilon(leaf.dtype)
        up = draw.integers(0, 2, leaf.shape, np.bool_)
        with np.errstate(over="ignore", invalid="ignore"):
            moved = np.asarray(leaf * leaf.dtype.type(1 - step))
            return np.multiply(leaf, leaf.dtype.type(1 + step), out=moved, where=up)

    return jax.tree.map(perturb_leaf, tree)


def on_host(tree: Any) -> Any:
    """The leaves as numpy arrays, random keys as they are: arithmetic on them then compiles nothing."""
    return jax.tree.map(lambda x: x if jnp.issubdtype(jnp.result_type(x), jax.dtypes.extended) else _host(x), tree)


def _host(x: Any) -> np.ndarray:
    return np.asarray(x) if hasattr(x, "dtype") else np.asarray(x, jnp.result_type(x))


def in_float64(tree: Any) -> Any:
    """Arrays of NumPy or JAX with the floating ones in float64, the complex ones in complex128."""
    return jax.tree.map(lambda x: x.astype(widest(x.dtype)) if is_inexact(x) else x, tree)


@dataclass(frozen=True)
class Allowance:
    """What rounding explains of one leaf.

    Attributes:
        dtype: of the arithmetic.
        explained: the norm of a difference that rounding alone may make.
        autodiff_error: ||g_ad - g_64|| of `jax.grad` in that dtype.
        at_edge: whether the gradient is finite here and not where the inputs are perturbed.
        allowed: the norm of a difference that the user allows.
    """

    dtype: str
    explained: float
    autodiff_error: float
    at_edge: bool = False
    allowed: float = 0.0

    @classmethod
    def measure(
        cls, dtype: str, size: float, off: float, moves: Sequence[float], jitter: float = 0.0, floor: float = 0.0
    ) -> "Allowance":
        """From the norm of the exact gradient, and how `jax.grad` in a dtype differs from it and moves with its inputs.

        The jitter is the rounding of the gradient function itself, how erratically it follows when its inputs move:
        ||(g' - g) - (g_ref' - g_ref)|| for perturbed inputs, the largest one. Where a difference of nearly equal
        numbers is inside (a normalization of one unit), it is far larger than what perturbed inputs do to the exact
        gradient.

        Args:
            dtype: of the arithmetic.
            size: the norm of the exact gradient.
            off: how far `jax.grad` is from it.
            moves: how far `jax.grad` moves, for each draw of perturbed inputs.
            jitter: as above.
            floor: the relative difference that is allowed in any case.
        """
        finite = [move for move in moves if np.isfinite(move)]
        per_rounding = max(finite, default=np.inf if moves else 0.0) / step_of(dtype) if np.isfinite(off) else np.inf
        # Autodiff's own error is one draw of the rounding; the other half of ALLOWED is for its spread.
        explained = max(ALLOWED * per_rounding, ALLOWED / 2 * off, ALLOWED / 2 * jitter, floor * size)
        return cls(dtype, explained, off, len(finite) < len(moves))

    def is_zero(self, size: float, natural: float, own: float) -> bool:
        """Whether an exact gradient in float64 is zero up to rounding.

        It is uncertain itself, and negligible beside what a gradient here would be, or much smaller than in a narrower
        dtype: rounding shrinks with the dtype's epsilon, and nothing else does.

        Args:
            size: its norm.
            natural: the norm of the whole gradient, or the loss over the size of the leaf, whichever is larger.
            own: the norm of the same gradient in a narrower dtype; 0 where there is none.
        """
        uncertain = self.explained >= _UNCERTAIN * size
        return size == 0 or (uncertain and (size <= _NEGLIGIBLE * natural or own >= _SHRINKS * size))

    def assess(self, off: LeafDifference, against_autodiff: float, zero: float | None = None) -> tuple[Verdict, str]:
        """Whether rounding explains the difference of a leaf from float64, and why.

        Args:
            off: the difference from `jax.grad` in float64.
            against_autodiff: the relative error against `jax.grad` in the same dtype.
            zero: where the exact leaf is zero up to rounding the norm that rounding may give it; else None.
        """
        size, out_of_range = off.norm_ref, f"the gradient leaves the range of {self.dtype}, autodiff's too"
        if not off.finite_ref:
            return "INCONCLUSIVE", "the reference is NaN or infinite: use smaller inputs or parameters"
        if not off.finite:
            in_range = np.isfinite(self.autodiff_error) and not self.at_edge
            return ("FAIL", "NaN or infinity where autodiff is finite") if in_range else ("INCONCLUSIVE", out_of_range)
        limit = max(self.explained, zero or 0.0)
        if off.error <= self.allowed:
            return "PASS", f"within the tolerance, off by {off.relative_error:.1e}"
        if off.error <= limit:
            return self._assess_explained(off, against_autodiff, zero is not None, out_of_range)
        if off.error <= self.bound(size, zero):
            times = f"{off.error / limit:.1f} times what rounding in {self.dtype} explains"
            return "INCONCLUSIVE", f"{EXCESS}, {times}: a less careful formula, or a small term missing?"
        return "FAIL", ""

    def bound(self, size: float, zero: float | None = None) -> float:
        """The norm of the difference beyond which a gradient is wrong, and not merely careless.

        Args:
            size: the norm of the exact gradient.
            zero: where it is zero up to rounding the norm that rounding may give it; else None.
        """
        limit = max(self.explained, zero or 0.0)
        return max(limit, min(BOUND * limit, _LARGEST_EXCESS * size if zero is None else np.inf))

    def _assess_explained(
        self, off: LeafDifference, against_autodiff: float, is_zero: bool, out_of_range: str
    ) -> tuple[Verdict, str]:
        size, floor = off.norm_ref, close_of(self.dtype)
        if is_zero:
            return "PASS", ZERO
        # That both are lost in rounding, or zero by underflow, is no agreement.
        agrees = against_autodiff <= floor and self.autodiff_error <= _LOST * size
        if agrees or off.relative_error <= floor:
            return "PASS", ""
        if self.explained <= _RESOLVED * size:
            return "PASS", f"within rounding, which moves this leaf by {self.explained / size:.1e}"
        if not np.isfinite(self.explained):
            return "INCONCLUSIVE", out_of_range
        return (
            "INCONCLUSIVE",
            f"rounding in {self.dtype} alone may move this leaf by {self.explained / size:.1e} of it",
        )


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else float("inf")
