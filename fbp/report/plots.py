"""The drawings of lines that studies share: curves, small multiples of curves, and of many lines in order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, MaxNLocator
from numpy.typing import ArrayLike

from fbp.errors import FbpError
from fbp.report.inline import mathtext, plain
from fbp.report.style import FONT, INK, MUTED, WIDTH, CurveStyle, canvas, curve_style, darken, style

_LONGEST_END = 24
_DEPTHS = colormaps["viridis"]
_REFERENCE: dict[str, Any] = {"color": MUTED, "linewidth": 1.2, "linestyle": (0, (2, 2))}
_THEORY: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": "-", "zorder": 2.5}

Reference = tuple[str, float] | None


@dataclass(frozen=True)
class Curve:
    """A line y over x, with the band from `low` to `high` where both are given.

    `expected` is what theory says at x: a thin line over the band, named "theory" in the legend. The label may hold
    $mathematics$, like every label and heading of a figure.
    """

    label: str
    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    expected: ArrayLike | None = None


def curves(
    curves: Sequence[Curve],
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    reference: Reference = None,
) -> Figure:
    """Lines over their bands, named at their ends where the names fit, otherwise in a legend below.

    Args:
        curves: what to draw; values that an axis cannot show (NaN; 0 on a logarithmic one) leave gaps.
        xlabel: the horizontal axis, with its unit.
        ylabel: the vertical axis, with its unit.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is logarithmic.
        reference: a name and a height for a horizontal line to compare with.

    Returns:
        The figure, 7 inches wide.

    Example:
        >>> line = fbp.report.Curve("loss", [1, 2, 3], [2.3, 0.9, 0.4])
        >>> figure = fbp.report.curves([line], "epoch", "loss (nats)", log_y=True)
        >>> figure.axes[0].get_xlabel()
        'epoch'
    """
    with style():
        figure = canvas(WIDTH, 3.9)
        axes = figure.subplots()
        styles = _assign_styles(curves)
        ends = _plot(axes, curves, styles, log_x, log_y, reference)
        axes.set(xlabel=mathtext(xlabel), ylabel=mathtext(ylabel))
        figure.draw_without_rendering()
        names = [
            (curve.label, y, darken(styles[curve.label].color)) for curve, (_, y) in zip(curves, ends, strict=True)
        ]
        names += [(*reference, MUTED)] if reference else []
        if _has_theory(curves) or len({x for x, _ in ends}) != 1 or not _fit_at_the_edge(axes, names):
            _add_legend(figure, styles, reference, _has_theory(curves))
            return figure
        for name, y, color in names:
            axes.annotate(
                mathtext(name),
                (1.0, y),
                xycoords=axes.get_yaxis_transform(),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                color=color,
                annotation_clip=False,
            )
    return figure


def panels(
    panels: Sequence[tuple[str, Sequence[Curve]]], xlabel: str, ylabel: str, reference: Reference = None
) -> Figure:
    """Small multiples on the same axes, at most three side by side, with one legend for all.

    Args:
        panels: a heading and curves for each; curves of one label look the same in every panel.
        xlabel: the horizontal axis, with its unit.
        ylabel: the vertical axis, with its unit.
        reference: a name and a height for a horizontal line in every panel.

    Returns:
        The figure, 7 inches wide.

    Raises:
        FbpError: there is no panel.
    """
    _check_panels(panels)
    across = 2 if len(panels) == 4 else min(len(panels), 3)
    down = -(-len(panels) // across)
    with style():
        figure = canvas(WIDTH, 0.9 + (2.1 if across > 1 else 3.0) * down)
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        every = [curve for _, part in panels for curve in part]
        styles = _assign_styles(every)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for index, ((heading, part), axes) in enumerate(zip(panels, grid.flat, strict=False)):
            _plot(axes, part, styles, False, False, reference)
            # Not bold: mathtext would stay as it is beside it.
            axes.set_title(mathtext(heading), fontsize=FONT, fontweight="normal")
            # The last panel of a column carries the numbers, also where the row below is not full.
            axes.tick_params(labelbottom=index + across >= len(panels))
        label = figure.supylabel(mathtext(ylabel), fontsize=FONT)
        # The layout engine would put the legend and the common label in one place: stack them by hand.
        legend = _add_legend(figure, styles, reference, _has_theory(every), loc="lower center")
        figure.draw_without_rendering()
        inches = legend.get_window_extent().height / figure.dpi
        figure.set_figheight(figure.get_figheight() + max(0.0, inches - 0.45))
        tall = figure.get_figheight()
        foot = (inches + 0.22) / tall
        engine: Any = figure.get_layout_engine()
        engine.set(rect=(0, foot, 1, 1 - foot))
        label.set_y(foot + (1 - foot) / 2)
        figure.supxlabel(mathtext(xlabel), y=(inches + 0.04) / tall, fontsize=FONT, va="bottom")
    return figure


def side_by_side(panels: Sequence[tuple[str, Sequence[Curve], bool]], xlabel: str, mark: Reference = None) -> Figure:
    """Different quantities over the same axis, beside each other, with one legend for all.

    Args:
        panels: for each the name of its vertical axis with the unit, its curves, and whether it is logarithmic; curves
            of one label look the same in every panel.
        xlabel: the horizontal axis, with its unit.
        mark: a name and a place for a vertical line in every panel.

    Returns:
        The figure, 7 inches wide.

    Raises:
        FbpError: there is no panel.

    Example:
        >>> loss = fbp.report.Curve("training", [1, 2, 3], [2.3, 0.9, 0.4])
        >>> figure = fbp.report.side_by_side([("loss (nats)", [loss], True)], "epoch", ("best", 3))
        >>> figure.axes[0].get_yscale()
        'log'
    """
    _check_panels(panels)
    with style():
        figure = canvas(WIDTH, 3.3)
        grid = figure.subplots(1, len(panels), squeeze=False)
        styles = _assign_styles(curve for _, own, _ in panels for curve in own)
        for (ylabel, own, log_y), axes in zip(panels, grid.flat, strict=True):
            _plot(axes, own, styles, False, log_y, None)
            axes.set(xlabel=mathtext(xlabel), ylabel=mathtext(ylabel))
            if mark is not None:
                axes.axvline(mark[1], zorder=1.5, **_REFERENCE)
        _add_legend(figure, styles, mark, False)
    return figure


def ranked_panels(
    panels: Sequence[tuple[str, Sequence[ArrayLike]]], x: ArrayLike, xlabel: str, ylabel: str, rank: str
) -> Figure:
    """Small multiples of many lines that have an order, such as layers by depth: the later, the lighter.

    Args:
        panels: a heading for each, and its lines in their order; a single one is drawn in ink.
        x: of all lines.
        xlabel: the horizontal axis, with its unit.
        ylabel: the vertical axis, logarithmic, with its unit.
        rank: what orders the lines, e.g. "block".

    Returns:
        The figure, 7 inches wide.

    Raises:
        FbpError: there is no panel.

    Example:
        >>> figure = fbp.report.ranked_panels([("W", [[1, 2], [3, 4]])], [1, 2], "epoch", "norm", "block")
        >>> len(figure.axes[0].lines)
        2
    """
    _check_panels(panels)
    across = 2 if len(panels) in (2, 4) else min(len(panels), 3)
    down = -(-len(panels) // across)
    most = max(len(lines) for _, lines in panels)
    shades = _DEPTHS(np.linspace(0, 0.86, max(most, 2)))
    color = ScalarMappable(Normalize(0, max(most - 1, 1)), ListedColormap(shades))
    with style():
        figure = canvas(WIDTH, 0.9 + (1.9 if across > 1 else 3.0) * down)
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for index, ((heading, lines), axes) in enumerate(zip(panels, grid.flat, strict=False)):
            for i, line in enumerate(lines):
                ink = INK if len(lines) == 1 else shades[i]
                axes.plot(np.asarray(x), _visible(line, True), color=ink, linewidth=1.2)
            axes.set(yscale="log", xmargin=0.02)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
            axes.set_title(mathtext(heading), fontsize=FONT, fontweight="normal")
            axes.tick_params(labelbottom=index + across >= len(panels))
        figure.supxlabel(mathtext(xlabel), fontsize=FONT)
        figure.supylabel(mathtext(ylabel), fontsize=FONT)
        if most > 1:
            bar = figure.colorbar(color, ax=list(grid.flat[: len(panels)]), shrink=0.6, aspect=30, pad=0.02)
            bar.set_label(rank, fontsize=FONT)
            ticks = np.unique(np.linspace(0, most - 1, min(most, 5)).round()).astype(int).tolist()
            bar.set_ticks(ticks, labels=list(map(str, ticks)))
            bar.outline.set_visible(False)
    return figure


def _check_panels(panels: Sequence[Any]) -> None:
    if not panels:
        raise FbpError("small multiples must have at least one panel, got none; give (title, curves) pairs")


def _assign_styles(curves: Iterable[Curve]) -> dict[str, CurveStyle]:
    labels = dict.fromkeys(curve.label for curve in curves)
    return {label: curve_style(rank) for rank, label in enumerate(labels)}


def _plot(
    axes: Axes, curves: Sequence[Curve], styles: dict[str, CurveStyle], log_x: bool, log_y: bool, reference: Reference
) -> list[tuple[float, float]]:
    """Draw the curves; where each of them ends."""
    axes.set(xscale="log" if log_x else "linear", yscale="log" if log_y else "linear", xmargin=0.02)
    ends = [_draw(axes, curve, styles[curve.label], log_x, log_y) for curve in curves]
    if reference is not None:
        axes.axhline(reference[1], zorder=1.5, **_REFERENCE)
    if not log_x and all(np.asarray(curve.x).dtype.kind in "iu" for curve in curves):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis, log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
        low, high = axis.get_view_interval()
        if log and low >= 1e-3 and high < 2e4:
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(_PlainLog())
    return ends


def _draw(axes: Axes, curve: Curve, look: CurveStyle, log_x: bool, log_y: bool) -> tuple[float, float]:
    """Draw a curve; its last visible point, NaN where there is none."""
    x, y = _visible(curve.x, log_x), _visible(curve.y, log_y)
    if curve.low is not None and curve.high is not None:
        # A band that reaches down to zero goes on to the edge of a logarithmic axis.
        low, high = np.asarray(curve.low, float), _visible(curve.high, log_y)
        axes.fill_between(x, low, high, color=look.color, alpha=0.16, linewidth=0)
    step = max(1, len(x) // 8)
    places = (look.rank * step // 5 % step, step)
    axes.plot(x, y, **look.line, markevery=places, markeredgecolor="white", markeredgewidth=0.5)
    if curve.expected is not None:
        axes.plot(x, _visible(curve.expected, log_y), **_THEORY)
    shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    return (float(x[shown[-1]]), float(y[shown[-1]])) if len(shown) else (np.nan, np.nan)


class _PlainLog(LogFormatter):
    """Names as many ticks as matplotlib does, as plain numbers: 0.6, not 6e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _visible(values: ArrayLike, log: bool) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array) & ((array > 0) | (not log)), array, np.nan)


