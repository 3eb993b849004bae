"""What the judges say about each leaf of a gradient: autodiff, finite differences and the adjoint identity."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fbp.errors import describe_exception
from fbp.verify import slopes
from fbp.verify.hints import hint
from fbp.verify.measures import difference
from fbp.verify.opinion import DIRECTIONAL, ZERO, Opinion
from fbp.verify.reference import Argnums, Leaves, NoDerivative, Reference, called, chosen, reference
from fbp.verify.result import LeafVerdict
from fbp.verify.rounding import TOLERANCE, Allowance, distance, moved, norm, on_host
from fbp.verify.structure import Structure, by_path, is_floating, structure

_PROBE = 1e-12
"""How far inputs move to see whether a function computes in float64: too little for float32 to follow."""
_JITTERED = 2
"""At how many moved inputs a gradient function is called to see its own rounding."""


def judge(
    candidate: Callable[..., Any],
    loss: Callable[..., Any],
    args: tuple[Any, ...],
    argnums: Argnums = 0,
    directions: int = 2,
    seed: int = 0,
) -> tuple[LeafVerdict, ...]:
    """The leaves of a gradient, each with what the judges say.

    Args:
        candidate: gives the gradient, called as candidate(*args).
        loss: gives a scalar, called as loss(*args).
        args: pytrees of arrays.
        argnums: which of them is differentiated.
        directions: how many random directions in each leaf.
        seed: of all randomness.

    Raises:
        FbpError: a function cannot be called with these arguments, or the loss is not a scalar.
    """
    return judge_against(point(loss, args, argnums, seed), candidate, args, directions, seed)


def point(loss: Callable[..., Any], args: tuple[Any, ...], argnums: Argnums = 0, seed: int = 0) -> Reference:
    """What `judge` compares with, which several candidates at one point may share.

    Args:
        loss: gives a scalar, called as loss(*args).
        args: pytrees of arrays.
        argnums: which of them is differentiated.
        seed: of the movements by which rounding is measured.
    """
    with _precision_of(args):
        return reference(loss, on_host(args), argnums, seed)


def judge_against(
    of: Reference,
    candidate: Callable[..., Any],
    args: tuple[Any, ...],
    directions: int = 2,
    seed: int = 0,
    only: Collection[str] | None = None,
) -> tuple[LeafVerdict, ...]:
    """`judge` with a reference that is already there.

    Args:
        of: what `point` gives for the same arguments.
        candidate: gives the gradient, called as candidate(*args).
        args: pytrees of arrays.
        directions: how many random directions in each leaf.
        seed: of the directions.
        only: the paths of the leaves to judge; None for all.
    """
    with _precision_of(args):
        arrays = on_host(args)
        found = structure(called("the gradient function", candidate, args), chosen(arrays, of.argnums))
    sharp, jitter = _in_float64(candidate, of, found)
    known = [
        _leaf(path, of, found, sharp, jitter, directions, seed) for path in of.like if only is None or path in only
    ]
    others = [path for path in found.problems if path not in of.like]
    return (*known, *(_unknown(path, found) for path in others))


def _precision_of(args: tuple[Any, ...]) -> Any:
    """Float64 where one of the arguments is; else as the user has it."""
    floating = (x for x in jax.tree.leaves(args) if hasattr(x, "dtype") and is_floating(x))
    wide = any(x.dtype == np.float64 for x in floating)
    return jax.enable_x64(wide or bool(jax.config.read("jax_enable_x64")))


def _unknown(path: str, found: Structure) -> LeafVerdict:
    return LeafVerdict(path, "", (), None, float("nan"), (Opinion("structure", "FAIL", found.problems[path]),))


def _leaf(
    path: str,
    of: Reference,
    found: Structure,
    sharp: Leaves,
    jitter: dict[str, float],
    directions: int,
    seed: int,
) -> LeafVerdict:
    like = of.like[path]
    opinions: list[Opinion] = []
    if path in found.problems:
        opinions.append(Opinion("structure", "FAIL", found.problems[path]))
    if path not in found.leaves:
        return LeafVerdict(path, str(like.dtype), like.shape, None, float("nan"), tuple(opinions))
    g = np.asarray(found.leaves[path], np.float64)
    best = sharp.get(path, g)
    if of.own is None or of.exact is None:
        exact, explained = None, TOLERANCE[str(like.dtype)] * norm(g)
        explained_best = explained
        opinions.append(Opinion("autodiff", "INCONCLUSIVE", of.silent))
    else:
        exact = of.exact.here[path]
        own = of.own.allowance(str(like.dtype), path, of.exact)
        in_float64 = of.exact.allowance("float64", path, of.exact) if of.has_float64 else None
        if in_float64 is not None and path in jitter:
            in_float64 = in_float64.with_jitter(jitter[path])
            own = in_float64 if own.dtype == "float64" else own
        explained = own.explained
        explained_best = in_float64.explained if in_float64 is not None and path in sharp else explained
        against_autodiff = difference(path, g, of.own.here[path]).relative_error
        zero_beside = of.total if in_float64 is not None and in_float64.is_zero(exact, of.total) else None
        opinions.append(by_autodiff(g, exact, own, against_autodiff, sharp.get(path), in_float64, zero_beside))
        if zero_beside is not None:
            opinions += [Opinion(name, "INCONCLUSIVE", ZERO) for name in DIRECTIONAL]
    if not any(opinion.reason == ZERO for opinion in opinions):
        asked = _along_directions(path, of, best, exact, explained_best, directions, seed)
        opinions += asked
        kink = next((opinion.reason for opinion in asked if opinion.reason.startswith(slopes.KINK)), "")
        if kink and all(opinion.verdict != "FAIL" for opinion in asked if opinion.judge == "differences"):
            # Where the loss has no derivative, autodiff's choice of one is no better than another between the sides.
            opinions = [
                Opinion(o.judge, "INCONCLUSIVE", kink) if o.verdict == "FAIL" and o.judge != "structure" else o
                for o in opinions
            ]
    text = ""
    if exact is not None and any(opinion.verdict == "FAIL" for opinion in opinions):
        text = hint(path, best, of.exact.here if of.exact else {}, explained_best, of.sizes)
    size = norm(g if exact is None else exact)
    return LeafVerdict(
        path,
        str(like.dtype),
        like.shape,
        None if exact is None else difference(path, g, exact),
        explained / size if size else 0.0,
        tuple(opinions),
        text,
        found.notes.get(path, ""),
    )


def by_autodiff(
    g: np.ndarray,
    exact: np.ndarray,
    own: Allowance,
    against_autodiff: float,
    sharp: np.ndarray | None,
    in_float64: Allowance | None,
    zero_beside: float | None,
) -> Opinion:
    """Judge 1: autodiff in float64, with what rounding explains; in float64 arithmetic too, where there is such a path.

    Args:
        g: the gradient, computed in its own dtype.
        exact: `jax.grad` in float64 (in its own dtype where the loss has no float64 path).
        own: what rounding explains in its own dtype.
        against_autodiff: the relative error against `jax.grad` in its own dtype.
        sharp: the gradient computed in float64; None where its function does not.
        in_float64: what rounding explains in float64; None where the loss has no float64 path.
        zero_beside: where the exact gradient is zero up to rounding, the norm of the whole gradient; else None.
    """
    mine = own.judge(difference("", g, exact), against_autodiff, zero_beside)
    if in_float64 is None:
        return Opinion(mine.judge, mine.verdict, mine.reason or "no float64 path: compared with autodiff in its dtype")
    if sharp is None or own.dtype == "float64":
        return mine
    found = difference("", sharp, exact)
    sharply = in_float64.judge(found, found.relative_error, zero_beside)
    if sharply.verdict == "FAIL":
        return Opinion("autodiff", "FAIL", f"off in float64 arithmetic too, by {found.relative_error:.1e}")
    if mine.verdict == "FAIL" and sharply.verdict == "PASS":
        return Opinion("autodiff", "FAIL", f"right in float64 and wrong in {own.dtype}: a sum or product in less?")
    if mine.verdict == "INCONCLUSIVE" and sharply.verdict == "PASS":
        return Opinion("autodiff", "PASS", f"{mine.reason}; judged in float64")
    return mine


def _in_float64(candidate: Callable[..., Any], of: Reference, found: Structure) -> tuple[Leaves, dict[str, float]]:
    """The gradient in float64 arithmetic and its jitter, where its function computes so when it is given float64."""
    if not of.has_float64 or of.exact is None:
        return {}, {}
    exact = of.exact.here
    with jax.enable_x64(True):
        nudged = jax.tree.map(lambda x: x * (1 + _PROBE) if is_floating(x) else x, of.args64)
        near = [moved(of.args64, of.seed + i) for i in range(_JITTERED)]
        try:
            here, there, *around = (
                by_path(candidate(*jax.tree.map(jnp.asarray, args))) for args in (of.args64, nudged, *near)
            )
        except Exception:
            # A kernel that takes float32 alone says so in whatever way it likes.
            return {}, {}
    usable = [
        path
        for path in found.leaves
        if all(getattr(x.get(path), "dtype", None) == np.float64 for x in (here, there))
        and here[path].shape == of.like[path].shape
    ]
    here, there, *around = ({path: np.asarray(x[path]) for path in usable} for x in (here, there, *around))
    theirs = of.gradient64(nudged)
    ratios = [
        _movement(here[path], there[path]) / expected
        for path in usable
        if norm(here[path]) > 0 and (expected := _movement(exact[path], theirs[path])) > 0
    ]
    # Inside a narrower dtype the movement is lost in rounding, or is a whole rounding; jitter may be more as well.
    jitter = {
        path: max(
            distance(x[path] - here[path], m[path] - exact[path])
            for x, m in zip(around, of.exact.moved[:_JITTERED], strict=True)
        )
        for path in usable
    }
    return (here, jitter) if not ratios or 0.05 < float(np.median(ratios)) < 20 else ({}, {})


def _movement(a: np.ndarray, b: np.ndarray) -> float:
    return distance(a, b) / size if (size := norm(a)) else 0.0


def _along_directions(
    path: str,
    of: Reference,
    g: np.ndarray,
    exact: np.ndarray | None,
    explained: float,
    directions: int,
    seed: int,
) -> list[Opinion]:
    """Judges 2 and 3, along random signs, and along the difference from autodiff where there is one."""
    if not of.has_float64:
        return [Opinion(name, "INCONCLUSIVE", "no float64 path") for name in DIRECTIONAL]
    if not np.isfinite(g).all():
        return []
    size, n = of.size(path), max(norm(g), 0.0 if exact is None else norm(exact))
    if n == 0:
        return [Opinion(name, "INCONCLUSIVE", "zero") for name in DIRECTIONAL]
    asked = [
        (slopes.sign_direction(g.shape, size, seed + i), n * size, slopes.SIGMAS * explained / n)
        for i in range(directions)
    ]
    if exact is not None and distance(g, exact) > max(explained, TOLERANCE["float64"] * n):
        v = slopes.along(g - exact, size)
        asked += [] if v is None else [(v, n * norm(v), explained / n)]
    found: dict[str, list[Opinion]] = {name: [] for name in DIRECTIONAL}
    for v, scale, tolerance in asked:
        inner = slopes.inner_product(g, v)
        for name, slope in zip(DIRECTIONAL, (of.slope_by_differences, of.slope_forward), strict=True):
            try:
                found[name].append(slopes.judge_slope(name, inner, slope(path, v), scale, tolerance))
            except NoDerivative as error:
                text = f"the loss has no forward-mode derivative: {describe_exception(error)}"
                found[name].append(Opinion(name, "INCONCLUSIVE", text))
    return [_most_telling(opinions) for opinions in found.values() if opinions]


def _most_telling(opinions: list[Opinion]) -> Opinion:
    # A kink in one direction says more than a smooth way through another.
    for tells in (
        lambda opinion: opinion.verdict == "FAIL",
        lambda opinion: opinion.reason.startswith(slopes.KINK),
        lambda opinion: opinion.verdict == "PASS",
    ):
        for opinion in opinions:
            if tells(opinion):
                return opinion
    return opinions[0]
