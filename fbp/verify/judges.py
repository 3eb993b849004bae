"""What the judges say of each leaf of a gradient: autodiff, finite differences and the adjoint identity."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.errors import describe_exception
from fbp.verify import slopes
from fbp.verify.hints import make_hint
from fbp.verify.reference import Autodiff, Leaves, NoDerivative, Reference, call_checked, precision_of, select_arguments
from fbp.verify.result import DIRECTIONAL, JudgeResult, LeafResult
from fbp.verify.structure import Structure, by_path, check_structure, is_floating
from fbp.verify.tolerance import TOLERANCE, ZERO, Allowance, Verdict, difference, distance, norm, perturb

_PROBE = 1e-12
"""How far inputs move to see whether a function computes in float64: too little for float32 to follow."""
_JITTER_DRAWS = 2
"""At how many perturbed inputs a gradient function is called to see its own rounding."""


@dataclass(frozen=True)
class ComputedGradient:
    """The gradient to judge, as its function computed it.

    Attributes:
        structure: its leaves, and what is wrong with their structure.
        in_float64: the leaves computed in float64, where the function does that.
        jitter: for each of these the function's own rounding, as in `Allowance.measure`.
    """

    structure: Structure
    in_float64: Leaves = field(default_factory=dict)
    jitter: dict[str, float] = field(default_factory=dict)


def judge(
    reference: Reference,
    candidate: Callable[..., Any],
    *,
    directions: int = 2,
    only: Collection[str] | None = None,
) -> tuple[LeafResult, ...]:
    """The leaves of a gradient, each with what the judges say.

    Args:
        reference: the loss at the point where the gradient is judged.
        candidate: gives the gradient, called with the arguments of the reference.
        directions: how many random directions in each leaf.
        only: the paths of the leaves to judge; None for all.

    Raises:
        FbpError: the gradient function cannot be called with the arguments.
    """
    with precision_of(reference.args):
        gradient = call_checked("the gradient function", candidate, reference.args)
        structure = check_structure(gradient, select_arguments(reference.args, reference.argnums))
    return judge_gradient(reference, _compute_in_float64(candidate, reference, structure), directions, only)


def judge_gradient(
    reference: Reference, gradient: ComputedGradient, directions: int | None = None, only: Collection[str] | None = None
) -> tuple[LeafResult, ...]:
    """The leaves of a gradient that is there.

    Args:
        reference: the loss at the point where the gradient is judged.
        gradient: what was computed.
        directions: how many random directions in each leaf; None asks autodiff alone.
        only: the paths of the leaves to judge; None for all.
    """
    paths = [path for path in reference.inputs if only is None or path in only]
    known = [_judge_leaf(path, reference, gradient, directions) for path in paths]
    problems = gradient.structure.problems
    unknown = [
        LeafResult(path, "", (), None, None, float("nan"), (JudgeResult("structure", "FAIL", problem),))
        for path, problem in problems.items()
        if path not in reference.inputs
    ]
    return (*known, *unknown)


def _judge_leaf(path: str, reference: Reference, gradient: ComputedGradient, directions: int | None) -> LeafResult:
    like, structure = reference.inputs[path], gradient.structure
    dtype, note = str(like.dtype), structure.notes.get(path, "")
    results: list[JudgeResult] = []
    if path in structure.problems:
        results.append(JudgeResult("structure", "FAIL", structure.problems[path]))
    if path not in structure.leaves:
        return LeafResult(path, dtype, like.shape, None, None, float("nan"), tuple(results))
    g, in_float64 = np.asarray(structure.leaves[path], np.float64), gradient.in_float64.get(path)
    best = g if in_float64 is None else in_float64
    if reference.autodiff is None:
        results.append(JudgeResult("autodiff", "INCONCLUSIVE", reference.silent))
        if directions is not None:
            results += _judge_along_directions(path, reference, best, TOLERANCE[dtype] * norm(g), directions)
        judges = tuple(_excuse_at_kinks(results))
        return LeafResult(path, dtype, like.shape, None, None, TOLERANCE[dtype], judges, "", note)
    leaf = LeafByAutodiff(path, dtype, g, in_float64, gradient.jitter.get(path), reference.autodiff)
    results.append(JudgeResult("autodiff", *leaf.assess()))
    if directions is not None and leaf.is_zero:
        results += [JudgeResult(name, "INCONCLUSIVE", ZERO) for name in DIRECTIONAL]
    elif directions is not None:
        results += _judge_along_directions(path, reference, best, leaf.explained, directions)
    return leaf.describe(tuple(_excuse_at_kinks(results)), reference.lengths, note)


@dataclass(frozen=True)
class LeafByAutodiff:
    """Judge 1: one leaf against autodiff in float64, with what rounding explains.

    Where there is such a path, the leaf is judged in float64 arithmetic, too.

    Attributes:
        path: the leaf's path.
        dtype: its dtype.
        g: the leaf, computed in its own dtype.
        in_float64: the leaf computed in float64; None where its function does not.
        jitter: the rounding of its function in float64, as in `Allowance.measure`; None likewise.
        autodiff: the reference.
    """

    path: str
    dtype: str
    g: np.ndarray
    in_float64: np.ndarray | None
    jitter: float | None
    autodiff: Autodiff

    @property
    def exact(self) -> np.ndarray:
        """`jax.grad` in float64 (in its own dtype where the loss has no float64 path)."""
        return self.autodiff.exact.here[self.path]

    @cached_property
    def sharp(self) -> Allowance | None:
        """What rounding explains in float64; None where the loss has no float64 path."""
        if not self.autodiff.has_float64:
            return None
        return self.autodiff.exact.allow(self.path, "float64", self.exact, self.jitter or 0.0)

    @cached_property
    def own(self) -> Allowance:
        """What rounding explains in the leaf's own dtype."""
        if self.dtype == "float64" and self.sharp is not None:
            return self.sharp
        return self.autodiff.own.allow(self.path, self.dtype, self.exact)

    @property
    def explained(self) -> float:
        """The norm of a difference that rounding explains, in float64 where the leaf was computed in it."""
        sharp = self.own if self.in_float64 is None else self.sharp
        return (sharp or self.own).explained

    @property
    def is_zero(self) -> bool:
        """Whether the exact leaf is zero up to rounding, so that a relative error says nothing."""
        return self.sharp is not None and self.sharp.is_zero(self.exact, self.autodiff.total)

    def assess(self) -> tuple[Verdict, str]:
        """What autodiff says, and why."""
        whole = self.autodiff.total if self.is_zero else None
        against_autodiff = difference(self.path, self.g, self.autodiff.own.here[self.path]).relative_error
        verdict, reason = self.own.assess(difference(self.path, self.g, self.exact), against_autodiff, whole)
        if self.sharp is None:
            return verdict, reason or "no float64 path: compared with autodiff in its dtype"
        if self.in_float64 is None or self.dtype == "float64":
            return verdict, reason
        off = difference(self.path, self.in_float64, self.exact)
        in_float64, _ = self.sharp.assess(off, off.relative_error, whole)
        if in_float64 == "FAIL":
            return "FAIL", f"off in float64 arithmetic too, by {off.relative_error:.1e}"
        if in_float64 == "PASS" and verdict == "FAIL":
            return "FAIL", f"right in float64 and wrong in {self.dtype}: is a sum or product computed in less?"
        if in_float64 == "PASS" and verdict == "INCONCLUSIVE":
            return "PASS", f"{reason}; judged in float64"
        return verdict, reason

    def describe(self, judges: tuple[JudgeResult, ...], lengths: Collection[int], note: str = "") -> LeafResult:
        """The leaf with its differences from autodiff, and a hint where a judge fails it.

        Args:
            judges: what they say.
            lengths: what may be a number of examples.
            note: what is unusual.
        """
        text, size = "", norm(self.exact)
        if any(each.verdict == "FAIL" for each in judges):
            best = self.g if self.in_float64 is None else self.in_float64
            text = make_hint(self.path, best, self.autodiff.exact.here, self.explained, lengths)
        against = difference(self.path, self.g, self.autodiff.own.here[self.path])
        explained = self.own.explained / size if size else 0.0
        off = difference(self.path, self.g, self.exact)
        return LeafResult(self.path, self.dtype, self.g.shape, off, against, explained, judges, text, note)


