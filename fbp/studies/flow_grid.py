"""The report of `fbp flow`: a grid of depths, activations and initializers, measured and set beside theory."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fbp.errors import FbpError
from fbp.flow import Flow, Plan, grid
from fbp.flow.grids import TABLE
from fbp.interrupts import postpone_interruptions
from fbp.report import Report, check_target, describe_target, write
from fbp.report.write import MANIFEST, SCHEMA, SCHEMA_VERSION, read_stamp
from fbp.serialize import to_json
from fbp.studies.flow_networks import AnyCell, AnyPlan, TransformerPlan, list_options, measure_networks
from fbp.studies.flow_page import fill_page
from fbp.studies.frame import Draft
from fbp.terminal import Progress, no_progress

QUICK: dict[str, dict[str, Any]] = {
    "mlp": {"depths": (5, 10), "width": 64, "seeds": 8},
    "gpt": {"depths": (2, 4), "width": 32, "seeds": 8},
}
"""The sizes of a small grid, for a first look, by the kind of network."""
_QUESTION = "How do gradients change from layer to layer, over depth, activation and initialization?"
_QUESTION_OF_TRANSFORMERS = (
    "How do gradients change along the stream of a transformer, over depth and the place of the norm?"
)
_STATE = "result.json"
_KEPT = "measured"


def run_flow(
    plan: AnyPlan, out: str | os.PathLike[str] = "flow", resume: bool = False, progress: Progress = no_progress
) -> Report:
    """Measure a grid, write its folder, and return the report.

    What is measured is kept in the folder: of plain networks the rows of `data.csv`, of others a file for each kind in
    `measured/`, which the table replaces at the end. `resume=True` goes on from there.

    Args:
        plan: what to measure.
        out: the folder; an older report in it is replaced.
        resume: go on with the grid that was stopped in this folder; its options must be these.
        progress: called with a line about what happens next.

    Returns:
        The report; rows of plain networks are only in the table.

    Raises:
        FbpError: the folder cannot be written, or holds a grid of other options.
    """
    folder = Path(out)
    check_target(folder)
    with postpone_interruptions():
        _begin(folder, plan, resume)
    table = folder / TABLE if isinstance(plan, Plan) else None
    flows: dict[AnyCell, Flow]
    if isinstance(plan, Plan):
        flows = {**grid(plan, folder, resume, progress)}
    else:
        flows = measure_networks(plan, folder / _KEPT, progress)
    question = _QUESTION_OF_TRANSFORMERS if isinstance(plan, TransformerPlan) else _QUESTION
    draft = Draft("Gradient flow", question, progress=progress, seed=plan.seed)
    fill_page(draft, plan, flows)
    draft.records += list(_list_rows(flows)) if table is None else []
    progress("drawing")
    report = draft.report()
    write(report, folder, table)
    shutil.rmtree(folder / _KEPT, ignore_errors=True)
    return report


def _list_rows(flows: Mapping[AnyCell, Flow]) -> Iterator[dict[str, Any]]:
    for cell, flow in flows.items():
        labels = cell._asdict()
        if flow.branches:
            yield from flow.stream_records(**labels, along="stream")
            labels["along"] = "layers"
        yield from flow.records(**labels)


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
            return f"what is measured is kept in {out}, and the same command with --resume goes on"
        return describe_report()

    return describe


def _begin(folder: Path, plan: AnyPlan, resume: bool) -> None:
    """Begin the folder, or check that what it holds is a grid of this plan."""
    state = folder / _STATE
    options = json.loads(json.dumps(list_options(plan)))
    if resume and state.exists():
        there = json.loads(state.read_text(encoding="utf-8"))
        before = there.get("plan") or there.get("results", {}).get("plan")
        if before != options:
            before = before if isinstance(before, dict) else {}
            differ = [name for name in {**options, **before} if before.get(name) != options.get(name)]
            raise FbpError(
                f"a resumed grid must have the options that it began with, got other {', '.join(differ)} than "
                f"in {folder}; give the same options, or run without resume"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    # An older report beside a new table would speak of other rows.
    for name in (TABLE, MANIFEST, "report.html", "report.md"):
        (folder / name).unlink(missing_ok=True)
    for name in ("figures", _KEPT):
        shutil.rmtree(folder / name, ignore_errors=True)
    # In the form of a report's own summary, so that an unfinished folder may be replaced like a finished one.
    begun = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "title": "Gradient flow (unfinished)", "plan": options}
    state.write_text(to_json(begun) + "\n", encoding="utf-8")
