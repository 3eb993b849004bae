"""What the monitor read, layer by layer: gradient norms, update ratios, dead units, the gradient noise scale."""

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from fbp.report import Curve, Figure, Table, Text, curves, number, ranked_panels
from fbp.studies.frame import Draft
from fbp.studies.runs.facts import Facts

NAMED = 6
"""So many lines are told apart by their names; more by their depth."""
PANELS = 12
"""Kinds of matrices that have a panel each."""
LISTED = 12
"""Matrices that are listed one by one."""
IDLE = 0.01
"""A part of dead units that is worth a sentence."""
_INDEX = re.compile(r"^\[\d+\]\.?|\[\d+\]")

Lines = dict[str, list[float]]
"""Values over the epochs, by the path of a parameter or layer."""


def add_readings(draft: Draft, facts: Facts) -> None:
    """Add what the monitor read; nothing where there was none.

    Args:
        draft: the page.
        facts: of the run.
    """
    matrices = facts.name_matrices()
    read = lambda kind, names: {
        name: found for name in names if (found := _column(facts, f"{kind}/{name}")) is not None
    }
    norms, ratios = read("gradient_norm", matrices), read("update_ratio", matrices)
    blocks: list[Any] = []
    if norms:
        draft.findings.append(_describe_norms(norms))
        if len(facts.history) > 1:
            blocks += [
                _figure(
                    "gradient-norms", "The norm of the gradient of each weight matrix", "gradient norm", facts, norms
                ),
                _figure(
                    *("update-ratios", "The norm of each step over that of the weight matrix that it changes"),
                    *("update ratio", facts, ratios),
                ),
            ]
        blocks.append(_table(norms, ratios))
    dead = read("dead", _layers_with(facts, "dead"))
    if any(max(line) > 0 for line in dead.values()):
        draft.findings.append(_describe_dead(dead))
        if len(facts.history) > 1:
            percents = {name: [100 * value for value in line] for name, line in dead.items() if max(line) > 0}
            what = "The units whose derivative is zero for every example of a batch, in the layers that have any"
            blocks.append(_figure("dead-units", what, "dead units (%)", facts, percents))
    elif dead:
        blocks.append(Text("No unit was dead, its derivative zero for a whole batch, in any batch that was read."))
    blocks += _noise(draft, facts)
    if blocks:
        draft.section("Layer by layer", *blocks)


def _column(facts: Facts, name: str) -> list[float] | None:
    values = facts.history.column(name) if name in facts.history.names() else []
    line = [float("nan") if value is None else float(value) for value in values]
    return line if np.isfinite(line).any() else None


def _layers_with(facts: Facts, kind: str) -> list[str]:
    names = facts.history.names()
    return [name.removeprefix(f"{kind}/") for name in names if name.startswith(f"{kind}/")]


def _last(line: Sequence[float]) -> float:
    finite = [value for value in line if np.isfinite(value)]
    return finite[-1] if finite else float("nan")


def _describe_norms(norms: Lines) -> str:
    last = {name: _last(line) for name, line in norms.items()}
    positive = {name: value for name, value in last.items() if value > 0}
    if not positive:
        return "No weight matrix had a gradient in the last epoch."
    small, large = min(positive, key=positive.__getitem__), max(positive, key=positive.__getitem__)
    if small == large:
        return f"In the last epoch the gradient of `{small}` had the norm {number(positive[small], 2)} on average."
    ratio = positive[large] / positive[small]
    return (
        f"In the last epoch the mean gradient norms of the {len(last)} weight matrices lay within a factor of "
        f"{number(ratio, 2)}: {number(positive[small], 2)} in `{small}`, {number(positive[large], 2)} in `{large}`."
    )


def _describe_dead(dead: Lines) -> str:
    last = {name: _last(line) for name, line in dead.items()}
    most = max(last, key=last.__getitem__)
    if last[most] < IDLE:
        return f"At most {last[most]:.2%} of the units of a layer were dead for a whole batch in the last epoch."
    return (
        f"In the last epoch {last[most]:.1%} of the units of `{most}` had a derivative of zero for every example of a "
        "batch, the most of all layers."
    )


