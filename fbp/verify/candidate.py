"""The gradient to judge: called twice, under `jax.vmap`, and in float64 where there is a way."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.errors import describe_exception
from fbp.verify import programs
from fbp.verify.autodiff import Gradients, Leaves
from fbp.verify.evaluation import call, call_checked, trace_wide
from fbp.verify.programs import Lifted
from fbp.verify.reference import SHIFTS, Reference
from fbp.verify.result import JudgeResult
from fbp.verify.structure import Structure, check_structure, is_inexact, leaves_like
from fbp.verify.tolerance import (
    BOUND,
    as_real,
    difference,
    distance,
    epsilon,
    floor_of,
    norm,
    norm_of,
    on_host,
    perturb,
)

_PROBE = 1e-12
"""How far inputs move to see whether a function computes in float64: too little for float32 to follow."""


@dataclass(frozen=True)
class ComputedGradient:
    """The gradient to judge, as its function computed it.

    Attributes:
        structure: its leaves, and what is wrong with their structure.
        in_float64: the leaves computed in float64, where the function does that.
        jitter: for each of these the function's own rounding, as in `Allowance.measure`.
        exact: what they are compared with; None for the reference's gradients in float64.
        repeats: by path, what a second call says: the verdict and the reason.
        batched: by path, what a call under `jax.vmap` says.
    """

    structure: Structure
    in_float64: Leaves = field(default_factory=dict)
    jitter: dict[str, float] = field(default_factory=dict)
    exact: Gradients | None = None
    repeats: dict[str, JudgeResult] = field(default_factory=dict)
    batched: dict[str, JudgeResult] = field(default_factory=dict)


def compute_gradient(
    candidate: Callable[..., Any], reference: Reference, nondeterminism: float = 0.0, batched: bool = False
) -> ComputedGradient:
    """The gradient at the point of the reference.

    Args:
        candidate: gives the gradient, called with the arguments of the reference.
        reference: the loss at the point where the gradient is judged.
        nondeterminism: the relative norm of the difference between two calls that is allowed.
        batched: whether it is also called under `jax.vmap`.

    Raises:
        FbpError: the gradient function cannot be called with the arguments.
    """
    with jax.enable_x64(reference.x64):
        gradient = call_checked("the gradient function", candidate, reference.args)
        structure = check_structure(gradient, reference.wanted)
        again = leaves_like(call_checked("the gradient function", candidate, reference.args), reference.wanted)
        computed = ComputedGradient(structure, repeats=_compare_calls(structure, again, nondeterminism))
        if batched:
            computed = replace(computed, batched=_compare_batched(candidate, reference, structure))
    return _compute_in_float64(candidate, reference, computed)


def _compare_calls(structure: Structure, again: dict[str, Any], allowed: float) -> dict[str, JudgeResult]:
    """What a second call with the same arguments says of each leaf; nothing where the bits are the same."""
    said = {}
    for path, leaf in structure.leaves.items():
        first, second = np.asarray(leaf), np.asarray(again.get(path))
        if first.shape == second.shape and first.tobytes() == second.tobytes():
            continue
        off = difference(path, second, first) if first.shape == second.shape else None
        error = off.relative_error if off and off.finite and off.finite_ref else float("inf")
        text = f"two calls with the same arguments differ by {error:.1e} of the norm"
        if error <= max(allowed, floor_of(first.dtype)):
            said[path] = JudgeResult("repetition", "PASS", f"{text}, which is allowed")
        else:
            said[path] = JudgeResult(
                "repetition", "FAIL", f"{text}: draw from a key that is an argument, keep no state"
            )
    return said


def _compare_batched(
    candidate: Callable[..., Any], reference: Reference, structure: Structure
) -> dict[str, JudgeResult]:
    """Whether the gradient function under `jax.vmap`, for two sets of arguments, gives what it gives for each alone."""
    arrays = on_host(reference.args)
    members = (arrays, perturb(arrays, reference.seed))
    stack = lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves])
    try:
        together = leaves_like(jax.vmap(candidate)(*jax.tree.map(stack, *members)), reference.wanted)
    except Exception as error:
        return dict.fromkeys(structure.leaves, JudgeResult("batched", "FAIL", describe_exception(error)))
    alone = [leaves_like(candidate(*jax.tree.map(jnp.asarray, args)), reference.wanted) for args in members]
    said = {}
    for path, leaf in structure.leaves.items():
        g = np.stack([np.asarray(each[path]) for each in alone])
        off = difference(path, together[path], g)
        right = off.relative_error <= BOUND * epsilon(jnp.result_type(leaf)) * max(1.0, g.size**0.5 / 8)
        reason = (
            "" if right else f"under jax.vmap it differs by {off.relative_error:.1e} from what each call gives alone"
        )
        said[path] = JudgeResult("batched", "PASS" if right else "FAIL", reason)
    return said


def _compute_in_float64(
    candidate: Callable[..., Any], reference: Reference, alone: ComputedGradient
) -> ComputedGradient:
    """The gradient, also in float64 arithmetic where its function can be evaluated so."""
    if reference.autodiff is None or reference.float64 is None or reference.caveat:
        return alone
    found = _choose_float64(candidate, reference)
    if found is None:
        return alone
    in_float64, exact, is_traced = found
    args64, paths = on_host(reference.args64), alone.structure.leaves
    run = (
        (lambda args: call(in_float64, args))
        if is_traced
        else (lambda args: in_float64(*jax.tree.map(jnp.asarray, args)))
    )
    nudged = jax.tree.map(lambda x: x * (1 + _PROBE) if is_inexact(x) else x, args64)
    near = [perturb(args64, reference.seed + i) for i in range(SHIFTS)]
    with jax.enable_x64(True):
        try:
            points = (args64, *near) if is_traced else (args64, *near, nudged)
            here, *around = (leaves_like(run(args), reference.wanted) for args in points)
        except Exception:
            # A kernel for float32 alone may refuse float64 with any exception.
            return alone
    usable = (
        [
            path
            for path in paths
            if is_inexact(here.get(path))
            and epsilon(here[path].dtype) == epsilon(np.float64)
            and here[path].shape == reference.inputs[path].shape
        ]
        if all(here.get(p) is not None for p in paths)
        else []
    )
    here, *around = ({path: as_real(x[path]) for path in usable} for x in (here, *around))
    if not is_traced and not _follows(here, around.pop(), exact.here, reference.evaluate64(nudged)[1]):
        return alone
    jitter = {path: measure_jitter(path, here, around, exact) for path in usable}
    return replace(alone, in_float64=here, jitter=jitter, exact=exact)


def _choose_float64(
    candidate: Callable[..., Any], reference: Reference
) -> tuple[Callable[..., Any], Gradients, bool] | None:
    """A gradient function in float64, what it is compared with, and whether it is traced; None if there is no way."""
    assert reference.autodiff is not None
    assert reference.float64 is not None
    natural, exact = reference.float64.lifted_from is None, reference.autodiff.exact
    arrays = on_host(reference.args)
    with jax.enable_x64(reference.x64):
        try:
            own = programs.trace(candidate, arrays)
        except Exception:
            # Written with NumPy, or deciding on values: it can be called, and not be traced.
            return (candidate, exact, False) if natural else None
    wide = trace_wide(candidate, reference.args64)
    same = wide is not None and programs.is_same_program(own, wide)
    has_narrow = wide is None or any(epsilon(d) > epsilon(np.float64) for d in programs.find_dtypes(wide.jaxpr))
    if natural and same and not has_narrow:
        return candidate, exact, True
    kept = frozenset(str(d) for d in programs.find_dtypes(own.jaxpr) if epsilon(d) > reference.coarsest)
    way, lifted = (reference.float64, exact) if same and reference.float64.wide and not natural else (None, None)
    if way is None:
        way, lifted = reference.lifted or (None, None)
    if way is not None and way.lifted_from is not None and lifted is not None:
        try:
            with jax.enable_x64(way.wide):
                function = Lifted.at(candidate, way.lifted_from, kept, way.wide)
            with jax.enable_x64(True):
                jax.eval_shape(function, *reference.args64)
            return function, lifted, True
        except Exception:
            # Not every operation has a float64 form.
            pass
    return (candidate, exact, False) if natural else None


def _follows(here: Leaves, there: Leaves, exact: Leaves, exact_there: Leaves) -> bool:
    """Whether a gradient moves with its inputs as autodiff does where they move by less than float32 sees."""
    ratios = [
        _relative_change(here[path], there[path]) / expected
        for path in here
        if norm(here[path]) > 0 and (expected := _relative_change(exact[path], exact_there[path])) > 0
    ]
    # Inside a narrower dtype the change is lost in rounding, or is a whole rounding; jitter may be more as well.
    return not ratios or 0.05 < float(np.median(ratios)) < 20


def measure_jitter(path: str, here: Leaves, around: list[Leaves], exact: Gradients) -> float:
    """How erratically a leaf follows the exact gradient where inputs are perturbed: `Allowance.measure`.

    Args:
        path: the leaf's path.
        here: a gradient in float64.
        around: the same at the perturbed inputs.
        exact: autodiff's gradients in float64, at these inputs and perhaps more.
    """
    erratic = []
    for there, shift in zip(around, exact.shifts[: len(around)], strict=True):
        size, part = shift[path]
        off = norm_of(
            lambda g, g_here, of_shift, size=size: g - g_here - size * of_shift, there[path], here[path], part
        )
        erratic.append(off)
    return max((off for off in erratic if np.isfinite(off)), default=0.0)


def _relative_change(a: np.ndarray, b: np.ndarray) -> float:
    return distance(a, b) / size if (size := norm(a)) else 0.0
