"""The gradient step by fbp against the best `jax.grad` version of the same network.

    python benchmarks/gradient_step.py --out benchmarks/results

What is measured is in grid.py, the networks are in peers.py, how they are measured is in measure.py.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from grid import AGREE_UP_TO, FULL, QUICK, REMAT_SEGMENT, Checkpointed, Network, Plan
from measure import Disagreement, counted, timed
from peers import autodiff, by_fbp, by_scan
from results import Record, start
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from tables import markdown, tables

COMPILES = 3
"""How often the rows on compile time compile; the median counts."""


def step_row(network: Network, plan: Plan) -> dict[str, Any]:
    """fbp by default against every version of `jax.grad`."""
    return timed(network, [by_fbp(network), *autodiff(network)], plan.rounds, plan.seconds)


def memory_row(network: Network, plan: Plan) -> dict[str, Any]:
    """Counts alone; agreement is checked at depths where one run is quick."""
    return counted(network, [by_fbp(network), *autodiff(network)], agree=network.depth <= AGREE_UP_TO)


def checkpoint_row(network: Checkpointed, plan: Plan) -> dict[str, Any]:
    """fbp with segments against `jax.grad` without; at one length that divides the depth, also with the same ones."""
    same = network.segment == REMAT_SEGMENT and network.blocks % network.segment == 0
    remat = [by_scan(network, network.segment)] if same else []
    return timed(network, [by_fbp(network), by_scan(network), *remat], plan.rounds, plan.seconds)


def compile_row(network: Network, plan: Plan) -> dict[str, Any]:
    """Compile time of the loops."""
    return counted(network, [by_fbp(network), by_scan(network)], compiles=COMPILES)


def modes_row(network: Network, plan: Plan) -> dict[str, Any]:
    """fbp's loop against fbp unrolled."""
    versions = [by_fbp(network, True, "fbp loop"), by_fbp(network, False, "fbp unrolled")]
    return timed(network, versions, plan.rounds, plan.seconds)


MEASURES: dict[str, Callable[[Any, Plan], dict[str, Any]]] = {
    "step": step_row,
    "memory": memory_row,
    "checkpoint": checkpoint_row,
    "compile": compile_row,
    "modes": modes_row,
}


def run(plan: Plan, record: Record, console: Console) -> None:
    """Measure what the record lacks, row by row, and print each table when it is complete."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=sum(len(getattr(plan, name)) for name in MEASURES))
        for name, measure in MEASURES.items():
            for network in getattr(plan, name):
                case = dataclasses.asdict(network)
                label = f"{name}: {' '.join(f'{key} {value}' for key, value in case.items())}"
                progress.update(task, description=label, refresh=True)
                if (name, case) not in record:
                    try:
                        record.add({"table": name, "case": case, **measure(network, plan)})
                    except Disagreement as error:
                        raise Disagreement(f"{label}: {error}") from error
                    if not console.is_terminal:
                        print(label, file=console.file, flush=True)
                    # Otherwise, compiled programs of hundreds of layers would stay in memory for the whole run.
                    jax.clear_caches()
                progress.advance(task)
            console.print(*tables(row for row in record.rows if row["table"] == name))


def main(*, out: Path | None = None, quick: bool = False, resume: bool = False) -> int:
    """Measure the gradient step by fbp against jax.grad.

    Args:
        out: the folder for gradient_step.json; the tables of a README.md beside that folder are regenerated.
        quick: a subset of about one minute.
        resume: continue the unfinished run in `out`.
    """
    console = Console() if sys.stdout.isatty() else Console(width=170)
    plan = QUICK if quick else FULL
    record = Record("gradient_step", markdown, out, quick, resume)
    # The first compilation of a process pays for starting the compiler.
    counted(plan.compile[0], [by_fbp(plan.compile[0])])
    try:
        return record.complete(lambda: run(plan, record, console), show=False)
    except Disagreement as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    start("gradient_step", main)
