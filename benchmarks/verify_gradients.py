"""The gradient checker judged: right gradients that it must pass, wrong ones that it must catch.

    python benchmarks/verify_gradients.py --out benchmarks/results

What is judged stands in verify_grid.py. `jax.test_util.check_grads` and `chex.assert_numerical_grads` look at the same
gradients, with their default tolerances.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial, reduce
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads
from results import Record, Row, start
from verify_grid import DTYPES, FAULTS, LOSSES, SCALES, Architecture, architectures, arguments

from fbp.precision import cast
from fbp.terminal import show_progress
from fbp.verify.equations import compute_layer_inputs, judge_equations
from fbp.verify.faults import make_mutants
from fbp.verify.judges import judge
from fbp.verify.networks import ByHand, NetworkLoss
from fbp.verify.reference import compute_reference
from fbp.verify.result import worst
from fbp.verify.structure import by_path
from fbp.verify.tolerance import difference

ARCHITECTURES = 30
RULES_OF = 3
"""Of how many small architectures every rule is mutated."""
EFFECTIVE = 16
"""By how many epsilons of its dtype a fault changes a leaf, at least, where it changes less than this in float64."""
EFFECTIVE_IN_FLOAT64 = 1e-9

FAULTY_SCALES = (0.03, 1.0, 2.0)

Candidate = Callable[..., Any]


@dataclass(frozen=True)
class WithFault:
    """A gradient function with a fault in one leaf."""

    right: Candidate
    path: str
    fault: str
    seed: int

    def __call__(self, *args: Any) -> Any:
        def leaf(place: Any, g: Any) -> Any:
            if jax.tree_util.keystr(place) != self.path:
                return g
            return jnp.asarray(FAULTS[self.fault](np.asarray(g), np.random.default_rng(self.seed)))

        return jax.tree.map_with_path(leaf, self.right(*args))


def accept(function: NetworkLoss, args: tuple[Any, ...], gradient: Any) -> list[str]:
    """The names of the other checkers that accept a gradient as that of the loss."""
    leaves, treedef = jax.tree.flatten(args[0])
    value = lambda *leaves: _compile_value(function)(treedef.unflatten(leaves), *args[1:])
    given = jax.tree.leaves(gradient)
    loss = jax.custom_vjp(value)
    loss.defvjp(lambda *leaves: (value(*leaves), None), lambda _, d: tuple((d * g).astype(g.dtype) for g in given))
    return [name for name, check in PEERS.items() if _passes(partial(check, loss, tuple(leaves)))]


PEERS: dict[str, Callable[..., None]] = {
    "check_grads": partial(check_grads, order=1, modes=("rev",)),
    "chex": partial(chex.assert_numerical_grads, order=1, modes=("rev",)),
}


@cache
def _compile_value(loss: NetworkLoss) -> Callable[..., Any]:
    return jax.jit(loss)


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except AssertionError:
        return False
    return True


def right_row(architecture: Architecture, dtype: str) -> Row:
    """The hand-written gradient at every scale, and the equations at the scale of He."""
    net, loss = architecture.network(), LOSSES[architecture.loss]
    function, right = NetworkLoss(net, loss), ByHand(net, loss)
    verdicts, accepted, doubts = Counter[str](), Counter[str](), []
    for seed, scale in enumerate(SCALES):
        args = arguments(architecture, dtype, scale, seed)
        results = [(leaf.path, leaf) for leaf in judge(compute_reference(function, args), right)]
        if seed == SCALES.index(1.0):
            equations = judge_equations(net, loss, args[0], compute_layer_inputs(net, loss, *args))
            results += [(f"{each.layer} {each.quantity}", each.leaf) for each in equations if each.verdict == "FAIL"]
        verdicts[worst(leaf.verdict for _, leaf in results)] += 1
        doubts += [[scale, name, leaf.verdict, leaf.reason] for name, leaf in results if leaf.verdict != "PASS"]
        accepted.update(accept(function, args, right(*args)))
    return {"verdicts": dict(verdicts), "accepted_by": dict(accepted), "count": len(SCALES), "doubts": doubts}


Wrong = tuple[str, Candidate, tuple[str, ...] | None]
"""What is wrong, the gradient function, and the paths of the leaves that may be; None for all."""


def wrong_leaves(architecture: Architecture, right: ByHand, paths: list[str]) -> Iterator[Wrong]:
    """Every fault of `verify_grid.FAULTS`, each in a leaf drawn at random."""
    draw = np.random.default_rng(abs(hash((architecture.width, architecture.depth))) % 2**32)
    for i, fault in enumerate(FAULTS):
        path = paths[int(draw.integers(len(paths)))]
        yield f"{fault} in {path}", WithFault(right, path, fault, i), (path,)


def wrong_rules(architecture: Architecture, right: ByHand, paths: list[str]) -> Iterator[Wrong]:
    """Every fault of `fbp.verify.faults` at every place of the network."""
    for mutant in make_mutants(right.net, right.loss):
        yield f"{mutant.fault} in {mutant.place}", ByHand(mutant.net, mutant.loss), None


def wrong_row(
    inject: Callable[..., Iterator[Wrong]], scales: dict[float, int], architecture: Architecture, dtype: str
) -> Row:
    """Wrong gradients at some scales, each with its seed."""
    net, loss = architecture.network(), LOSSES[architecture.loss]
    function, right = NetworkLoss(net, loss), ByHand(net, loss)
    count, caught, caught_by, escapes = 0, 0, dict.fromkeys(PEERS, 0), []
    for scale, seed in scales.items():
        args = arguments(architecture, dtype, scale, seed)
        reference = compute_reference(function, args)
        paths = [leaf.path for leaf in judge(reference, right, directions=0) if not leaf.is_zero]
        for what, candidate, touched in inject(architecture, right, paths):
            if not effective(candidate, right, args, dtype, touched or paths):
                continue
            leaves = judge(reference, candidate, only=touched)
            count += 1
            for name in PEERS.keys() - accept(function, args, candidate(*args)):
                caught_by[name] += 1
            if any(leaf.verdict == "FAIL" for leaf in leaves):
                caught += 1
            else:
                off = [leaf.difference.relative_error for leaf in leaves if leaf.difference is not None]
                verdict = worst(leaf.verdict for leaf in leaves)
                escapes.append([f"{what}, scale {scale}", max(off, default=None), verdict])
    return {"count": count, "caught": caught, "caught_by": caught_by, "escapes": escapes}


def effective(candidate: Candidate, right: Candidate, args: Any, dtype: str, paths: Sequence[str]) -> bool:
    """Whether a fault changes one of the leaves by more than its dtype rounds, or changes it in float64."""

    def change(args: Any) -> float:
        wrong, true = by_path(candidate(*args)), by_path(right(*args))
        errors = [difference(path, wrong[path], true[path]) for path in paths]
        return max((e.relative_error if e.finite else float("inf")) for e in errors) if errors else 0.0

    if change(args) > EFFECTIVE * float(jnp.finfo(dtype).eps):
        return True
    with jax.enable_x64(True):
        return change(cast(args, jnp.float64)) > EFFECTIVE_IN_FLOAT64


MEASURES: dict[str, Callable[[Architecture, str], Row]] = {
    "right": right_row,
    "wrong": partial(wrong_row, wrong_leaves, {scale: SCALES.index(scale) for scale in FAULTY_SCALES}),
    "rules": partial(wrong_row, wrong_rules, {1.0: 2}),
}


def plan(quick: bool) -> dict[str, list[tuple[Architecture, str]]]:
    """What is judged: for each table, networks and dtypes."""
    every = architectures(4 if quick else ARCHITECTURES)
    small = [a for a in every if 2 <= a.depth <= 4 and 3 <= a.width <= 64][: 1 if quick else RULES_OF]
    return {
        "right": [(a, dtype) for a in every for dtype in DTYPES],
        "wrong": [(a, dtype) for a in every for dtype in DTYPES],
        "rules": [(a, dtype) for a in small for dtype in ("float32", "bfloat16")],
    }


def markdown(rows: list[Row]) -> str:
    """The tables."""
    right, wrong = ([row for row in rows if (row["table"] == "right") == is_right] for is_right in (True, False))
    verdicts = ("PASS", "INCONCLUSIVE", "FAIL")
    passing = [
        (
            dtype,
            n,
            *(_total(some, "verdicts", v) for v in verdicts),
            *(n - _total(some, "accepted_by", p) for p in PEERS),
        )
        for dtype in (*DTYPES, "all")
        if (n := _total(some := [row for row in right if dtype in ("all", row["case"]["dtype"])], "count"))
    ]
    groups = [(table, dtype) for table in ("wrong", "rules") for dtype in DTYPES]
    parts = {
        (kind, dtype): [row for row in wrong if (row["table"], row["case"]["dtype"]) == (table, dtype)]
        for (table, dtype) in groups
        for kind in ["in one leaf" if table == "wrong" else "in a rule"]
    }
    catching = [
        (*group, n, caught, n - caught, *(_total(some, "caught_by", p) for p in PEERS))
        for group, some in {**parts, ("all", ""): wrong}.items()
        if (n := _total(some, "count"))
        for caught in [_total(some, "caught")]
    ]
    return "\n\n".join(
        [
            "### Right gradients",
            _table(
                "dtype | gradients | PASS | INCONCLUSIVE | false FAIL | rejected by check_grads | by chex", 1, passing
            ),
            "### Wrong gradients",
            _table("faults | dtype | effective | caught | escaped | caught by check_grads | by chex", 2, catching),
            _list("Right gradients that did not pass, leaf by leaf", right, "doubts"),
            _list("Escapes", wrong, "escapes"),
        ]
    )


def _total(rows: list[Row], *keys: str) -> int:
    return sum(reduce(lambda value, key: value.get(key, 0), keys, row) for row in rows)


def _table(headings: str, names: int, rows: list[tuple[Any, ...]]) -> str:
    columns = headings.count("|") + 1
    lines = [
        headings,
        " | ".join([":---"] * names + ["---:"] * (columns - names)),
        *(" | ".join(map(str, r)) for r in rows),
    ]
    return "\n".join(f"| {line} |" for line in lines)


def _list(title: str, rows: list[Row], key: str) -> str:
    entries = [
        f"- {row['case']['network']}, {row['case']['dtype']}: {', '.join(map(_format, entry))}"
        for row in rows
        for entry in row[key]
    ]
    return "\n".join([f"{title}: {len(entries)}.", *[""] * bool(entries), *entries])


def _format(x: Any) -> str:
    return f"{x:.2g}" if isinstance(x, float) else str(x)


def run(quick: bool, record: Record, progress: Callable[[str], None]) -> None:
    """Judge what the record does not have yet."""
    order = [(table, *case) for table, cases in plan(quick).items() for case in cases]
    # One network after the other, whatever the table, so that its programs are compiled once.
    first = {str(architecture): i for i, (_, architecture, _) in reversed(list(enumerate(order)))}
    order.sort(key=lambda each: first[str(each[1])])
    for i, (table, architecture, dtype) in enumerate(order):
        if i and str(order[i - 1][1]) != str(architecture):
            jax.clear_caches()
            _compile_value.cache_clear()
        case = {"network": str(architecture), "dtype": dtype, **dataclasses.asdict(architecture)}
        if (table, case) in record:
            continue
        progress(f"{i + 1} of {len(order)}: {table}, {architecture}, {dtype}")
        begin = time.perf_counter()
        with jax.enable_x64(dtype == "float64"):
            row = MEASURES[table](architecture, dtype)
        record.add({"table": table, "case": case, **row, "seconds": time.perf_counter() - begin})


def main(*, out: Path | None = None, quick: bool = False, resume: bool = False) -> int:
    """Judge the gradient checker on right and wrong gradients.

    Args:
        out: folder for verify_gradients.json; tables of a README.md beside that folder are regenerated.
        quick: a subset of a few minutes.
        resume: continue the unfinished run in `out`.
    """
    record = Record("verify_gradients", markdown, out, quick, resume)
    with show_progress() as progress:
        return record.complete(lambda: run(quick, record, progress))


if __name__ == "__main__":
    start("verify_gradients", main)