def _compute_in_float64(candidate: Callable[..., Any], reference: Reference, structure: Structure) -> ComputedGradient:
    """The gradient, also in float64 arithmetic where its function computes so when it is given float64."""
    alone = ComputedGradient(structure)
    if reference.autodiff is None or not reference.has_float64:
        return alone
    exact, args64 = reference.autodiff.exact, reference.args64
    with jax.enable_x64(True):
        nudged = jax.tree.map(lambda x: x * (1 + _PROBE) if is_floating(x) else x, args64)
        near = [perturb(args64, reference.seed + i) for i in range(_JITTER_DRAWS)]
        try:
            here, there, *around = (
                by_path(candidate(*jax.tree.map(jnp.asarray, args))) for args in (args64, nudged, *near)
            )
        except Exception:
            # A kernel for float32 alone may refuse float64 with any exception.
            return alone
    usable = [
        path
        for path in structure.leaves
        if all(getattr(x.get(path), "dtype", None) == np.float64 for x in (here, there))
        and here[path].shape == reference.inputs[path].shape
    ]
    here, there, *around = ({path: np.asarray(x[path]) for path in usable} for x in (here, there, *around))
    exact_there = reference.gradient64(nudged)
    ratios = [
        _relative_change(here[path], there[path]) / expected
        for path in usable
        if norm(here[path]) > 0 and (expected := _relative_change(exact.here[path], exact_there[path])) > 0
    ]
    # Inside a narrower dtype the change is lost in rounding, or is a whole rounding; jitter may be more as well.
    if ratios and not 0.05 < float(np.median(ratios)) < 20:
        return alone
    return ComputedGradient(structure, here, {p: measure_jitter(p, here, around, exact) for p in usable})


