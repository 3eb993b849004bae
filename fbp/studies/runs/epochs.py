"""How a training went: losses and accuracies over the epochs, on pictures and in a table."""

from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fbp.report import Figure, Table, canvas, curve_style, fixed, number
from fbp.report.style import INK, WIDTH
from fbp.studies.frame import Draft
from fbp.studies.runs.facts import Facts
from fbp.training import Epoch

LISTED = 12
"""A longer training is listed by the epochs 1, 2, 5, 10, 20, 50, ..."""
RISEN = 1.01
"""A validation loss this many times its smallest one has risen."""
_BEST: dict[str, Any] = {"color": INK, "linewidth": 1.0, "linestyle": (0, (3, 2))}


def add_epochs(draft: Draft, facts: Facts) -> None:
    """Add how the losses and accuracies went.

    Args:
        draft: the page.
        facts: of the run.
    """
    history = facts.history
    draft.records += [
        {"kind": "epoch", **{name: value for name, value in epoch._asdict().items() if name not in _CLOCK}, **epoch.readings}
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
        fell = f"from {number(first, 3)} to {number(last.watched_loss, 3)}"
        return f"The {name} loss fell {fell} and was smallest after the last epoch, {last.epoch}."
    text = f"The {name} loss was smallest after epoch {best.epoch} of {last.epoch}, {number(best.watched_loss, 3)}"
    if last.watched_loss < RISEN * best.watched_loss:
        return f"{text}, and within {RISEN - 1:.0%} of that at the end."
    text += f", and {number(last.watched_loss, 3)} at the end"
    if last.validation_loss is not None and last.loss < best.loss:
        text += (
            f", while the training loss fell on from {number(best.loss, 3)} to {number(last.loss, 3)}: it **overfits**"
        )
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
    history = facts.history
    has_accuracy = history[-1].accuracy is not None
    shown = [("loss", facts.loss_label), *([("accuracy", "accuracy (%)")] if has_accuracy else [])]
    figure = canvas(WIDTH, 3.3)
    grid: Any = figure.subplots(1, len(shown), squeeze=False)[0]
    handles: dict[str, Line2D] = {}
    for axes, (name, label) in zip(grid, shown, strict=True):
        lines = {"training": name, "validation": f"validation_{name}"}
        own = {key: history.column(column) for key, column in lines.items() if column in history.names()}
        _plot(axes, history.column("epoch"), own, 100 if name == "accuracy" else 1, handles)
        axes.set(xlabel="epoch", ylabel=label)
        if facts.keeps_best:
            handles["best epoch"] = axes.axvline(history.best.epoch, **_BEST)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3)
    return figure


def _plot(axes: Axes, x: list[int], lines: dict[str, list[Any]], factor: float, handles: dict[str, Line2D]) -> None:
    values = {key: factor * np.array([np.nan if v is None else v for v in own], float) for key, own in lines.items()}
    every = np.concatenate(list(values.values()))
    every = every[np.isfinite(every)]
    if factor == 1 and every.size and every.min() > 0 and every.max() > 10 * every.min():
        axes.set(yscale="log")
    for rank, (key, own) in enumerate(values.items()):
        (handles[key],) = axes.plot(x, own, **curve_style(rank).line, markevery=max(1, len(x) // 8))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)


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