def _curve(label: str, epochs: Sequence[int], line: Sequence[float]) -> Curve:
    """A line through the epochs that have a reading."""
    shown = [(x, y) for x, y in zip(epochs, line, strict=True) if math.isfinite(y)]
    return Curve(label, [x for x, _ in shown], [y for _, y in shown])


def _figure(name: str, what: str, label: str, facts: Facts, lines: Lines) -> Figure:
    epochs = facts.history.column("epoch")
    log_y = not label.endswith("(%)")
    if len(lines) <= NAMED or not log_y:
        own = dict(list(lines.items())[:: -(-len(lines) // NAMED)])
        drawn = [_curve(key, epochs, line) for key, line in own.items()]
        some = "" if len(own) == len(lines) else f"; {len(own)} of {len(lines)} layers"
        return Figure(name, f"{what}{some}, mean over an epoch.", partial(curves, drawn, "epoch", label, log_y=log_y))
    kinds: dict[str, list[list[float]]] = {}
    for path, line in lines.items():
        kinds.setdefault(_INDEX.sub("", path), []).append(line)
    if len(kinds) > PANELS:
        kinds = {"all": list(lines.values())}
    order = "the lighter the line, the nearer to the output"
    each = " Each panel holds the matrices of one name." if len(kinds) > 1 else ""
    caption = f"{what}, mean over an epoch; {order}.{each}"
    # Short epochs may pass between two readings.
    rows = [i for i in range(len(epochs)) if any(math.isfinite(line[i]) for line in lines.values())]
    panels = [(kind, [[line[i] for i in rows] for line in own]) for kind, own in kinds.items()]
    draw = partial(ranked_panels, panels, [epochs[i] for i in rows], "epoch", label, "depth, from the input")
    return Figure(name, caption, draw)


def _table(norms: Lines, ratios: Lines) -> Table:
    """Each matrix in the last epoch, or the ranges of those of one name."""
    rows: list[tuple[Any, ...]] = []
    if len(norms) <= LISTED:
        rows = [(f"`{name}`", _last(line), _last(ratios.get(name, ()))) for name, line in norms.items()]
        columns = ("weight matrix", "gradient norm", "update ratio")
        return Table("The weight matrices in the last epoch, means over its readings.", columns, tuple(rows))
    kinds: dict[str, list[str]] = {}
    for name in norms:
        kinds.setdefault(_INDEX.sub("", name), []).append(name)
    for kind, names in list(kinds.items())[: 2 * LISTED]:
        ends = [[_last(lines[name]) for name in names if name in lines] for lines in (norms, ratios)]
        cells = [cell for values in ends for cell in (min(values, default=None), max(values, default=None))]
        rows.append((f"`{kind}`", len(names), *cells))
    of_all = f"{2 * LISTED} of {len(kinds)} names of " if len(kinds) > 2 * LISTED else ""
    return Table(
        f"The {of_all}weight matrices in the last epoch, those of one name together: smallest and largest mean.",
        ("weight matrices", "count", "gradient norm from", "to", "update ratio from", "to"),
        tuple(rows),
    )


def _noise(draft: Draft, facts: Facts) -> list[Any]:
    line = _column(facts, "noise_scale")
    batch = facts.training.get("batch_size")
    if line is None or not batch:
        return []
    end = _last(line)
    if end > 0:
        how = number(end / batch, 2) if end > batch else number(batch / end, 2)
        draft.findings.append(
            f"The gradient noise scale of the last epoch is {number(end, 2)} examples, {how} times "
            f"{'the' if end > batch else 'smaller than the'} batch of {batch}: "
            + ("noise dominates a step's gradient." if end > batch else "a step's gradient is mostly signal.")
        )
    if len(line) < 2 or not any(value > 0 for value in line):
        return []
    drawn = [_curve("noise scale", facts.history.column("epoch"), line)]
    caption = (
        "The gradient noise scale $tr Σ / |G|^2$ (McCandlish et al., 2018), in examples: in a batch of that size noise "
        "and signal are equal. Epochs whose estimate is not positive are left out."
    )
    draw = partial(
        curves, drawn, "epoch", "noise scale (examples)", log_y=True, reference=(f"batch of {batch}", float(batch))
    )
    return [Figure("noise-scale", caption, draw)]
