"""The drawings of lines that studies share: curves, small multiples of curves, and of many lines in order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from fbp.errors import FbpError
from fbp.report.inline import mathtext, plain
from fbp.report.lines import (
    REFERENCE,
    Curve,
    Reference,
    Window,
    add_legend,
    assign_styles,
    find_level,
    has_theory,
    is_flat,
    is_within,
    plot_curves,
    visible,
)
from fbp.report.style import FONT, INK, MUTED, WIDTH, canvas, darken, is_narrow, style

_LONGEST_END = 24
_DEPTHS = colormaps["viridis"]
_SHADES = 0.25, 0.86
"""Of these, so that the ends are seen on white and on black."""
_ENLARGED = "enlarged"


def curves(
    curves: Sequence[Curve],
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    reference: Reference = None,
) -> Figure:
    """Lines over their bands, named at their ends where the names fit, otherwise in a legend below.

    Curves that are level beside steep ones are drawn once more below, enlarged; those that coincide are drawn once,
    which is said above them.

    Args:
        curves: what to draw; values that an axis cannot show (NaN; 0 on a logarithmic one) leave gaps.
        xlabel: the horizontal axis, with its unit.
        ylabel: the vertical axis, with its unit.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is logarithmic.
        reference: a name and a height for a horizontal line to compare with.

    Returns:
        The figure, as wide as the page.

    Example:
        >>> line = fbp.report.Curve("loss", [1, 2, 3], [2.3, 0.9, 0.4])
        >>> figure = fbp.report.curves([line], "epoch", "loss (nats)", log_y=True)
        >>> figure.axes[0].get_xlabel()
        'epoch'
    """
    with style():
        level = find_level(curves, log_y)
        figure = canvas(WIDTH, 3.9 if level is None else 6.0)
        upper, *lower = figure.subplots(1 if level is None else 2, sharex=True, squeeze=False).flat
        styles = assign_styles(curves)
        ends = plot_curves(upper, curves, styles, log_x, log_y, reference)
        for axes in lower:
            inside = [curve for curve in curves if level is not None and is_within(curve, level, log_y)]
            plot_curves(axes, inside, styles, log_x, log_y, reference, level, _ENLARGED)
            axes.set_ylabel(mathtext(ylabel))
        (lower or [upper])[-1].set_xlabel(mathtext(xlabel))
        upper.set_ylabel(mathtext(ylabel))
        figure.draw_without_rendering()
        names = [
            (curve.label, y, darken(styles[curve.label].color)) for curve, (_, y) in zip(curves, ends, strict=True)
        ]
        names += [(*reference, MUTED)] if reference else []
        crowded = lower or has_theory(curves) or not all(curve.joined for curve in curves)
        if crowded or len({x for x, _ in ends}) != 1 or not _fit_at_the_edge(upper, names):
            add_legend(figure, styles, reference, has_theory(curves), joined=any(curve.joined for curve in curves))
            return figure
        for name, y, color in names:
            upper.annotate(
                mathtext(name),
                (1.0, y),
                xycoords=upper.get_yaxis_transform(),
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

    Curves that are level beside steep ones are drawn once more in panels of their own, enlarged.

    Args:
        panels: a heading and curves for each; curves of one label look the same in every panel.
        xlabel: the horizontal axis, with its unit.
        ylabel: the vertical axis, with its unit.
        reference: a name and a height for a horizontal line in every panel.

    Returns:
        The figure, as wide as the page.

    Raises:
        FbpError: there is no panel.
    """
    _check_panels(panels)
    every = [curve for _, part in panels for curve in part]
    level = find_level(every)
    drawn: list[tuple[str, Sequence[Curve], Window | None]] = [(*panel, None) for panel in panels]
    if level is not None:
        inside = [(heading, [curve for curve in part if is_within(curve, level)]) for heading, part in panels]
        drawn += [(f"{heading}, {_ENLARGED}", part, level) for heading, part in inside if not is_flat(part, level)]
    with style():
        styles = assign_styles(every)
        figure, grid = _arrange([len(panels), len(drawn) - len(panels)])
        for (heading, part, window), axes in zip(drawn, grid, strict=True):
            plot_curves(axes, part, styles, False, False, reference, window, heading)
        label = figure.supylabel(mathtext(ylabel), fontsize=FONT)
        # The layout engine would put the legend and the common label in one place: stack them by hand.
        legend = add_legend(figure, styles, reference, has_theory(every), loc="lower center")
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


