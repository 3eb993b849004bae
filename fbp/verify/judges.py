"""What the judges say of each leaf of a gradient: autodiff, finite differences and the adjoint identity."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

import jax.numpy as jnp
import numpy as np

from fbp.errors import FbpError, check_count, describe_exception
from fbp.verify import slopes
from fbp.verify.candidate import ComputedGradient, compute_gradient
from fbp.verify.leaf import LeafByAutodiff
from fbp.verify.reference import NoDerivative, Reference
from fbp.verify.result import DIRECTIONAL, WHOLE, JudgeResult, LeafResult
from fbp.verify.structure import is_floating
from fbp.verify.tolerance import (
    ALLOWED,
    BOUND,
    EXCESS,
    ZERO,
    Verdict,
    as_real,
    difference,
    distance,
    epsilon,
    floor_of,
    norm,
)

_ZERO_PART = 1e-6
"""The part of a gradient by which the loss would change as a whole that is zero for differences."""


@dataclass(frozen=True)
class Request:
    """What is asked of the judges.

    Attributes:
        directions: how many random directions in each leaf; None asks autodiff alone.
        only: the paths of the leaves to judge; None for all.
        tolerance: the relative norm error that is allowed besides rounding, for all leaves or by path.
        nondeterminism: the relative norm of the difference between two calls that is allowed.
        batched: whether the gradient function is also called under `jax.vmap`.
        time_limit: after how many seconds no further leaf is judged; None for no limit.
        progress: called with a line for each leaf.
        autodiff_judges: whether autodiff is a judge; not where it is what is judged.
        forward: a function whose forward-mode derivative must be that of the loss; None for none.
        begin: when the time began.

    Raises:
        FbpError: a number is out of range.
    """

    directions: int | None = 2
    only: Collection[str] | None = None
    tolerance: float | Mapping[str, float] = 0.0
    nondeterminism: float = 0.0
    batched: bool = False
    time_limit: float | None = None
    progress: Callable[[str], None] = lambda line: None
    autodiff_judges: bool = True
    forward: Callable[..., Any] | None = None
    begin: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.directions is not None:
            check_count("directions", self.directions)
        allowed = self.tolerance.values() if isinstance(self.tolerance, Mapping) else [self.tolerance]
        for name, value in (*(("tolerance", t) for t in allowed), ("nondeterminism", self.nondeterminism)):
            if not isinstance(value, Real) or not 0 <= value < np.inf:
                raise FbpError(f"{name} must be a relative error of at least 0, got {value!r}; use e.g. 1e-3")
        if self.time_limit is not None and not (isinstance(self.time_limit, Real) and self.time_limit > 0):
            raise FbpError(f"time_limit must be positive, got {self.time_limit!r}; give seconds")
        if not callable(self.progress):
            raise FbpError(f"progress must be a function of a line, got {self.progress!r}; use e.g. print")

    def tolerance_of(self, path: str) -> float:
        """The relative error that is allowed in one leaf."""
        return self.tolerance.get(path or WHOLE, 0.0) if isinstance(self.tolerance, Mapping) else self.tolerance

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.time_limit is not None and time.monotonic() - self.begin > self.time_limit

    def check_paths(self, paths: Collection[str]) -> None:
        """Refuse a tolerance for a leaf that does not exist.

        Raises:
            FbpError: there is no such leaf.
        """
        known = [path or WHOLE for path in paths]
        for path in self.tolerance if isinstance(self.tolerance, Mapping) else ():
            if path not in known:
                raise FbpError(f"tolerance must name leaves by their paths, got {path!r}; known are {', '.join(known)}")


def judge(
    reference: Reference, candidate: Callable[..., Any], request: Request | None = None
) -> tuple[LeafResult, ...]:
    """The leaves of a gradient, each with what the judges say.

    Args:
        reference: the loss at the point where the gradient is judged.
        candidate: gives the gradient, called with the arguments of the reference.
        request: what is asked of the judges.

    Raises:
        FbpError: the gradient function cannot be called with the arguments.
    """
    request = request or Request()
    request.check_paths(reference.inputs)
    computed = compute_gradient(candidate, reference, request.nondeterminism, request.batched)
    return judge_gradient(reference, computed, request)


def judge_value(reference: Reference, value: Any) -> LeafResult:
    """The value that a gradient function returns beside the gradient.

    Args:
        reference: the loss.
        value: what was returned for it.
    """
    path = "(value)"
    if not is_floating(value) or np.shape(value) != ():
        problem = f"a floating-point number must be returned beside the gradient, got {type(value).__name__}"
        return LeafResult(path, "", (), None, None, float("nan"), (JudgeResult("structure", "FAIL", problem),))
    off = difference(path, value, np.asarray(reference.value))
    # A sum that cancels is as uncertain as its terms, of which the gradient tells the size.
    size = reference.scale_of_terms
    eps = max(epsilon(jnp.result_type(value)), reference.coarsest)
    limit = ALLOWED * eps * max(size, abs(reference.value))
    verdict = "PASS" if off.error <= limit else "INCONCLUSIVE" if off.error <= BOUND * limit else "FAIL"
    if reference.caveat:
        verdict = "INCONCLUSIVE"
    reason = "" if verdict == "PASS" else reference.caveat or f"{float(value):.8g} for a loss of {reference.value:.8g}"
    dtype = str(jnp.result_type(value))
    explained = limit / abs(reference.value) if reference.value else 0.0
    return LeafResult(path, dtype, (), off, off, explained, (JudgeResult("value", verdict, reason),))


def judge_gradient(
    reference: Reference, gradient: ComputedGradient, request: Request | None = None
) -> tuple[LeafResult, ...]:
    """The leaves of a gradient that is there.

    Args:
        reference: the loss at the point where the gradient is judged.
        gradient: what was computed.
        request: what is asked of the judges.
    """
    request = request or Request()
    paths = [path for path in reference.inputs if request.only is None or path in request.only]
    known = []
    for i, path in enumerate(paths):
        request.progress(f"{i + 1} of {len(paths)}: {path or 'the argument'}")
        known.append(_judge_leaf(path, reference, gradient, request))
    problems = gradient.structure.problems
    unknown = [
        LeafResult(path, "", (), None, None, float("nan"), (JudgeResult("structure", "FAIL", problem),))
        for path, problem in problems.items()
        if path not in reference.inputs
    ]
    return (*known, *unknown)


def _judge_leaf(path: str, reference: Reference, gradient: ComputedGradient, request: Request) -> LeafResult:
    like, structure = reference.inputs[path], gradient.structure
    dtype, note = str(like.dtype), structure.notes.get(path, "")
    said = () if reference.caveat else (gradient.repeats, gradient.batched)
    results = [each[path] for each in said if path in each]
    note = "; ".join(text for text in (note, *(each.reason for each in results if each.verdict == "PASS")) if text)
    if path in structure.problems:
        results.append(JudgeResult("structure", "FAIL", structure.problems[path]))
    undecided = reference.caveat or ("the time limit is over" if request.is_over else "")
    if path not in structure.leaves or undecided:
        results += [JudgeResult("loss" if reference.caveat else "time", "INCONCLUSIVE", undecided)] * bool(undecided)
        decided = [each for each in results if each.verdict != "PASS"]
        return LeafResult(path, dtype, like.shape, None, None, float("nan"), tuple(decided), "", note)
    g, in_float64 = as_real(structure.leaves[path]), gradient.in_float64.get(path)
    best = g if in_float64 is None else in_float64
    tolerance = request.tolerance_of(path)
    if reference.autodiff is None:
        floor = max(tolerance, floor_of(dtype))
        along = _judge_along_directions(path, reference, best, None, floor * norm(g), request.directions)
        judges = _excuse_at_kinks([*results, JudgeResult("autodiff", "INCONCLUSIVE", reference.silent), *along])
        return LeafResult(path, dtype, like.shape, None, None, floor, tuple(judges), "", note)
    leaf = LeafByAutodiff(
        path, dtype, g, in_float64, gradient.jitter.get(path), reference.autodiff, gradient.exact, tolerance, reference
    )
    verdict, reason = leaf.assess()
    if not request.autodiff_judges and verdict == "PASS":
        verdict, reason = "INCONCLUSIVE", "the operation has no rule of its own: autodiff is what is judged"
    results.append(JudgeResult("autodiff", verdict, reason or leaf.without_float64))
    results += _judge_along_directions(path, reference, best, leaf, leaf.excused, request.directions)
    if request.forward is not None:
        results.append(_judge_forward(path, replace(reference, loss=request.forward), leaf, request.directions or 1))
    if reason.startswith(EXCESS):
        # Where the error is more than rounding explains, no judge tells a careless formula from a small fault.
        results = [replace(r, verdict="INCONCLUSIVE", reason=reason) if r.verdict == "PASS" else r for r in results]
    return leaf.describe(tuple(_excuse_at_kinks(results)), reference.lengths, note)


@dataclass(frozen=True)
class _Direction:
    """A direction in a leaf.

    Attributes:
        v: its entries.
        scale: the size of the slope of a right gradient along it.
        tolerance: the part of it that rounding explains.
        at_kink: the same where rounding crosses no kink.
    """

    v: np.ndarray
    scale: float
    tolerance: float
    at_kink: float


def _judge_along_directions(
    path: str,
    reference: Reference,
    g: np.ndarray,
    leaf: LeafByAutodiff | None,
    explained: float,
    directions: int | None,
) -> list[JudgeResult]:
    """Judges 2 and 3, along random signs, and along the difference from autodiff where there is one."""
    if directions is None or not np.isfinite(g).all():
        return []
    exact = None if leaf is None else leaf.exact
    scale, size = reference.scale(path), max(norm(g), 0.0 if exact is None else norm(exact))
    steady = explained if leaf is None else min(leaf.steady, explained)
    if leaf is not None and leaf.is_zero:
        # Held against a gradient by which the loss would change as a whole.
        size = max(size, reference.natural(path))
        steady = explained = max(explained, _ZERO_PART * size)
    if size == 0:
        return [JudgeResult(name, "INCONCLUSIVE", ZERO) for name in DIRECTIONAL]
    results: dict[str, list[JudgeResult]] = {name: [] for name in DIRECTIONAL}
    finite = np.isfinite(as_real(reference.inputs[path]))
    parts = (slopes.SIGMAS * explained / size, slopes.SIGMAS * steady / size)

    def draw_directions() -> Iterator[_Direction]:
        for i in range(directions):
            yield _Direction(slopes.draw_signs(g.shape, scale, reference.seed + i), size * scale, *parts)
        if exact is not None and np.isfinite(exact).all() and distance(g, exact) > max(steady, floor_of(float) * size):
            v = slopes.scale_direction(g.astype(np.float64) - exact, scale)
            if v is not None:
                yield _Direction(v, size * norm(v), explained / size, steady / size)

    for direction in draw_directions():
        direction.v[~finite] = 0
        inner = slopes.inner_product(g, direction.v)
        for name, assess in zip(DIRECTIONAL, (_assess_differences, _assess_adjoint), strict=True):
            results[name].append(JudgeResult(name, *assess(reference, path, direction, inner)))
    return [min(each, key=_rank) for each in results.values() if each]


def _assess_differences(reference: Reference, path: str, along: _Direction, inner: float) -> tuple[Verdict, str]:
    for steps in (slopes.FIRST_STEPS, slopes.STEPS):
        slope = reference.slope_by_differences(path, along.v, steps)
        verdict, reason = slopes.assess_slope(inner, slope, along.scale, along.tolerance, along.at_kink)
        if verdict == "PASS":
            return verdict, reason
    if verdict == "FAIL" and reference.jumps[1]:
        return "INCONCLUSIVE", reference.jumps[1]
    return verdict, reason


def _assess_adjoint(reference: Reference, path: str, along: _Direction, inner: float) -> tuple[Verdict, str]:
    try:
        slope = reference.slope_forward(path, along.v)
    except NoDerivative as error:
        return "INCONCLUSIVE", f"the loss has no forward-mode derivative: {describe_exception(error)}"
    return slopes.assess_slope(inner, slope, along.scale, along.tolerance, along.at_kink)


def _judge_forward(path: str, by_rule: Reference, leaf: LeafByAutodiff, directions: int) -> JudgeResult:
    """The forward mode of an operation beside the exact gradient: <g, v> is the derivative along v."""
    scale = by_rule.scale(path)
    explained = max((leaf.sharp or leaf.own).explained, leaf.tolerance * norm(leaf.exact))
    for i in range(directions):
        v = slopes.draw_signs(leaf.exact.shape, scale, by_rule.seed + i)
        try:
            slope = by_rule.slope_forward(path, v)
        except NoDerivative as error:
            return JudgeResult("forward", "INCONCLUSIVE", f"it has no forward mode: {describe_exception(error)}")
        room = scale * max(slopes.SIGMAS * explained, floor_of(float) * norm(leaf.exact))
        if not abs(slope.value - slopes.inner_product(leaf.exact, v)) <= room:
            inner = slopes.inner_product(leaf.exact, v)
            return JudgeResult("forward", "FAIL", f"jax.jvp gives {slope.value:.6g}, the gradient {inner:.6g}")
    return JudgeResult("forward", "PASS")


def _rank(result: JudgeResult) -> int:
    # A kink in one direction says more than a smooth way through another.
    said = (result.verdict == "FAIL", result.reason.startswith(slopes.KINK), result.verdict == "PASS", True)
    return said.index(True)


def _excuse_at_kinks(results: list[JudgeResult]) -> list[JudgeResult]:
    """Where the loss has no derivative, autodiff's choice of one is no better than another between the sides."""
    kink = next((each.reason for each in results if each.reason.startswith(slopes.KINK)), "")
    if not kink or any(each.verdict == "FAIL" for each in results if each.judge == "differences"):
        return results
    excused = ("autodiff", "adjoint")
    return [
        JudgeResult(each.judge, "INCONCLUSIVE", kink) if each.verdict == "FAIL" and each.judge in excused else each
        for each in results
    ]
