"""The gradient checker judged: right gradients that it must pass, wrong ones that it must catch.

    python benchmarks/verify_gradients.py --out benchmarks/results

What is judged stands in verify_grid.py. `jax.test_util.check_grads` and `chex.assert_numerical_grads` look at the same
gradients, with their default tolerances.
"""

import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from fbp.verify.measures import difference
from fbp.verify.opinion import worst
from jax.test_util import check_grads
from results import Record, Row, start
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from verify_grid import DTYPES, FAULTS, LOSSES, SCALES, Architecture, architectures, arguments

from fbp.backprop import loss_value
from fbp.precision import cast
from fbp.verify.equations import equations, points
from fbp.verify.faults import mutants
from fbp.verify.judges import judge_against, point
from fbp.verify.networks import ByHand, NetworkLoss
from fbp.verify.structure import by_path

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
        def leaf(at: Any, g: Any) -> Any:
            if jax.tree_util.keystr(at) != self.path:
                return g
            return jnp.asarray(FAULTS[self.fault](np.asarray(g), np.random.default_rng(self.seed)))

        return jax.tree.map_with_path(leaf, self.right(*args))


class Peers:
    """The checkers beside: whether they accept a gradient as that of the loss."""

    def __init__(self, loss: NetworkLoss, args: tuple[Any, ...]):
        self.leaves, treedef = jax.tree.flatten(args[0])
        value = _value(loss.net, loss.loss)
        self.value = lambda *leaves: value(jax.tree.unflatten(treedef, leaves), *args[1:])

    def accept(self, gradient: Any) -> dict[str, bool]:
        """By name."""
        found = jax.tree.leaves(gradient)

        @jax.custom_vjp
        def loss(*leaves: Any) -> Any:
            return self.value(*leaves)

        loss.defvjp(
            lambda *leaves: (self.value(*leaves), None), lambda _, d: tuple((d * g).astype(g.dtype) for g in found)
        )
        checks = {
            "check_grads": lambda: check_grads(loss, tuple(self.leaves), order=1, modes=("rev",)),
            "chex": lambda: chex.assert_numerical_grads(loss, tuple(self.leaves), order=1, modes=("rev",)),
        }
        return {name: _passes(check) for name, check in checks.items()}


_VALUES: dict[Any, Any] = {}


def _value(net: Any, loss: Any) -> Any:
    if (net, loss) not in _VALUES:
        _VALUES[net, loss] = jax.jit(lambda *args: loss_value(net, loss, *args))
    return _VALUES[net, loss]


def _passes(check: Callable[[], None]) -> bool:
    try:
        check()
    except AssertionError:
        return False
    return True


def right_row(architecture: Architecture, dtype: str) -> Row:
    """The hand-written gradient at every scale, and the equations at the scale of He."""
    net, loss = architecture.network(), LOSSES[architecture.loss]
    verdicts: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    doubts = []
    begin = time.perf_counter()
    with jax.enable_x64(dtype == "float64"):
        for seed, scale in enumerate(SCALES):
            args = arguments(architecture, dtype, scale, seed)
            of = point(NetworkLoss(net, loss), args)
            leaves = judge_against(of, ByHand(net, loss), args)
            found = [(leaf.path, leaf.verdict, leaf.reason) for leaf in leaves]
            if seed == SCALES.index(1.0):
                cells = equations(net, loss, args[0], points(net, loss, *args))
                found += [(f"{c.layer} {c.quantity}", c.verdict, c.leaf.reason) for c in cells if c.verdict == "FAIL"]
            verdict = worst(each[1] for each in found)
            verdicts[verdict] += 1
            doubts += [[scale, *each] for each in found if each[1] != "PASS"]
            accepted.update(
                name
                for name, yes in Peers(NetworkLoss(net, loss), args).accept(ByHand(net, loss)(*args)).items()
                if yes
            )
    return {
        "verdicts": dict(verdicts),
        "accepted_by": dict(accepted),
        "count": len(SCALES),
        "doubts": doubts,
        "seconds": time.perf_counter() - begin,
    }