def _arrange(groups: Sequence[int]) -> tuple[Figure, list[Axes]]:
    """Axes in rows, the groups one below another; within a group they share both axes."""
    most = max(groups)
    across = min(most, 2) if most == 4 or is_narrow() else min(most, 3)
    rows = [-(-count // across) for count in groups]
    down = sum(rows)
    figure = canvas(WIDTH, 0.9 + (2.1 if across > 1 else 3.0) * down)
    grid = figure.subplots(down, across, sharex=True, squeeze=False)
    kept: list[Axes] = []
    for count, first, height in zip(groups, np.cumsum([0, *rows]), rows, strict=False):
        block = list(grid[first : first + height].flat)
        for axes in block[count:]:
            axes.remove()
        for index, axes in enumerate(block[:count]):
            if index:
                axes.sharey(block[0])
            axes.tick_params(labelleft=index % across == 0, labelbottom=index + across >= count)
            kept.append(axes)
    return figure, kept


def side_by_side(panels: Sequence[tuple[str, Sequence[Curve], bool]], xlabel: str, mark: Reference = None) -> Figure:
    """Different quantities over the same axis, beside each other, with one legend for all.

    Args:
        panels: for each the name of its vertical axis with the unit, its curves, and whether it is logarithmic; curves
            of one label look the same in every panel.
        xlabel: the horizontal axis, with its unit.
        mark: a name and a place for a vertical line in every panel.

    Returns:
        The figure, as wide as the page.

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
        down = len(panels) if is_narrow() else 1
        figure = canvas(WIDTH, 0.5 + 2.8 * down)
        grid = figure.subplots(down, len(panels) // down, squeeze=False)
        styles = assign_styles(curve for _, own, _ in panels for curve in own)
        for (ylabel, own, log_y), axes in zip(panels, grid.flat, strict=True):
            plot_curves(axes, own, styles, False, log_y)
            axes.set(xlabel=mathtext(xlabel), ylabel=mathtext(ylabel))
            if mark is not None:
                axes.axvline(mark[1], zorder=1.5, **REFERENCE)
        add_legend(figure, styles, mark, False)
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
        The figure, as wide as the page.

    Raises:
        FbpError: there is no panel.

    Example:
        >>> figure = fbp.report.ranked_panels([("W", [[1, 2], [3, 4]])], [1, 2], "epoch", "norm", "block")
        >>> len(figure.axes[0].lines)
        2
    """
    _check_panels(panels)
    across = min(len(panels), 2) if len(panels) in (2, 4) or is_narrow() else min(len(panels), 3)
    down = -(-len(panels) // across)
    most = max(len(lines) for _, lines in panels)
    shades = _DEPTHS(np.linspace(*_SHADES, max(most, 2)))
    color = ScalarMappable(Normalize(0, max(most - 1, 1)), ListedColormap(shades))
    with style():
        figure = canvas(WIDTH, 0.9 + (1.9 if across > 1 else 3.0) * down)
        grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for index, ((heading, lines), axes) in enumerate(zip(panels, grid.flat, strict=False)):
            for i, line in enumerate(lines):
                ink = INK if len(lines) == 1 else shades[i]
                axes.plot(np.asarray(x), visible(line, True), color=ink, linewidth=1.2)
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


def _fit_at_the_edge(axes: Axes, names: Sequence[tuple[str, float, str]]) -> bool:
    """Whether short names can stand at these heights without touching."""
    heights = np.sort([axes.transData.transform((axes.get_xlim()[1], y))[1] for _, y, _ in names])
    line = 1.25 * FONT * axes.figure.dpi / 72
    short = all(
        len(plain(name)) <= (_LONGEST_END // 2 if is_narrow() else _LONGEST_END) and "\n" not in name
        for name, *_ in names
    )
    return short and bool(np.isfinite(heights).all() and np.all(np.diff(heights) >= line))
