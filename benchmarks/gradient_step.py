"""The gradient step by fbp against the best `jax.grad` version of the same network.

    python benchmarks/gradient_step.py --out benchmarks/results

What is measured is in grid.py, the networks are in peers.py, how they are measured is in measure.py.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from grid import AGREE_UP_TO, FULL, QUICK, REMAT_SEGMENT, Checkpointed, Network
from measure import measure
from peers import autodiff, by_fbp, by_scan
from results import Row, Task, start
from tables import markdown

COMPILES = 3
"""How often the rows on compile time compile; the median counts."""


def step_row(network: Network, seconds: float) -> Row:
    """fbp by default against every version of `jax.grad`."""
    return measure(network, [by_fbp(network), *autodiff(network)], seconds)


def memory_row(network: Network, seconds: float) -> Row:
    """Counts alone; agreement is checked at depths where one run is quick."""
    return measure(network, [by_fbp(network), *autodiff(network)], agree=network.depth <= AGREE_UP_TO)


def checkpoint_row(network: Checkpointed, seconds: float) -> Row:
    """fbp with segments against `jax.grad` without; at one length that divides the depth, also with the same ones."""
    same = network.segment == REMAT_SEGMENT and network.blocks % network.segment == 0
    remat = [by_scan(network, network.segment)] if same else []
    return measure(network, [by_fbp(network), by_scan(network), *remat], seconds)


def compile_row(network: Network, seconds: float) -> Row:
    """Compile time of the loops."""
    return measure(network, [by_fbp(network), by_scan(network)], compiles=COMPILES, agree=False)


def modes_row(network: Network, seconds: float) -> Row:
    """fbp's loop against fbp unrolled."""
    return measure(network, [by_fbp(network, True, "fbp loop"), by_fbp(network, False, "fbp unrolled")], seconds)


MEASURES: dict[str, Callable[[Any, float], Row]] = {
    "step": step_row,
    "memory": memory_row,
    "checkpoint": checkpoint_row,
    "compile": compile_row,
    "modes": modes_row,
}


def tasks(quick: bool) -> list[Task]:
    """The rows of each table."""
    plan, seconds = (QUICK, 0.3) if quick else (FULL, 1.0)
    # The first compilation of a process pays for starting the compiler.
    compile_row(plan["compile"][0], seconds)
    cases = [(table, network, dataclasses.asdict(network)) for table, own in plan.items() for network in own]
    return [
        Task(table, case, f"{table}, {network}", partial(MEASURES[table], network, seconds))
        for table, network, case in cases
    ]


if __name__ == "__main__":
    start("gradient_step", tasks, markdown)
