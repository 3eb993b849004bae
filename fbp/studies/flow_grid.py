"""The report of `fbp flow`: a grid of depths, activations and initializers, measured and set beside theory."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fbp.errors import FbpError
from fbp.flow import Cell, Diagnosis, Flow, Plan, grid
from fbp.flow.grids import TABLE
from fbp.interrupts import postpone_interruptions
from fbp.report import Report, Table, Text, check_target, describe_target, fixed, interval, write
from fbp.report.write import MANIFEST, SCHEMA, SCHEMA_VERSION, read_stamp
from fbp.serialize import to_json
from fbp.studies.flows import flow_figure
from fbp.studies.frame import Draft
from fbp.terminal import Progress, no_progress

QUICK: dict[str, Any] = {"depths": (5, 10), "width": 64, "seeds": 8}
"""The sizes of a small grid, for a first look."""
_STATE = "result.json"


def run_flow(
    plan: Plan, out: str | os.PathLike[str] = "flow", resume: bool = False, progress: Progress = no_progress
) -> Report:
    """Measure a grid, write its folder, and return the report.

    Rows go to `data.csv` in the folder as they are measured, so that a stopped run leaves a table of complete groups,
    and `resume=True` goes on from there.

    Args:
        plan: what to measure.
        out: the folder; an older report in it is replaced.
        resume: go on with the grid that was stopped in this folder; its options must be these.
        progress: called with a line about what happens next.

    Returns:
        The report; its rows are only in the table.

    Raises:
        FbpError: the folder cannot be written, or holds a grid of other options.
    """
    folder = Path(out)
    check_target(folder)
    with postpone_interruptions():
        _begin(folder, plan, resume)
    flows = grid(plan, folder, resume, progress)
    draft = Draft(
        "Gradient flow",
        "How do gradients change from layer to layer, over depth, activation and initialization?",
        progress=progress,
        seed=plan.seed,
    )
    _fill(draft, plan, flows)
    progress("drawing")
    report = draft.report()
    write(report, folder, table=folder / TABLE)
    return report


def describe_grid(out: Path, resume: bool) -> Callable[[], str]:
    """What an interrupted grid has left, to be called when it is interrupted.

    Args:
        out: the folder that is to be written.
        resume: whether the grid goes on from what is there.
    """
    describe_report = describe_target(out)
    state, manifest = (read_stamp(out / name) for name in (_STATE, MANIFEST))

    def describe() -> str:
        begun = read_stamp(out / _STATE) != state or (resume and state is not None)
        if begun and read_stamp(out / MANIFEST) in (None, manifest):
            return f"finished groups are kept in {out}, and the same command with --resume goes on"
        return describe_report()

    return describe


def _begin(folder: Path, plan: Plan, resume: bool) -> None:
    """Begin the folder, or check that what it holds is a grid of this plan."""
    state = folder / _STATE
    options = json.loads(json.dumps(dataclasses.asdict(plan)))
    if resume and state.exists():
        there = json.loads(state.read_text(encoding="utf-8"))
        before = there.get("plan") or there.get("results", {}).get("plan")
        if before != options:
            differ = [name for name in options if not isinstance(before, dict) or before.get(name) != options[name]]
            raise FbpError(
                f"a resumed grid must have the options that it began with, got other {', '.join(differ)} than "
                f"in {folder}; give the same options, or run without resume"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    # An older report beside a new table would speak of other rows.
    for name in (TABLE, MANIFEST, "report.html", "report.md"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "figures", ignore_errors=True)
    # In the form of a report's own summary, so that an unfinished folder may be replaced like a finished one.
    begun = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "title": "Gradient flow (unfinished)", "plan": options}
    state.write_text(to_json(begun) + "\n", encoding="utf-8")


def _fill(draft: Draft, plan: Plan, flows: Mapping[Cell, Flow]) -> None:
    diagnoses: dict[Cell, Diagnosis] = {}
    for cell, flow in flows.items():
        # One layer has no rate.
        if cell.depth > 1:
            draft.progress(f"theory of {cell.activation}, {cell.init}")
            diagnoses[cell] = flow.diagnosis()
    draft.setting = {
        "depths": plan.depths,
        "width": plan.width,
        "networks a cell": plan.seeds,
        "inputs": plan.examples,
        "activations": plan.activations,
        "initializers": plan.initializers,
    }
    draft.findings += _findings(plan, diagnoses)
    draft.results = {
        "plan": dataclasses.asdict(plan),
        "cells": [
            {**cell._asdict(), "sentence": str(d), "agrees": d.agrees, **dataclasses.asdict(d)}
            for cell, d in diagnoses.items()
        ],
    }
    note = Text(
        f"Every network has {plan.width} inputs, {plan.width} units a layer and {plan.width} outputs. "
        f"{plan.examples} inputs of mean square 1 in random directions go forward through {plan.seeds} random networks "
        "of each kind, and a standard normal cotangent of the output comes back, independent between examples. Norms "
        "are over the batch and carried with their power of two. A network of depth $L$ is the beginning of the "
        "deepest one of its seed, and initializers of one distribution share their draws, so that differences between "
        "cells scatter less than the cells. **Rates** are those of $‖dZ‖^2$ from one layer to the one before, the mean "
        "over layers and networks, with 95 % intervals over networks; theory is that of infinite width."
    )
    draft.section("How it was measured", note)
    for index, name in enumerate(plan.activations):
        panels = {
            f"depth {depth}": {init: flows[Cell(name, init, depth)] for init in plan.initializers}
            for depth in plan.depths
            if depth > 1
        }
        caption = f"{name}: $log_{{10}} ‖dZ_l‖$ by layer."
        table = _table(name, {cell: d for cell, d in diagnoses.items() if cell.activation == name})
        draft.section(name, flow_figure(f"flow-{index}", caption, panels), table)


def _findings(plan: Plan, diagnoses: Mapping[Cell, Diagnosis]) -> list[str]:
    deepest = max(plan.depths)
    findings = [
        f"{cell.activation}, {cell.init}, depth {deepest}: {diagnosis}."
        for cell, diagnosis in diagnoses.items()
        if cell.depth == deepest
    ]
    judged = [d for d in diagnoses.values() if d.agrees is not None]
    if judged:
        inside = sum(bool(d.agrees) for d in judged)
        off = max(abs(d.rate / d.theory - 1) for d in judged if d.theory)
        findings.append(
            f"Theory lies in the 95 % interval of {inside} of {len(judged)} cells; the largest distance of a measured "
            f"rate from it is {off:.1%}. Cells share draws, and width {plan.width} is finite."
        )
    return findings


def _table(name: str, diagnoses: Mapping[Cell, Diagnosis]) -> Table:
    columns = ("initializer", "depth", "verdict", "phase", "rate", "95 % interval", "theory", "decades", "trainable to")
    rows = tuple(
        (
            cell.init,
            cell.depth,
            d.verdict.kind,
            d.phase,
            d.rate,
            interval(d.low, d.high, 3),
            d.theory,
            fixed(d.verdict.decades, 2),
            None if d.trainable is None or d.trainable > 1e4 else round(d.trainable),
        )
        for cell, d in diagnoses.items()
    )
    return Table(f"{name}: the factor of $‖dZ‖^2$ a layer towards the input.", columns, rows)
