"""What a wrong gradient looks like: hints by its signature beside the right one."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from fbp.verify.tolerance import distance, norm

_CLOSE = 1e-3
_UNITS_OF_DTYPES = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}
_SLICES_NAMED = 4

OWN_RULE = (
    "jax.grad agrees and the loss's values do not: a rule inside of the loss (custom_jvp, custom_vjp) is wrong, "
    "or a straight-through estimator"
)
"""What is said where the gradient is that of autodiff and not that of the loss."""


@dataclass(frozen=True)
class Place:
    """Where a gradient is wrong.

    Attributes:
        path: the leaf's path.
        dtype: its dtype.
        value: the leaf of the arguments that is differentiated by, in float64; None where it is not known.
        lengths: numbers of examples, for factors such as m.
    """

    path: str
    dtype: str
    value: np.ndarray | None = None
    lengths: Collection[int] = ()


def make_hint(at: Place, g: np.ndarray, references: Mapping[str, np.ndarray], explained: float) -> str:
    """What the difference of a leaf looks like, in one line.

    Args:
        at: which leaf.
        g: the wrong gradient of the leaf.
        references: the right gradient, all leaves by path.
        explained: the norm of the difference that rounding explains.
    """
    g_ref = references[at.path]
    size = norm(g_ref)
    if not np.isfinite(g).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(g))[0])
        return f"NaN or infinity, first at {where}"
    if size == 0:
        return f"the gradient must be zero here, got norm {norm(g):.3g}"
    if norm(g) == 0:
        return "a zero leaf: is it forgotten, or its cotangent cut?"
    # Compared in units of the reference: gradients of 1e-200 are told apart as well.
    g, g_ref = g / size, g_ref / size
    off = distance(g, g_ref)
    # A signature explains a difference where it leaves a twentieth of it, or what rounding does.
    close = max(min(_CLOSE, 0.05 * off), 2 * explained / size)
    if off <= close:
        return ""
    same = lambda a, b: distance(a, b) <= close * norm(b)
    if at.dtype.startswith("complex") and same(g * np.array([1.0, -1.0]), g_ref):
        return "the complex conjugate: jax.grad of a real loss is dL/dx - i dL/dy"
    for signature in (_find_factor(at.lengths), _find_rearrangement, _find_shift):
        if text := signature(g, g_ref, same):
            return text
    for other, leaf in references.items():
        if other == at.path or leaf.shape != g.shape or norm(leaf) == 0:
            continue
        if same(g * (size / norm(leaf)), leaf / norm(leaf)):
            return f"equal to the gradient of {other}: are the two swapped?"
    signatures = (_find_entry, _find_decay(at.value), _find_mask, _find_clipping, _find_slices, _find_factor_per_index)
    for signature in (*signatures, _find_constant, _find_narrow_dtype):
        if text := signature(g, g_ref, same):
            return text
    cosine = float(np.vdot(g, g_ref)) / (norm(g) * norm(g_ref))
    return f"norm ratio {norm(g):.4g}, cosine {cosine:.4g}: a missing term or chain factor?"


_FACTORS = {
    -1.0: "the sign: equal to minus the gradient",
    2.0: "ratio 2: is a factor 1/2 missing, or a path counted twice?",
    0.5: "ratio 1/2: is one of two paths missing, or a factor 2 (an average of sides at a kink)?",
}
Same = Callable[[np.ndarray, np.ndarray], bool]


def _find_factor(sizes: Iterable[int]) -> Callable[[np.ndarray, np.ndarray, Same], str]:
    def signature(g: np.ndarray, g_ref: np.ndarray, same: Same) -> str:
        ratio = float(np.vdot(g, g_ref)) / float(np.vdot(g_ref, g_ref))
        if ratio == 0 or not same(g / ratio, g_ref):
            return ""
        known = _FACTORS.copy()
        for m in sorted(set(sizes) - {0, 1}):
            known[m] = f"ratio {m} = m: is 1/m, the mean over examples, missing?"
            known[1 / m] = f"ratio 1/{m} = 1/m: is the mean over examples taken twice, or not owned by the loss?"
        near = (text for factor, text in known.items() if abs(ratio / factor - 1) < 2e-3)
        shown = f"{ratio:.6g}" if abs(ratio - 1) > 1e-4 else f"1 {ratio - 1:+.1e}"
        return next(near, f"a constant factor {shown}")

    return signature


def _find_rearrangement(g: np.ndarray, g_ref: np.ndarray, same: Same) -> str:
    if g.ndim >= 2 and g.shape[-1] == g.shape[-2] and same(np.swapaxes(g, -1, -2), g_ref):
        return "equal after transposing"
    for axis in range(g.ndim):
        if g.shape[axis] > 1 and same(np.flip(g, axis), g_ref):
            return f"equal after reversing axis {axis}"
    return ""


def _find_shift(g: np.ndarray, g_ref: np.ndarray, same: Same) -> str:
    for axis in range(g.ndim):
        for by in (1, -1) if g.shape[axis] > 2 else ():
            rolled = np.roll(g, by, axis)
            inside = np.delete(rolled, 0 if by == 1 else -1, axis), np.delete(g_ref, 0 if by == 1 else -1, axis)
            if norm(inside[1]) > 0 and same(*inside):
                return f"equal after a shift by one along axis {axis}: off by one?"
    return ""


def _find_entry(g: np.ndarray, g_ref: np.ndarray, same: Same) -> str:
    gap = np.abs(g - g_ref)
    worst = np.unravel_index(np.argmax(gap), gap.shape)
    rest = gap.copy()
    rest[worst] = 0
    if g.size > 2 and norm(rest) <= 1e-3 * gap[worst]:
        at = f"one entry, at {tuple(int(i) for i in worst)}"
        return f"{at}: {g[worst] / g_ref[worst]:.4g} of what it should be" if g_ref[worst] else at
    for axis in range(g.ndim):
        lines = np.sqrt(np.sum(np.square(gap), axis=tuple(i for i in range(g.ndim) if i != axis)))
        line = int(np.argmax(lines))
        if g.shape[axis] > 2 and norm(np.delete(lines, line)) <= 1e-3 * lines[line]:
            return f"one slice, index {line} of axis {axis}"
    return ""


def _find_decay(value: np.ndarray | None) -> Callable[[np.ndarray, np.ndarray, Same], str]:
    def signature(g: np.ndarray, g_ref: np.ndarray, same: Same) -> str:
        if value is None or value.shape != g.shape or not 0 < norm(value) < np.inf or g.size < 3:
            return ""
        unit = value / norm(value)
        if not _is_along(g - g_ref, unit):
            return ""
        ratio = float(np.vdot(g - g_ref, unit))
        sign = "added" if ratio > 0 else "subtracted"
        return f"off by a multiple of the parameter itself, {sign}: weight decay, or a penalty that the loss has not?"

    return signature


def _find_clipping(g: np.ndarray, g_ref: np.ndarray, same: Same) -> str:
    limit = float(np.max(np.abs(g)))
    cut = np.abs(g_ref) > limit
    if 0 < cut.sum() < g.size and same(g, np.clip(g_ref, -limit, limit)):
        return f"clipped: {cut.sum()} entries stop at {limit / np.max(np.abs(g_ref)):.3g} of the largest one"
    return ""


def _find_slices(g: np.ndarray, g_ref: np.ndarray, same: Same) -> str:
    """Wrong in some slices of an axis, and right in the others."""
    gap = np.square(g - g_ref)
    for axis in range(g.ndim):
        errors = np.sqrt(np.sum(gap, axis=tuple(i for i in range(g.ndim) if i != axis)))
        wrong = np.flatnonzero(errors > 1e-3 * errors.max())
        n = g.shape[axis]
        if not (n > 2 and 1 < wrong.size <= n // 2):
            continue
        if wrong[-1] == n - 1 and wrong.size == n - wrong[0]:
            return f"right up to index {wrong[0] - 1} of axis {axis}, wrong in the last {wrong.size}: a tile forgotten?"
        named = ", ".join(str(i) for i in wrong[:_SLICES_NAMED]) + (", ..." if wrong.size > _SLICES_NAMED else "")
        return f"wrong in {wrong.size} of {n} slices of axis {axis} ({named}), right in the others"
    return ""


def _find_constant(g: np.ndarray, g_ref: np.ndarray, same: Same) -> str:
    """Off by something that is the same along an axis."""
    gap = g - g_ref
    for axis in range(g.ndim):
        mean = np.broadcast_to(np.mean(gap, axis, keepdims=True), gap.shape)
        if g.shape[axis] > 2 and norm(mean) > 0 and _is_along(gap, mean / norm(mean)):
            return f"off by the same amount along axis {axis}: is a sum or mean over it missing, or left in?"
    return ""


def _is_along(gap: np.ndarray, unit: np.ndarray) -> bool:
    return distance(gap, float(np.vdot(gap, unit)) * unit) <= 1e-3 * norm(gap)


def _find_mask(g: np.ndarray, g_ref: np.ndarray, same: Same) -> str:
    cut, extra = (g == 0) & (g_ref != 0), (g != 0) & (g_ref == 0)
    both = ~(cut | extra)
    if (cut.any() or extra.any()) and norm(g_ref[both]) and same(g[both], g_ref[both]):
        return f"equal up to a mask: {cut.sum()} entries are zero that should not be, {extra.sum()} the other way round"
    return ""


def _find_factor_per_index(g: np.ndarray, g_ref: np.ndarray, same: Same) -> str:
    if g.ndim < 2:
        return ""
    for axis, what in ((g.ndim - 1, "unit"), (g.ndim - 2, "input")):
        others = tuple(i for i in range(g.ndim) if i != axis)
        below = np.sum(np.square(g_ref), axis=others, keepdims=True)
        factor = np.sum(g * g_ref, axis=others, keepdims=True) / np.where(below == 0, 1, below)
        if g.shape[axis] * 2 < g.size and same(factor * g_ref, g):
            return f"one factor per {what}, {factor.min():.3g} to {factor.max():.3g}: a missing chain factor there?"
    return ""


def _find_narrow_dtype(g: np.ndarray, g_ref: np.ndarray, same: Same) -> str:
    off = distance(g, g_ref)
    if off > 2e-2:
        return ""
    # Rounding of each entry or of sums is spread over them all; a small term is not, and no larger than the unit.
    large = np.abs(g_ref) > 0.1 * np.max(np.abs(g_ref))
    each = np.abs(g - g_ref)[large] / np.abs(g_ref[large])
    for name, unit in _UNITS_OF_DTYPES.items():
        if unit / 8 < off and unit / 8 < float(np.median(each)) and float(np.max(each)) < 2 * unit:
            return f"close, off by {off:.1e}, at most a rounding of {name} in each entry: is it computed in {name}?"
    return f"close, off by {off:.1e}: a small term missing, an epsilon elsewhere, or arithmetic in fewer digits?"