def _fit_at_the_edge(axes: Axes, names: Sequence[tuple[str, float, str]]) -> bool:
    """Whether short names can stand at these heights without touching."""
    heights = np.sort([axes.transData.transform((axes.get_xlim()[1], y))[1] for _, y, _ in names])
    line = 1.25 * FONT * axes.figure.dpi / 72
    short = all(len(plain(name)) <= _LONGEST_END and "\n" not in name for name, *_ in names)
    return short and bool(np.isfinite(heights).all() and np.all(np.diff(heights) >= line))


def _has_theory(curves: Iterable[Curve]) -> bool:
    return any(curve.expected is not None and np.isfinite(np.asarray(curve.expected)).any() for curve in curves)


def _add_legend(
    figure: Figure, styles: dict[str, CurveStyle], reference: Reference, theory: bool, loc: Any = "outside lower center"
) -> Legend:
    entries = [(label, look.line) for label, look in styles.items()]
    if theory:
        entries.append(("theory", _THEORY))
    if reference is not None:
        entries.append((reference[0], _REFERENCE))
    handles = [Line2D([], [], label=mathtext(label), **look) for label, look in entries]
    longest = max((len(plain(label)) for label, _ in entries), default=1)
    fitting = max(1, min(5, int(WIDTH * 72 / (5.6 * longest + 44))))
    return figure.legend(handles=handles, loc=loc, ncols=max(1, min(len(handles), fitting)))
