"""The gradient to judge: called twice, under `jax.vmap`, and in float64 where there is a way."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.errors import describe_exception
from fbp.verify import programs, traces
from fbp.verify.autodiff import Gradients, Leaves, Shift
from fbp.verify.evaluation import Move, call_checked, make_hashable, run_moved, see_in_float64, trace_wide
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
    is_double,
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
    candidate = make_hashable(candidate)
    with jax.enable_x64(reference.x64):
        # Containers of its own, for a function that changes what it is given.
        fresh = lambda: jax.tree.map(lambda x: x, reference.args)
        compute = lambda: call_checked("the gradient function", candidate, fresh())
        structure = check_structure(compute(), reference.wanted)
        repeats = _compare_calls(structure, leaves_like(compute(), reference.wanted), nondeterminism)
        computed = ComputedGradient(structure, repeats=repeats)
        if batched:
            computed = replace(computed, batched=_compare_batched(candidate, reference, structure))
    return _compute_in_float64(candidate, reference, computed)


def _compare_calls(structure: Structure, again: dict[str, Any], allowed: float) -> dict[str, JudgeResult]:
    """What a second call with the same arguments says of each leaf; nothing where the bits are the same."""
    said = {}
    for path, leaf in structure.leaves.items():
        first, second = np.asarray(leaf), np.asarray(again.get(path))
        same = (first.dtype, first.shape) == (second.dtype, second.shape)
        if same and np.array_equal(np.ravel(first).view(np.uint8), np.ravel(second).view(np.uint8)):
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
    function, exact, is_traced = found
    arrays = on_host(reference.args)
    compute = lambda move: leaves_like(run_moved(function, arrays, move, is_traced), reference.wanted)
    with jax.enable_x64(True):
        try:
            given = compute(Move.all_up(arrays, 0.0))
            usable = [path for path in alone.structure.leaves if _is_wide(given.get(path), reference.inputs[path])]
            here = {path: as_real(given[path]) for path in usable}
            if not is_traced and not _follows(here, compute, reference):
                return alone
            jitter = dict.fromkeys(usable, 0.0)
            for i in range(SHIFTS):
                there = compute(Move.draw(arrays, reference.seed + i))
                for path in usable:
                    erratic = measure_jitter(here[path], as_real(there[path]), exact.shifts[i][path])
                    jitter[path] = max(jitter[path], erratic)
        except Exception:
            # A kernel for float32 alone may refuse float64 with any exception.
            return alone
    return replace(alone, in_float64=here, jitter=jitter, exact=exact)


def _is_wide(leaf: Any, like: Any) -> bool:
    if leaf is None or not is_inexact(leaf):
        return False
    return is_double(jnp.result_type(leaf)) and np.shape(leaf) == like.shape


def _choose_float64(
    candidate: Callable[..., Any], reference: Reference
) -> tuple[Callable[..., Any], Gradients, bool] | None:
    """A gradient function in float64, what it is compared with, and whether it is traced; None if there is no way."""
    assert reference.autodiff is not None
    assert reference.float64 is not None
    natural, exact = reference.float64.lifted_from is None, reference.autodiff.exact
    arrays = on_host(reference.args)
    args64 = see_in_float64(arrays)
    with jax.enable_x64(reference.x64):
        try:
            own = programs.trace(candidate, arrays)
        except Exception:
            # Written with NumPy, or deciding on values: it can be called, and not be traced.
            return (candidate, exact, False) if natural else None
    wide = trace_wide(candidate, args64)
    is_wide = wide is not None and all(map(is_double, programs.find_dtypes(wide.jaxpr)))
    if natural and wide is not None and is_wide and traces.is_same_program(own, wide):
        loss = trace_wide(reference.loss, args64) if reference.is_traced else None
        if loss is None or traces.find_rounded_constants(loss) != traces.find_rounded_constants(wide):
            # A constant in float32 in one of them, and in float64 in the other.
            exact = replace(exact, floor=max(exact.floor, traces.LITERALS * epsilon(np.float32)))
        return candidate, exact, True
    # Digits that the loss keeps and the gradient function throws away are a mistake of its own.
    kept = frozenset(str(d) for d in programs.find_dtypes(own.jaxpr) if epsilon(d) > reference.coarsest)
    for way, lifted in reference.ways_to_lift():
        try:
            function = way.of(candidate, kept=kept)
            with jax.enable_x64(True):
                jax.eval_shape(function, *args64)
            return function, lifted, True
        except Exception:
            # Not every operation has a float64 form.
            pass
    return (candidate, exact, False) if natural else None


def _follows(here: Leaves, compute: Callable[..., dict[str, Any]], reference: Reference) -> bool:
    """Whether a gradient moves with its inputs as autodiff does where they move by less than float32 sees."""
    assert reference.autodiff is not None
    exact = reference.autodiff.exact.here
    nudge = Move.all_up(on_host(reference.args), _PROBE)
    there, exact_there = compute(nudge), reference.evaluate64(nudge)[1]
    ratios = [
        _relative_change(g, as_real(there[path])) / expected
        for path, g in here.items()
        if norm(g) > 0 and (expected := _relative_change(exact[path], exact_there[path])) > 0
    ]
    # Inside a narrower dtype the change is lost in rounding, or is a whole rounding; jitter may be more as well.
    return not ratios or 0.05 < float(np.median(ratios)) < 20


def measure_jitter(here: np.ndarray, there: np.ndarray, shift: Shift) -> float:
    """How erratically a leaf follows the exact gradient where inputs are perturbed: `Allowance.measure`.

    Args:
        here: a gradient in float64.
        there: the same at perturbed inputs.
        shift: by how much the exact gradient moves.

    Returns:
        The norm; 0 where the inputs leave the domain.
    """
    size, part = shift
    off = norm_of(lambda g, g_here, of_shift: g - g_here - size * of_shift, there, here, part)
    return off if np.isfinite(off) else 0.0


def _relative_change(a: np.ndarray, b: np.ndarray) -> float:
    return distance(a, b) / size if (size := norm(a)) else 0.0