def wrong_row(architecture: Architecture, dtype: str) -> Row:
    """Every fault of `verify_grid.FAULTS`, each in a leaf drawn at random, at three scales."""
    net, loss = architecture.network(), LOSSES[architecture.loss]
    right = ByHand(net, loss)
    tally = _Tally()
    with jax.enable_x64(dtype == "float64"):
        for scale, number in ((scale, SCALES.index(scale)) for scale in FAULTY_SCALES):
            args = arguments(architecture, dtype, scale, number)
            of = point(NetworkLoss(net, loss), args)
            peers = Peers(NetworkLoss(net, loss), args)
            zero = {leaf.path for leaf in judge_against(of, right, args, directions=0) if leaf.is_zero}
            paths = [path for path in of.like if path not in zero]
            draw = np.random.default_rng(abs(hash((architecture.width, architecture.depth))) % 2**32)
            for i, fault in enumerate(FAULTS):
                path = paths[int(draw.integers(len(paths)))]
                candidate = WithFault(right, path, fault, i)
                if not effective(candidate, right, args, dtype, (path,)):
                    continue
                leaves = judge_against(of, candidate, args, only=(path,))
                caught = any(leaf.verdict == "FAIL" for leaf in leaves)
                tally.add(f"{fault} in {path}, scale {scale}", caught, peers.accept(candidate(*args)), leaves)
    return tally.row()


def rules_row(architecture: Architecture, dtype: str) -> Row:
    """Every fault of `fbp.verify.faults` at every place of the network."""
    net, loss = architecture.network(), LOSSES[architecture.loss]
    right = ByHand(net, loss)
    tally = _Tally()
    with jax.enable_x64(dtype == "float64"):
        args = arguments(architecture, dtype, 1.0, 2)
        of = point(NetworkLoss(net, loss), args)
        peers = Peers(NetworkLoss(net, loss), args)
        zero = {leaf.path for leaf in judge_against(of, right, args, directions=0) if leaf.is_zero}
        paths = tuple(path for path in of.like if path not in zero)
        for mutant in mutants(net, loss):
            candidate = ByHand(mutant.net, mutant.loss)
            if not effective(candidate, right, args, dtype, paths):
                continue
            leaves = judge_against(of, candidate, args)
            caught = any(leaf.verdict == "FAIL" for leaf in leaves)
            tally.add(f"{mutant.fault} in {mutant.place}", caught, peers.accept(candidate(*args)), leaves)
    return tally.row()


class _Tally:
    def __init__(self) -> None:
        self.count, self.caught, self.peers = 0, 0, Counter[str]()
        self.escapes: list[Any] = []
        self.begin = time.perf_counter()

    def add(self, what: str, caught: bool, accepted: dict[str, bool], leaves: Any) -> None:
        self.count += 1
        self.caught += caught
        self.peers.update(name for name, yes in accepted.items() if not yes)
        if not caught:
            off = {leaf.path: leaf.difference.relative_error for leaf in leaves if leaf.difference is not None}
            self.escapes.append([what, max(off.values(), default=None), worst(leaf.verdict for leaf in leaves)])

    def row(self) -> Row:
        seconds = time.perf_counter() - self.begin
        peers = {name: self.peers[name] for name in ("check_grads", "chex")}
        return {
            "count": self.count,
            "caught": self.caught,
            "caught_by": peers,
            "escapes": self.escapes,
            "seconds": seconds,
        }


def effective(candidate: Candidate, right: Candidate, args: Any, dtype: str, paths: tuple[str, ...]) -> bool:
    """Whether a fault changes one of the leaves by more than its dtype rounds, or changes it in float64."""

    def change(args: Any) -> float:
        wrong, true = by_path(candidate(*args)), by_path(right(*args))
        errors = [difference(path, wrong[path], true[path]) for path in paths]
        return max((e.relative_error if e.finite else float("inf")) for e in errors) if errors else 0.0

    if change(args) > EFFECTIVE * float(jnp.finfo(dtype).eps):
        return True
    with jax.enable_x64(True):
        return change(cast(args, jnp.float64)) > EFFECTIVE_IN_FLOAT64


