"""The rules in other people's models: an Equinox and a Flax GPT with functions of `fbp.functional` put in.

    python benchmarks/swap.py --out benchmarks/results

The models are in models.py.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import jax
import numpy as np
from measure import quantiles, run
from models import Work, make_batch, make_step, products_alone, versions
from results import Row, Task, start
from sections import Column, section, show

from fbp import cost
from fbp.errors import FbpError
from fbp.report import number

TOLERANCE = 1e-5
"""Relative norm error of a leaf in float32 up to which two gradients are the same."""
ROUNDS, MOST_ROUNDS = 8, 60
TIME, MEMORY = 0.7, 0.6
"""The targets of all rules together, over the model as it is."""
PRODUCTS = "products alone"


def measure_work(work: Work, seconds: float) -> Row:
    """What each version of a model costs, beside the model as it is.

    Raises:
        FbpError: a version has another value or another gradient.
    """
    jax.clear_caches()
    batch = jax.device_put(make_batch(work))
    steps = {name: make_step(work, use) for name, use in versions(work).items()}
    steps[PRODUCTS] = make_step(work, products_alone(work))
    programs = {name: cost.compile(step, (params, *batch)) for name, (step, params) in steps.items()}
    calls = [partial(run, programs[name], (params, *batch)) for name, (_, params) in steps.items()]
    results = {name: jax.device_get(call()) for name, call in zip(steps, calls, strict=True)}
    errors = {name: _compare(work, name, found, next(iter(results.values()))) for name, found in results.items()}
    times = cost.interleave(calls, seconds, ROUNDS, MOST_ROUNDS)
    measured = {
        name: {
            "step_seconds": statistics.median(own),
            "temporary_bytes": programs[name].temporary_bytes,
            "compile_seconds": programs[name].compile_seconds,
            "time_ratio": quantiles(np.divide(own, times[0])),
            "error": errors[name],
        }
        for name, own in zip(steps, times, strict=True)
    }
    return {"rounds": len(times[0]), "versions": measured}


def _compare(work: Work, name: str, found: Any, reference: Any) -> float | None:
    """The largest relative norm error of a leaf, value included; None where another function is computed."""
    if name == PRODUCTS:
        return None
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True)
    worst = max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)
    if not worst <= TOLERANCE:
        raise FbpError(
            f"{name} must have the gradient of {work} up to {TOLERANCE:g}, got the relative error {worst:.2g}; "
            "mend the function"
        )
    return worst


def markdown(rows: Sequence[Row]) -> str:
    """A table for each model and length."""
    return "\n\n".join(_table(row) for row in rows)


def _table(row: Row) -> str:
    found = row["versions"]
    plain, ours = next(iter(found.values())), found["all"]

    def memory(own: Row) -> float:
        return own["temporary_bytes"] / plain["temporary_bytes"]

    def interval(own: Row) -> str:
        return "{low:.2f} - {high:.2f}".format_map(own["time_ratio"])

    columns: dict[str, Column] = {
        "swapped": lambda entry: entry[0],
        "ms": lambda entry: number(entry[1]["step_seconds"] * 1e3, digits=3),
        "time": lambda entry: entry[1]["time_ratio"]["median"],
        "25 - 75 %": lambda entry: interval(entry[1]),
        "MiB": lambda entry: number(entry[1]["temporary_bytes"] / 2**20, digits=3),
        "memory": lambda entry: memory(entry[1]),
        "error": lambda entry: None if entry[1]["error"] is None else f"{entry[1]['error']:.0e}",
    }
    time, bound = ours["time_ratio"]["median"], found[PRODUCTS]["time_ratio"]["median"]
    verdicts = (
        f"all: time {time:.2f}, target {TIME}, {show(time <= TIME)}; "
        f"memory {memory(ours):.2f}, target {MEMORY}, {show(memory(ours) <= MEMORY)}",
        f"the matrix products with nothing between them take {bound:.2f} of the model's time",
    )
    return section(str(Work(**row["case"])), columns, found.items(), verdicts)


def tasks(quick: bool) -> list[Task]:
    """The rows."""
    lengths = ((64, 8),) if quick else ((64, 8), (512, 2))
    works = [
        Work(library, length, batch, approximate)
        for (length, batch), library, approximate in product(lengths, ("equinox", "flax"), (True, False))
    ]
    seconds = 3.0 if quick else 15.0
    return [Task("swap", dataclasses.asdict(work), str(work), partial(measure_work, work, seconds)) for work in works]


if __name__ == "__main__":
    start("swap", tasks, markdown)
