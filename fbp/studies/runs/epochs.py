"""How a training went: losses and accuracies over the epochs, on pictures and in a table."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from fbp.report import Curve, Figure, Table, fixed, number, side_by_side
from fbp.studies.frame import Draft
from fbp.studies.runs.facts import Facts
from fbp.training import Epoch

LISTED = 12
"""A longer training is listed by the epochs 1, 2, 5, 10, 20, 50, ..."""
RISEN = 1.01
"""A validation loss this many times its smallest one has risen."""
DECADE = 10
"""Losses that span more are drawn on a logarithmic axis."""


def add_epochs(draft: Draft, facts: Facts) -> None:
    """Add how the losses and accuracies went.

    Args:
        draft: the page.
        facts: of the run.
    """
    history = facts.history
    draft.records += [
        {
            "kind": "epoch",
            **{name: value for name, value in epoch._asdict().items() if name not in _CLOCK},
            **epoch.readings,
        }
        for epoch in history
    ]
    if not history:
        return
    draft.results["epochs"] = {"count": len(history), "best": history.best.epoch, "stopped": facts.stopped}
    if len(history) > 1:
        draft.findings.append(_describe_course(facts))
    blocks: list[Any] = []
    if len(history) > 1:
        caption = f"The {len(history)} epochs. " + _describe_curves(facts)
        blocks.append(Figure("epochs", caption, partial(_draw, facts)))
    draft.section("Over the epochs", *blocks, _table(facts))


_CLOCK = ("seconds", "examples_per_second", "readings")
"""What a repetition would not reproduce, and what becomes columns of its own."""


def _describe_course(facts: Facts) -> str:
    """Where the losses went, and whether the network began to overfit."""
    history, best, last = facts.history, facts.history.best, facts.history[-1]
    name = "training" if last.validation_loss is None else "validation"
    if best is last:
        first = history[0].watched_loss
        fell = f"from {number(first, 3, True)} to {number(last.watched_loss, 3, True)}"
        return f"The {name} loss fell {fell} and was smallest after the last epoch, {last.epoch}."
    text = (
        f"The {name} loss was smallest after epoch {best.epoch} of {last.epoch}, {number(best.watched_loss, 3, True)}"
    )
    if last.watched_loss < RISEN * best.watched_loss:
        return f"{text}, and within {RISEN - 1:.0%} of that at the end."
    text += f", and {number(last.watched_loss, 3, True)} at the end"
    if last.validation_loss is not None and last.loss < best.loss:
        fell = f"fell on from {number(best.loss, 3, True)} to {number(last.loss, 3, True)}"
        text += f", while the training loss {fell}: it **overfits**"
    return text + ("; the parameters of that epoch are the result." if facts.keeps_best else ".")


def _describe_curves(facts: Facts) -> str:
    last = facts.history[-1]
    text = "Training figures are means over an epoch, while the parameters moved"
    if last.validation_loss is not None:
        text += "; validation figures are of the parameters after it"
    if facts.keeps_best:
        text += f". The broken line is epoch {facts.history.best.epoch}, whose parameters are the result"
    return text + "."


def _draw(facts: Facts) -> Drawing:
    shown = [
        ("loss", facts.loss_label),
        *([("accuracy", "accuracy (%)")] if facts.history[-1].accuracy is not None else []),
    ]
    panels = []
    for name, label in shown:
        own = list(_curves(facts, name, 100 if name == "accuracy" else 1))
        every = np.concatenate([np.asarray(curve.y) for curve in own])
        every = every[np.isfinite(every)]
        is_wide = name == "loss" and every.size > 0 and bool(every.min() > 0 and every.max() > DECADE * every.min())
        panels.append((label, own, is_wide))
    return side_by_side(panels, "epoch", ("best epoch", facts.history.best.epoch) if facts.keeps_best else None)


def _curves(facts: Facts, name: str, factor: float) -> Iterator[Curve]:
    history = facts.history
    for label, column in (("training", name), ("validation", f"validation_{name}")):
        if column in history.names():
            values = [math.nan if value is None else factor * value for value in history.column(column)]
            yield Curve(label, history.column("epoch"), values)


def _table(facts: Facts) -> Table:
    history = facts.history
    has_validation, has_accuracy = history[-1].validation_loss is not None, history[-1].accuracy is not None
    shown = _pick(facts)
    columns = ["epoch", "step", "training loss", *(["validation loss"] if has_validation else [])]
    if has_accuracy:
        columns += ["training accuracy (%)", *(["validation accuracy (%)"] if has_validation else [])]

    def row(epoch: Epoch) -> tuple[Any, ...]:
        cells: list[Any] = [epoch.epoch, epoch.step, epoch.loss]
        cells += [epoch.validation_loss] if has_validation else []
        if has_accuracy:
            both = (epoch.accuracy, epoch.validation_accuracy) if has_validation else (epoch.accuracy,)
            cells += [None if value is None else fixed(100 * value, 2) for value in both]
        return tuple(cells)

    what = "Every epoch" if len(shown) == len(history) else f"{len(shown)} of {len(history)} epochs"
    best = f"; epoch {history.best.epoch} has the smallest loss of {'validation' if has_validation else 'training'}"
    return Table(f"{what}{best if len(history) > 1 else ''}.", tuple(columns), tuple(row(epoch) for epoch in shown))


def _pick(facts: Facts) -> list[Epoch]:
    """All epochs, or of many those of round numbers, the best and the last."""
    history = facts.history
    if len(history) <= LISTED:
        return list(history)
    numbers = {factor * 10**power for power in range(7) for factor in (1, 2, 5)}
    numbers |= {history.best.epoch, history[-1].epoch}
    return [epoch for epoch in history if epoch.epoch in numbers]
