"""The drawings that studies share: curves and small multiples of curves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter
from numpy.typing import ArrayLike

from fbp.errors import FbpError
from fbp.report.look import FONT, INK, MUTED, WIDTH, Look, canvas, darker, look, style

_LONGEST_END = 24
_REFERENCE_DASH = (0, (2, 2))
_THEORY: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": "-", "zorder": 2.5}


@dataclass(frozen=True)
class Curve:
    """A line y over x, with the band from `low` to `high` where both are given.

    `expected` is what theory says at x: a thin line over the band, named "theory" in the legend.
    """

    label: str
    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    expected: ArrayLike | None = None


class _End(NamedTuple):
    """Where a line ends, and what may be written there."""

    text: str
    x: float
    y: float
    color: str


def curves(
    curves: Sequence[Curve],
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    reference: tuple[str, float] | None = None,
) -> Figure:
    """Lines over their bands, named at their ends where the names fit, otherwise in a legend below.

    Args:
        curves: what to draw; values that an axis cannot show (NaN; 0 on a logarithmic one) leave gaps.
        xlabel: the horizontal axis, with its unit.
        ylabel: the vertical axis, with its unit.
        title: a heading inside the figure.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is logarithmic.
        reference: a name and a height for a horizontal line to compare with.

    Returns:
        The figure, 7 inches wide.
    """
    with style():
        figure = canvas(WIDTH, 3.9)
        axes = figure.subplots()
        looks = _looks(curves)
        ends = _plot(axes, curves, looks, log_x, log_y, reference)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if title is not None:
            axes.set_title(title)
        figure.draw_without_rendering()
        if not _has_theory(curves) and _ends_are_free(axes, ends):
            for end in ends:
                axes.annotate(
                    end.text,
                    (1.0, end.y),
                    xycoords=axes.get_yaxis_transform(),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    color=end.color,
                    annotation_clip=False,
                )
        else:
            _legend(figure, looks, reference, _has_theory(curves))
    return figure


def panels(
    panels: Sequence[tuple[str, Sequence[Curve]]],
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    log_x: bool = False,
    log_y: bool = False,
    reference: tuple[str, float] | None = None,
) -> Figure:
    """Small multiples on the same axes, at most three side by side, with one legend for all.

    Args:
        panels: a heading and curves for each; curves of one label look the same in every panel.
        xlabel: the horizontal axis, with its unit.
        ylabel: the vertical axis, with its unit.
        title: a heading over all panels.
        log_x: whether the horizontal axes are logarithmic.
        log_y: whether the vertical axes are logarithmic.
        reference: a name and a height for a horizontal line in every panel.

    Returns:
        The figure, 7 inches wide.

    Raises:
        FbpError: there is no panel.
    """
    if not panels:
        raise FbpError("small multiples need at least one panel: received none; give (title, curves) pairs")
    across = 2 if len(panels) == 4 else min(len(panels), 3)
    down = -(-len(panels) // across)
    with style():
        figure = canvas(WIDTH, 0.9 + (2.1 if across > 1 else 3.0) * down)
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        every = [curve for _, part in panels for curve in part]
        looks = _looks(every)
        for index, axes in enumerate(grid.flat):
            if index >= len(panels):
                axes.remove()
                continue
            heading, part = panels[index]
            _plot(axes, part, looks, log_x, log_y, reference)
            axes.set_title(heading, fontsize=FONT)
            # The last panel of a column carries the numbers, also where the row below is not full.
            axes.tick_params(labelbottom=index + across >= len(panels))
        figure.supylabel(ylabel, fontsize=FONT)
        if title is not None:
            figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
        # The layout engine would put the legend and the common label in one place: stack them by hand.
        legend = _legend(figure, looks, reference, _has_theory(every), loc="lower center")
        figure.draw_without_rendering()
        inches = legend.get_window_extent().height / figure.dpi
        figure.set_figheight(figure.get_figheight() + max(0.0, inches - 0.45))
        tall = figure.get_figheight()
        foot = (inches + 0.22) / tall
        engine: Any = figure.get_layout_engine()
        engine.set(rect=(0, foot, 1, 1 - foot))
        figure.supxlabel(xlabel, y=(inches + 0.04) / tall, fontsize=FONT, va="bottom")
    return figure


def _looks(curves: Iterable[Curve]) -> dict[str, Look]:
    labels = dict.fromkeys(curve.label for curve in curves)
    return {label: look(rank) for rank, label in enumerate(labels)}


def _plot(
    axes: Axes,
    curves: Sequence[Curve],
    looks: dict[str, Look],
    log_x: bool,
    log_y: bool,
    reference: tuple[str, float] | None,
) -> list[_End]:
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")
    axes.margins(x=0.02)
    ends = [_draw(axes, curve, looks[curve.label], log_x, log_y) for curve in curves]
    if reference is not None:
        label, height = reference
        axes.axhline(height, color=MUTED, linewidth=1.2, linestyle=_REFERENCE_DASH, zorder=1.5)
        ends.append(_End(label, np.nan, height, MUTED))
    for axis, log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
        low, high = axis.get_view_interval()
        if log and low >= 1e-3 and high < 2e4:
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(_PlainLog())
    return ends


def _draw(axes: Axes, curve: Curve, look: Look, log_x: bool, log_y: bool) -> _End:
    x, y = _visible(curve.x, log_x), _visible(curve.y, log_y)
    if curve.low is not None and curve.high is not None:
        # A band that reaches down to zero goes on to the edge of a logarithmic axis.
        axes.fill_between(
            x,
            np.asarray(curve.low, float),
            _visible(curve.high, log_y),
            color=look.color,
            alpha=0.16,
            linewidth=0,
        )
    step = max(1, len(x) // 8)
    axes.plot(
        x,
        y,
        color=look.color,
        linestyle=look.dash,
        marker=look.marker,
        markevery=(look.rank * step // 5 % step, step),
        markeredgecolor="white",
        markeredgewidth=0.5,
    )
    if curve.expected is not None:
        axes.plot(x, _visible(curve.expected, log_y), **_THEORY)
    shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    last = shown[-1] if len(shown) else None
    return _End(
        curve.label,
        np.nan if last is None else float(x[last]),
        np.nan if last is None else float(y[last]),
        darker(look.color),
    )


class _PlainLog(LogFormatter):
    """Names as many ticks as matplotlib does, as plain numbers: 0.6, not 6e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _visible(values: ArrayLike, log: bool) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array) & ((array > 0) | (not log)), array, np.nan)