def measure_jitter(path: str, here: Leaves, around: list[Leaves], exact: Any) -> float:
    """How erratically a leaf follows the exact gradient where inputs are perturbed: `Allowance.measure`.

    Args:
        path: the leaf's path.
        here: a gradient in float64.
        around: the same at the perturbed inputs.
        exact: autodiff's gradients in float64, at these inputs and perhaps more.
    """
    pairs = zip(around, exact.perturbed[: len(around)], strict=True)
    return max(distance(g[path] - here[path], m[path] - exact.here[path]) for g, m in pairs)


def _relative_change(a: np.ndarray, b: np.ndarray) -> float:
    return distance(a, b) / size if (size := norm(a)) else 0.0


def _judge_along_directions(
    path: str, reference: Reference, g: np.ndarray, explained: float, directions: int
) -> list[JudgeResult]:
    """Judges 2 and 3, along random signs, and along the difference from autodiff where there is one."""
    exact = None if reference.autodiff is None else reference.autodiff.exact.here[path]
    if not reference.has_float64:
        return [JudgeResult(name, "INCONCLUSIVE", "no float64 path") for name in DIRECTIONAL]
    if not np.isfinite(g).all():
        return []
    scale, size = reference.scale(path), max(norm(g), 0.0 if exact is None else norm(exact))
    if size == 0:
        return [JudgeResult(name, "INCONCLUSIVE", "zero") for name in DIRECTIONAL]
    asked = [
        (slopes.draw_signs(g.shape, scale, reference.seed + i), size * scale, slopes.SIGMAS * explained / size)
        for i in range(directions)
    ]
    if exact is not None and distance(g, exact) > max(explained, TOLERANCE["float64"] * size):
        v = slopes.scale_direction(g - exact, scale)
        asked += [] if v is None else [(v, size * norm(v), explained / size)]
    results: dict[str, list[JudgeResult]] = {name: [] for name in DIRECTIONAL}
    for v, slope_scale, tolerance in asked:
        inner = slopes.inner_product(g, v)
        for name, slope in zip(DIRECTIONAL, (reference.slope_by_differences, reference.slope_forward), strict=True):
            try:
                verdict, reason = slopes.assess_slope(inner, slope(path, v), slope_scale, tolerance)
            except NoDerivative as error:
                verdict = "INCONCLUSIVE"
                reason = f"the loss has no forward-mode derivative: {describe_exception(error)}"
            results[name].append(JudgeResult(name, verdict, reason))
    return [min(each, key=_rank) for each in results.values() if each]


def _rank(result: JudgeResult) -> int:
    # A kink in one direction says more than a smooth way through another.
    said = (result.verdict == "FAIL", result.reason.startswith(slopes.KINK), result.verdict == "PASS", True)
    return said.index(True)


def _excuse_at_kinks(results: list[JudgeResult]) -> list[JudgeResult]:
    """Where the loss has no derivative, autodiff's choice of one is no better than another between the sides."""
    kink = next((each.reason for each in results if each.reason.startswith(slopes.KINK)), "")
    if not kink or any(each.verdict == "FAIL" for each in results if each.judge == "differences"):
        return results
    return [
        JudgeResult(each.judge, "INCONCLUSIVE", kink) if each.verdict == "FAIL" and each.judge != "structure" else each
        for each in results
    ]
