"""What a wrong gradient looks like: hints by its signature beside the right one."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from fbp.verify.tolerance import distance, norm

_CLOSE = 1e-3
_UNITS_OF_DTYPES = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": 2.0**-24}


def make_hint(
    path: str, g: np.ndarray, references: Mapping[str, np.ndarray], explained: float, sizes: Iterable[int] = ()
) -> str:
    """What the difference of a leaf looks like, in one line.

    Args:
        path: the leaf's path.
        g: the wrong gradient of the leaf.
        references: the right gradient, all leaves by path.
        explained: the norm of the difference that rounding explains.
        sizes: numbers of examples, for factors such as m.
    """
    g_ref = references[path]
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
    # A signature explains a difference where it leaves a twentieth of it, or what rounding does.
    close = max(min(_CLOSE, 0.05 * distance(g, g_ref)), 2 * explained / size)
    same = lambda a, b: distance(a, b) <= close * norm(b)
    for signature in (_find_factor(sizes), _find_rearrangement, _find_shift):
        if text := signature(g, g_ref, same):
            return text
    for other, leaf in references.items():
        if other == path or leaf.shape != g.shape or norm(leaf) == 0:
            continue
        if same(g * (size / norm(leaf)), leaf / norm(leaf)):
            return f"equal to the gradient of {other}: are the two swapped?"
    for signature in (_find_entry, _find_mask, _find_factor_per_index, _find_narrow_dtype):
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
        return next(near, f"a constant factor {ratio:.6g}")

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
    dtype = next((name for name, unit in _UNITS_OF_DTYPES.items() if off > unit / 4), "float32")
    return f"close, off by {off:.1e}, spread over the entries: arithmetic in {dtype}, or a small term missing?"
