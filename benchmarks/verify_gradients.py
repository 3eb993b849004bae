"""The gradient checker judged: right gradients that it must pass, wrong ones that it must catch.

    python benchmarks/verify_gradients.py --out benchmarks/results

What is judged stands in verify_grid.py. `jax.test_util.check_grads` and `chex.assert_numerical_grads` look at the same
gradients, with their default tolerances.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from checkers import CHECKERS, ask_checkers
from results import Row, Task, start
from sections import group, section
from verify_grid import DTYPES, FAULTS, LOSSES, SCALES, Architecture, architectures, arguments

from fbp.verify.equations import compute_layer_inputs, judge_equations
from fbp.verify.faults import make_mutants
from fbp.verify.judges import Request, judge
from fbp.verify.networks import ByHand, NetworkLoss
from fbp.verify.reference import Reference, compute_reference
from fbp.verify.result import worst
from fbp.verify.structure import by_path
from fbp.verify.tolerance import difference

ARCHITECTURES = 30
RULES_OF = 3
"""Of how many small architectures every rule is mutated."""
EFFECTIVE = 10
"""By how many times autodiff's own error in the dtype a fault changes a leaf, at least."""
EFFECTIVE_IN_FLOAT64 = 1e-12
"""The same in float64, where autodiff has nothing to be compared with."""

FAULTY_SCALES = (0.03, 1.0, 2.0)

Candidate = Callable[..., Any]


def put_fault(right: Candidate, path: str, fault: str, seed: int, *args: Any) -> Any:
    """The right gradient with a fault in one leaf."""

    def leaf(place: Any, g: Any) -> Any:
        if jax.tree_util.keystr(place) != path:
            return g
        return jnp.asarray(FAULTS[fault](np.asarray(g), np.random.default_rng(seed)))

    return jax.tree.map_with_path(leaf, right(*args))


def accept(function: NetworkLoss, args: tuple[Any, ...], gradient: Any) -> list[str]:
    """The names of the other checkers that accept a gradient as that of the loss."""
    leaves, treedef = jax.tree.flatten(args[0])
    value = lambda *leaves: jax.jit(function)(treedef.unflatten(leaves), *args[1:])
    answers = ask_checkers(value, leaves, jax.tree.leaves(gradient))
    return [name for name, answer in answers.items() if answer == "accepts"]


@lru_cache(maxsize=1)
def prepare(architecture: Architecture) -> tuple[NetworkLoss, ByHand]:
    """The loss of a network and its hand-written gradient; compiled programs of the network before are dropped."""
    jax.clear_caches()
    net, loss = architecture.network(), LOSSES[architecture.loss]
    return NetworkLoss(net, loss), ByHand(net, loss)


def right_row(architecture: Architecture, dtype: str) -> Row:
    """The hand-written gradient at every scale, and the equations at the scale of He."""
    function, right = prepare(architecture)
    verdicts, accepted, doubts = Counter[str](), Counter[str](), []
    for seed, scale in enumerate(SCALES):
        args = arguments(architecture, dtype, scale, seed)
        results = [(leaf.path, leaf) for leaf in judge(compute_reference(function, args), right)]
        if seed == SCALES.index(1.0):
            layer_inputs = compute_layer_inputs(right.net, right.loss, *args)
            equations = judge_equations(right.net, right.loss, args[0], layer_inputs)
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
        yield f"{fault} in {path}", partial(put_fault, right, path, fault, i), (path,)


def wrong_rules(architecture: Architecture, right: ByHand, paths: list[str]) -> Iterator[Wrong]:
    """Every fault of `fbp.verify.faults` at every place of the network."""
    for mutant in make_mutants(right.net, right.loss):
        yield f"{mutant.fault} in {mutant.place}", ByHand(mutant.net, mutant.loss), None


def wrong_row(
    inject: Callable[..., Iterator[Wrong]], scales: dict[float, int], architecture: Architecture, dtype: str
) -> Row:
    """Wrong gradients at some scales, each with its seed."""
    function, right = prepare(architecture)
    count, caught, caught_by, escapes = 0, 0, dict.fromkeys(CHECKERS, 0), []
    for scale, seed in scales.items():
        args = arguments(architecture, dtype, scale, seed)
        reference = compute_reference(function, args)
        paths = [leaf.path for leaf in judge(reference, right, Request(directions=None)) if not leaf.is_zero]
        for what, candidate, touched in inject(architecture, right, paths):
            if not effective(candidate, right, reference, touched or paths):
                continue
            leaves = judge(reference, candidate, Request(only=touched))
            count += 1
            for name in CHECKERS.keys() - accept(function, args, candidate(*args)):
                caught_by[name] += 1
            if any(leaf.verdict == "FAIL" for leaf in leaves):
                caught += 1
            else:
                off = [leaf.difference.relative_error for leaf in leaves if leaf.difference is not None]
                verdict = worst(leaf.verdict for leaf in leaves)
                escapes.append([f"{what}, scale {scale}", max(off, default=None), verdict])
    return {"count": count, "caught": caught, "caught_by": caught_by, "escapes": escapes}