MEASURES = {"right": right_row, "wrong": wrong_row, "rules": rules_row}


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
    lines = [
        "### Right gradients",
        "",
        "| dtype | gradients | PASS | INCONCLUSIVE | false FAIL | rejected by check_grads | by chex |",
    ]
    lines.append("| :--- | ---: | ---: | ---: | ---: | ---: | ---: |")
    right = [row for row in rows if row["table"] == "right"]
    groups = [(dtype, [row for row in right if row["case"]["dtype"] == dtype]) for dtype in DTYPES]
    for name, some in [*groups, ("all", right)]:
        n = sum(row["count"] for row in some)
        if not n:
            continue
        verdicts = sum((Counter(row["verdicts"]) for row in some), Counter())
        peers = sum((Counter(row["accepted_by"]) for row in some), Counter())
        cells = [
            n,
            *(verdicts[v] for v in ("PASS", "INCONCLUSIVE", "FAIL")),
            *(n - peers[p] for p in ("check_grads", "chex")),
        ]
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "### Wrong gradients",
        "",
        "| faults | dtype | effective | caught | escaped | caught by check_grads | by chex |",
    ]
    lines.append("| :--- | :--- | ---: | ---: | ---: | ---: | ---: |")
    wrong = [row for row in rows if row["table"] != "right"]
    kinds = {"wrong": "in one leaf", "rules": "in a rule"}
    groups = [
        (kinds[t], d, [r for r in wrong if r["table"] == t and r["case"]["dtype"] == d]) for t in kinds for d in DTYPES
    ]
    for kind, dtype, some in [*groups, ("all", "", wrong)]:
        n, caught = sum(row["count"] for row in some), sum(row["caught"] for row in some)
        if not n:
            continue
        peers = [sum(row["caught_by"][p] for row in some) for p in ("check_grads", "chex")]
        lines.append(f"| {kind} | {dtype} | {n} | {caught} | {n - caught} | {' | '.join(map(str, peers))} |")
    doubts = [(row["case"], *doubt) for row in right for doubt in row["doubts"]]
    escapes = [(row["case"], *escape) for row in wrong for escape in row["escapes"]]
    lines += ["", *_listed("Right gradients that did not pass, leaf by leaf", doubts), "", *_listed("Escapes", escapes)]
    return "\n".join(lines)


def _listed(title: str, entries: list[tuple[Any, ...]]) -> list[str]:
    lines = [f"{title}: {len(entries)}."]
    return (
        lines
        + [""] * bool(entries)
        + [f"- {case['network']}, {case['dtype']}: {', '.join(map(_shown, rest))}" for case, *rest in entries]
    )


def _shown(x: Any) -> str:
    return f"{x:.2g}" if isinstance(x, float) else str(x)


def run(quick: bool, record: Record, console: Console) -> None:
    """Judge what the record does not have yet."""
    rows = plan(quick)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=sum(map(len, rows.values())))
        order = [(name, *case) for name, cases in rows.items() for case in cases]
        # One network after the other, whatever the table, so that its programs are compiled once.
        first = {str(architecture): i for i, (_, architecture, _) in reversed(list(enumerate(order)))}
        order.sort(key=lambda each: first[str(each[1])])
        last = ""
        for name, architecture, dtype in order:
            case = {"network": str(architecture), "dtype": dtype, **dataclasses.asdict(architecture)}
            progress.update(task, description=f"{name}: {architecture}, {dtype}")
            if last and last != str(architecture):
                jax.clear_caches()
                _VALUES.clear()
            last = str(architecture)
            if (name, case) not in record:
                record.add({"table": name, "case": case, **MEASURES[name](architecture, dtype)})
                if not console.is_terminal:
                    row = record.rows[-1]
                    print(
                        name,
                        architecture,
                        dtype,
                        row.get("verdicts") or (row["count"], row["caught"]),
                        f"{row['seconds']:.1f} s",
                        file=sys.stderr,
                        flush=True,
                    )
            progress.advance(task)


def main(*, out: Path | None = None, quick: bool = False, resume: bool = False) -> int:
    """Judge the gradient checker on right and wrong gradients.

    Args:
        out: folder for verify_gradients.json; tables of a README.md beside that folder are regenerated.
        quick: a subset of a few minutes.
        resume: continue the unfinished run in `out`.
    """
    record = Record("verify_gradients", markdown, out, quick, resume)
    return record.complete(lambda: run(quick, record, Console(stderr=True)))


if __name__ == "__main__":
    start("verify_gradients", main)
