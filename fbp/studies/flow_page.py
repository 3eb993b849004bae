"""The page of `fbp flow`: which networks vanish, hold and explode, as one picture and in words; then the details."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fbp.flow import Diagnosis, Flow, Plan
from fbp.report import Figure, Table, Text, Tile, fixed, interval, number, significant, tiles
from fbp.studies.flow_networks import AnyCell, AnyPlan, describe_plan, list_options
from fbp.studies.flows import flow_figure
from fbp.studies.frame import Draft

_MARKS = {"vanishing": "↓", "stable": "=", "exploding": "↑", "undecided": "?"}
_FATES = {
    "vanishing": "**vanish**",
    "stable": "**keep their size**",
    "exploding": "**explode**",
    "undecided": "are **undecided** by these networks",
    "vanishing by one step": "**vanish by one step**",
    "exploding by one step": "**explode by one step**",
}
_LISTED = 6


def fill_page(draft: Draft, plan: AnyPlan, flows: Mapping[AnyCell, Flow]) -> None:
    """Fill the report of a grid.

    Args:
        draft: the report in the making.
        plan: what was measured.
        flows: what was found, by cell.
    """
    diagnoses: dict[AnyCell, Diagnosis] = {}
    for cell, flow in flows.items():
        # One layer has no rate.
        if flow.log10.dZ.shape[2] > 1:
            draft.progress(f"theory of {cell[0]}, {cell[1]}")
            diagnoses[cell] = flow.diagnosis()
    draft.setting = _setting(plan)
    draft.findings += [*_find(diagnoses), *_find_jumps(diagnoses), *_compare_with_theory(diagnoses)]
    draft.results = {
        "plan": list_options(plan),
        "cells": [
            {**cell._asdict(), "sentence": str(d), "agrees": d.agrees, **dataclasses.asdict(d)}
            for cell, d in diagnoses.items()
        ],
    }
    draft.section("At a glance", _map(diagnoses))
    draft.section("How it was measured", Text(_describe(plan)))
    for index, name in enumerate(dict.fromkeys(cell[0] for cell in diagnoses)):
        own = {cell: d for cell, d in diagnoses.items() if cell[0] == name}
        panels = {
            f"depth {depth}": {cell[1]: flows[cell] for cell in own if cell.depth == depth}
            for depth in dict.fromkeys(cell.depth for cell in own)
        }
        along = "part of the stream" if all(flows[cell].branches for cell in own) else "layer"
        caption = f"{name}: $log_{{10}} ‖dZ_l‖$ by {along}."
        draft.section(name, flow_figure(f"flow-{index}", caption, panels), _table(name, own))


def _setting(plan: AnyPlan) -> dict[str, Any]:
    words: dict[str, str] = {"seeds": "networks a cell", "examples": "inputs", "bias": "biases, standard deviation"}
    words |= {"residual_scale": "scale of the branches"}
    return {
        words.get(name, name): value
        for name, value in list_options(plan).items()
        if value is not None and name != "seed"
    }


def _describe(plan: AnyPlan) -> str:
    if not isinstance(plan, Plan):
        return plan.describe()
    return (
        f"{describe_plan(plan)} A network of depth $L$ is the beginning of the deepest one of its seed, and "
        "initializers of one distribution share their draws, so that differences between cells scatter less than the "
        "cells."
    )


def _map(diagnoses: Mapping[AnyCell, Diagnosis]) -> Figure:
    rows = list(dict.fromkeys((cell[0], cell[1]) for cell in diagnoses))
    depths = list(dict.fromkeys(cell.depth for cell in diagnoses))
    by = {(cell[0], cell[1], cell.depth): d for cell, d in diagnoses.items()}
    cells = [[_tile(by.get((*row, depth))) for depth in depths] for row in rows]
    theory = any(d.theory is not None for d in diagnoses.values())
    step = next(iter(diagnoses.values())).verdict.step
    caption = (
        "Which gradients vanish (↓), keep their size (=) and explode (↑): the factor of $‖dZ‖^2$ a "
        f"{step} towards the input" + (", above as measured, below as theory says." if theory else ".")
    )
    if any(d.kind == "undecided" for d in diagnoses.values()):
        caption += " Where the networks do not decide, a ? stands."
    label = f"factor of $‖dZ‖^2$ a {step} towards the input"
    return Figure("map", caption, partial(tiles, rows, [f"depth {depth}" for depth in depths], cells, label))


def _tile(d: Diagnosis | None) -> Tile | None:
    return None if d is None else Tile(d.rate, _MARKS[d.kind], d.theory)


def _find(diagnoses: Mapping[AnyCell, Diagnosis]) -> list[str]:
    kinds: dict[tuple[str, str], list[str]] = {}
    for cell, d in diagnoses.items():
        kinds.setdefault((cell[0], cell[1]), []).append(d.word)
    findings = []
    several = len({cell.depth for cell in diagnoses}) > 1
    where = " at every depth" if several else ""
    for kind, fate in _FATES.items():
        always = [name for name, seen in kinds.items() if set(seen) == {kind}]
        if always:
            findings.append(f"Gradients {fate}{where} with {_list_names(always)}.")
    mixed = [name for name, seen in kinds.items() if len(set(seen)) > 1]
    if mixed:
        depths = lambda name: "; ".join(
            f"{d.word} at {cell.depth}" for cell, d in diagnoses.items() if (cell[0], cell[1]) == name
        )
        told = [f"{', '.join(name)} ({depths(name)})" for name in mixed[:_LISTED]]
        more = f" and {len(mixed) - _LISTED} others" if len(mixed) > _LISTED else ""
        findings.append(f"The verdict depends on the depth with {', '.join(told)}{more}.")
    silent = {cell: d.verdict.left_out for cell, d in diagnoses.items() if d.verdict.left_out}
    if silent:
        told = [f"{cell[0]}, {cell[1]} at {cell.depth} ({why})" for cell, why in list(silent.items())[:_LISTED]]
        more = f" and in {len(silent) - _LISTED} other cells" if len(silent) > _LISTED else ""
        findings.append(f"Some networks have no rate: {'; '.join(told)}{more}.")
    return findings + _find_extremes(diagnoses)


def _find_jumps(diagnoses: Mapping[AnyCell, Diagnosis]) -> list[str]:
    """Where one step makes most of the change."""
    told = [
        f"{cell[0]}, {cell[1]} at depth {cell.depth} ({d.jump.share:.0%} from {d.jump.layer} to {d.jump.layer - 1}, "
        f"×{number(d.jump.factor, 3)}; ×{number(d.jump.elsewhere, 3)} elsewhere)"
        for cell, d in diagnoses.items()
        if d.jump is not None
    ]
    if not told:
        return []
    more = f" and {len(told) - _LISTED} others" if len(told) > _LISTED else ""
    return [
        "Most of the change is made in one step, so that the rate, a mean over all, says nothing of the others: "
        f"{'; '.join(told[:_LISTED])}{more}."
    ]


def _compare_with_theory(diagnoses: Mapping[AnyCell, Diagnosis]) -> list[str]:
    findings = []
    judged = [d for d in diagnoses.values() if d.agrees is not None and d.theory]
    if judged:
        inside = sum(bool(d.agrees) for d in judged)
        off = max(abs(d.rate / d.theory - 1) for d in judged if d.theory)
        findings.append(
            f"Theory lies in the 95 % interval of **{inside} of {len(judged)}** cells; the largest distance of a "
            f"measured rate from it is {off:.1%}. Cells share draws, and the width is finite."
        )
    advised = Counter(
        f"$σ_w^2$ = {number(significant(d.advice**2))} for {cell[0]}"
        for cell, d in diagnoses.items()
        if d.advice is not None
    )
    if advised:
        findings.append(f"What theory advises where gradients vanish or explode: {'; '.join(advised)}.")
    return findings


def _list_names(names: Sequence[tuple[str, str]]) -> str:
    """Cells by their first name: "relu (he_normal, orthogonal)"."""
    groups: dict[str, list[str]] = {}
    for first, second in names:
        groups.setdefault(first, []).append(second)
    return "; ".join(f"{first} ({', '.join(seconds)})" for first, seconds in groups.items())


def _find_extremes(diagnoses: Mapping[AnyCell, Diagnosis]) -> list[str]:
    told = []
    for kind, pick, word in (("vanishing", min, "fastest to vanish"), ("exploding", max, "fastest to explode")):
        own = {cell: d for cell, d in diagnoses.items() if d.word == kind}
        if own:
            cell = pick(own, key=lambda cell: own[cell].rate)
            d = own[cell]
            step = d.verdict.step
            told.append(
                f"the {word} is {cell[0]}, {cell[1]} at depth {cell.depth}, ×{number(d.rate, 3)} a {step}"
                f" and {number(2 * d.verdict.decades, 2)} decades of $‖dZ‖^2$ over the network"
            )
    sentence = "; ".join(told)
    return [f"{sentence[0].upper()}{sentence[1:]}."] if told else []


def _table(name: str, diagnoses: Mapping[AnyCell, Diagnosis]) -> Table:
    first = next(iter(diagnoses))
    heads = ("initializer" if first._fields[1] == "init" else first._fields[1], "depth", "verdict", "rate")
    heads += ("95 % interval", "theory", "phase", "decades of ‖dZ‖", "trainable to", "advice: $σ_w^2$")
    rows = tuple(
        (
            cell[1],
            cell.depth,
            d.kind,
            significant(d.rate),
            interval(d.low, d.high, 3) if d.verdict.networks > 1 and not math.isnan(d.rate) else None,
            None if d.theory is None else significant(d.theory),
            d.phase,
            fixed(d.verdict.decades, 2),
            None if d.trainable is None or d.trainable > 1e4 else round(d.trainable),
            None if d.advice is None else significant(d.advice**2),
        )
        for cell, d in diagnoses.items()
    )
    # Columns that say nothing here are left out.
    kept = [i for i in range(len(heads)) if i < 4 or any(row[i] is not None for row in rows)]
    step = diagnoses[first].verdict.step
    caption = f"{name}: the factor of $‖dZ‖^2$ a {step} towards the input, and decades over a typical network."
    return Table(caption, tuple(heads[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in rows))