def _ends_are_free(axes: Axes, ends: Sequence[_End]) -> bool:
    """Whether all lines end at the right edge, far enough apart for their names, which are short."""
    reach = [end.x for end in ends if end.color != MUTED]
    if not reach or len(set(reach)) > 1 or any(np.isnan(end.y) for end in ends):
        return False
    if any(len(end.text) > _LONGEST_END or "\n" in end.text for end in ends):
        return False
    heights = np.sort(axes.transData.transform([(reach[0], end.y) for end in ends])[:, 1])
    line = 1.25 * FONT * axes.figure.dpi / 72
    return bool(np.all(np.diff(heights) >= line))


def _has_theory(curves: Iterable[Curve]) -> bool:
    return any(curve.expected is not None and np.isfinite(np.asarray(curve.expected)).any() for curve in curves)


def _legend(
    figure: Figure,
    looks: dict[str, Look],
    reference: tuple[str, float] | None,
    theory: bool,
    loc: Literal["outside lower center", "lower center"] = "outside lower center",
) -> Legend:
    handles: list[Any] = [
        Line2D([], [], color=v.color, linestyle=v.dash, marker=v.marker, label=label) for label, v in looks.items()
    ]
    if theory:
        handles.append(Line2D([], [], label="theory", **_THEORY))
    if reference is not None:
        handles.append(Line2D([], [], color=MUTED, linewidth=1.2, linestyle=_REFERENCE_DASH, label=reference[0]))
    longest = max((len(handle.get_label()) for handle in handles), default=1)
    fitting = max(1, min(5, int(WIDTH * 72 / (5.6 * longest + 44))))
    return figure.legend(handles=handles, loc=loc, ncols=min(len(handles), fitting))