def effective(candidate: Candidate, right: Candidate, reference: Reference, paths: Sequence[str]) -> bool:
    """Whether a fault changes one of the leaves by more than ten times what autodiff is off there."""
    assert reference.autodiff is not None
    wrong, true = by_path(candidate(*reference.args)), by_path(right(*reference.args))
    for path in paths:
        change = difference(path, wrong[path], true[path])
        own = difference(path, reference.autodiff.own.here[path], reference.autodiff.exact.here[path]).relative_error
        eps = float(jnp.finfo(wrong[path].dtype).eps)
        if change.relative_error > max(EFFECTIVE * max(own, eps), EFFECTIVE_IN_FLOAT64) or not change.finite:
            return True
    return False


KINDS = {"wrong": "in one leaf", "rules": "in a rule"}
MEASURES: dict[str, Callable[[Architecture, str], Row]] = {
    "right": right_row,
    "wrong": partial(wrong_row, wrong_leaves, {scale: SCALES.index(scale) for scale in FAULTY_SCALES}),
    "rules": partial(wrong_row, wrong_rules, {1.0: 2}),
}


def tasks(quick: bool) -> list[Task]:
    """What is judged, one network after the other, whatever the table, so that its programs are compiled once."""
    every = architectures(4 if quick else ARCHITECTURES)
    small = [a for a in every if 2 <= a.depth <= 4 and 3 <= a.width <= 64][: 1 if quick else RULES_OF]
    return [
        Task(
            table,
            {"network": str(architecture), "dtype": dtype, **dataclasses.asdict(architecture)},
            f"{table}, {architecture}, {dtype}",
            partial(measure, table, architecture, dtype),
        )
        for architecture in every
        for table, dtypes in (("right", DTYPES), ("wrong", DTYPES), ("rules", ("float32", "bfloat16")))
        if table != "rules" or architecture in small
        for dtype in dtypes
    ]


def measure(table: str, architecture: Architecture, dtype: str) -> Row:
    """One row, and how long it took."""
    begin = time.perf_counter()
    with jax.enable_x64(dtype == "float64"):
        row = MEASURES[table](architecture, dtype)
    return {**row, "seconds": time.perf_counter() - begin}


def markdown(rows: list[Row]) -> str:
    """The tables."""
    right = [row for row in rows if row["table"] == "right"]
    wrong = [row for row in rows if row["table"] != "right"]
    passing = {**group(right, lambda row: row["case"]["dtype"]), "all": right}
    catching = {**group(wrong, lambda row: (KINDS[row["table"]], row["case"]["dtype"])), ("all", ""): wrong}
    gradients = _total("count")
    passing_columns = {
        "dtype": lambda part: part[0],
        "gradients": gradients,
        "PASS": _total("verdicts", "PASS"),
        "INCONCLUSIVE": _total("verdicts", "INCONCLUSIVE"),
        "false FAIL": _total("verdicts", "FAIL"),
        "rejected by check_grads": lambda part: gradients(part) - _total("accepted_by", "check_grads")(part),
        "by chex": lambda part: gradients(part) - _total("accepted_by", "chex")(part),
    }
    catching_columns = {
        "faults": lambda part: part[0][0],
        "dtype": lambda part: part[0][1],
        "effective": gradients,
        "caught": _total("caught"),
        "escaped": lambda part: gradients(part) - _total("caught")(part),
        "caught by check_grads": _total("caught_by", "check_grads"),
        "by chex": _total("caught_by", "chex"),
    }
    parts = [
        section("Right gradients", passing_columns, passing.items()),
        section("Wrong gradients", catching_columns, catching.items(), texts=2),
        _list("Right gradients that did not pass, leaf by leaf", right, "doubts"),
        _list("Escapes", wrong, "escapes"),
    ]
    return "\n\n".join(parts)


Part = tuple[Any, list[Row]]


def _total(count: str, kind: str | None = None) -> Callable[[Part], int]:
    """The sum of a count, or of one kind in it, over the rows of a part of the table, a pair of its name and rows."""
    return lambda part: sum(row[count] if kind is None else row[count].get(kind, 0) for row in part[1])


def _list(title: str, rows: list[Row], key: str) -> str:
    entries = [
        f"- {row['case']['network']}, {row['case']['dtype']}: {', '.join(map(_format, entry))}"
        for row in rows
        for entry in row[key]
    ]
    return "\n".join([f"{title}: {len(entries)}.", *[""] * bool(entries), *entries])


def _format(x: Any) -> str:
    return f"{x:.2g}" if isinstance(x, float) else str(x)


if __name__ == "__main__":
    start("verify_gradients", tasks, markdown)
