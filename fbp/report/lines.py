"""How curves are drawn into axes: styles, bands, theory and ticks, which of them coincide, and which are level."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogFormatter, MaxNLocator, NullLocator
from numpy.typing import ArrayLike

from fbp.report.inline import mathtext, plain
from fbp.report.style import FONT, INK, MUTED, PAPER, CurveStyle, curve_style

REFERENCE: dict[str, Any] = {"color": MUTED, "linewidth": 1.2, "linestyle": (0, (2, 2))}
_THEORY: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": "-", "zorder": 2.5}
_POINTS: dict[str, Any] = {"linestyle": "none", "markersize": 7}
_ALIKE = 0.006
"""Of the height of the axes, less than a line is wide: curves so near to one another are drawn once."""
_LEVEL = 0.2
"""Of the height of the axes: curves that keep within so little of it are drawn again, enlarged."""
_TICKS = 8
_SMALL = FONT - 1.5

Reference = tuple[str, float] | None
Window = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A line y over x, with the band from `low` to `high` where both are given.

    `expected` is what theory says at x: a thin line over the band, named "theory" in the legend. Values that are not
    joined are points with bars, for x that have no order. The label may hold $mathematics$, like every label and
    heading of a figure.
    """

    label: str
    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None
    expected: ArrayLike | None = None
    joined: bool = field(default=True, kw_only=True)


def assign_styles(curves: Iterable[Curve]) -> dict[str, CurveStyle]:
    """A style for each label, in the order in which they come.

    Args:
        curves: of one figure.
    """
    labels = dict.fromkeys(curve.label for curve in curves)
    return {label: curve_style(rank) for rank, label in enumerate(labels)}


def plot_curves(
    axes: Axes,
    curves: Sequence[Curve],
    styles: dict[str, CurveStyle],
    log_x: bool = False,
    log_y: bool = False,
    reference: Reference = None,
    window: Window | None = None,
    heading: str = "",
) -> list[tuple[float, float]]:
    """Draw curves, once where they coincide, which is then said over the axes.

    Args:
        axes: where.
        curves: what.
        styles: by label.
        log_x: whether the horizontal axis is logarithmic.
        log_y: whether the vertical axis is logarithmic.
        reference: a name and a height for a horizontal line.
        window: the heights that are shown; None for all.
        heading: of the axes.

    Returns:
        Where each curve ends: its last visible point, NaN where there is none.
    """
    axes.set(xscale="log" if log_x else "linear", yscale="log" if log_y else "linear", xmargin=0.02)
    if window is not None:
        axes.set_ylim(*window)
    shown = window or _span(curves, log_y)
    same = _find_coinciding(curves, log_x, log_y, shown)
    ends = [
        _draw(axes, curve, styles[curve.label], log_x, log_y, hidden=index in same)
        for index, curve in enumerate(curves)
    ]
    if reference is not None:
        axes.axhline(reference[1], zorder=1.5, **REFERENCE)
    _set_ticks(axes, curves, log_x, log_y)
    _write_heading(axes, heading, [(curves[i].label, curves[first].label) for i, first in same.items()])
    return ends


def find_level(curves: Sequence[Curve], log_y: bool = False) -> Window | None:
    """The heights of the curves that are level beside steep ones, in which they can be drawn again.

    Args:
        curves: of one figure.
        log_y: whether the vertical axis is logarithmic.

    Returns:
        The lowest and the highest place, with a margin; None where no curve is level or all are.
    """
    whole = _span(curves, log_y)
    if whole is None:
        return None
    seen = [(curve, span) for curve in curves if (span := _span([curve], log_y)) is not None]
    ends = [[_scale(end, log_y) for end in span] for _, span in seen]
    tall = _scale(whole[1], log_y) - _scale(whole[0], log_y)
    if max(high - low for low, high in ends) <= tall / 2:
        return None
    level: list[list[float]] = []
    for start, _ in ends:
        inside = [end for end in ends if start <= end[0] and end[1] <= start + _LEVEL * tall]
        level = max(level, inside, key=len)
    # One curve alone can be read as it is, but beside theory.
    if len(level) < 2 and not has_theory(curve for (curve, _), end in zip(seen, ends, strict=True) if end in level):
        return None
    low, high = min(end[0] for end in level), max(end[1] for end in level)
    margin = 0.08 * (high - low) or 0.01 * tall
    low, high = low - margin, high + margin
    return (10**low, 10**high) if log_y else (low, high)


def is_within(curve: Curve, window: Window, log_y: bool = False) -> bool:
    """Whether all of a curve can be seen in a window.

    Args:
        curve: a curve.
        window: the heights that are shown.
        log_y: whether the vertical axis is logarithmic.
    """
    span = _span([curve], log_y)
    return span is not None and window[0] <= span[0] and span[1] <= window[1]


def is_flat(curves: Sequence[Curve], window: Window) -> bool:
    """Whether curves are one level line in a window, without theory to compare with: it need not be drawn again.

    Args:
        curves: inside the window.
        window: the heights that are shown.
    """
    span = _span(curves, False)
    return not has_theory(curves) and (span is None or span[1] - span[0] <= _ALIKE * (window[1] - window[0]))


def has_theory(curves: Iterable[Curve]) -> bool:
    """Whether theory says anything about one of the curves."""
    return any(curve.expected is not None and np.isfinite(np.asarray(curve.expected)).any() for curve in curves)


def add_legend(
    figure: Figure,
    styles: dict[str, CurveStyle],
    reference: Reference,
    theory: bool,
    loc: Any = "outside lower center",
    joined: bool = True,
) -> Legend:
    """The legend of a figure, below it.

    Args:
        figure: the figure.
        styles: by label.
        reference: the line to compare with.
        theory: whether lines of theory are drawn.
        loc: where, as matplotlib takes it.
        joined: whether the curves are lines, not points.
    """
    entries = [(label, look.line if joined else look.line | _POINTS) for label, look in styles.items()]
    if theory:
        entries.append(("theory", _THEORY))
    if reference is not None:
        entries.append((reference[0], REFERENCE))
    handles = [Line2D([], [], label=mathtext(label), **look) for label, look in entries]
    longest = max((len(plain(label)) for label, _ in entries), default=1)
    fitting = max(1, min(5, int(figure.get_figwidth() * 72 / (5.6 * longest + 44))))
    return figure.legend(handles=handles, loc=loc, ncols=max(1, min(len(handles), fitting)))


def visible(values: ArrayLike, log: bool) -> np.ndarray:
    """Values that an axis can show; NaN in place of the others.

    Args:
        values: of a curve.
        log: whether the axis is logarithmic.
    """
    array = np.asarray(values, dtype=float)
    return np.where(np.isfinite(array) & ((array > 0) | (not log)), array, np.nan)


def _draw(axes: Axes, curve: Curve, look: CurveStyle, log_x: bool, log_y: bool, hidden: bool) -> tuple[float, float]:
    x, y = visible(curve.x, log_x), visible(curve.y, log_y)
    if curve.low is not None and curve.high is not None:
        # A band that reaches down to zero goes on to the edge of a logarithmic axis.
        low, high = np.asarray(curve.low, float), visible(curve.high, log_y)
        if curve.joined:
            axes.fill_between(x, low, high, color=look.color, alpha=0.16, linewidth=0)
        else:
            axes.vlines(x, low, high, color=look.color, linewidth=1.2)
    if not hidden:
        step = max(1, len(x) // 8)
        places = (look.rank * step // 5 % step, step) if curve.joined else None
        line: dict[str, Any] = look.line if curve.joined else look.line | _POINTS
        axes.plot(x, y, **line, markevery=places, markeredgecolor=PAPER, markeredgewidth=0.5)
    if curve.expected is not None:
        axes.plot(x, visible(curve.expected, log_y), **_THEORY)
    shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    return (float(x[shown[-1]]), float(y[shown[-1]])) if len(shown) else (np.nan, np.nan)


def _scale(value: float, log: bool) -> float:
    return float(np.log10(value)) if log else value


def _span(curves: Sequence[Curve], log_y: bool) -> Window | None:
    values = [visible(y, log_y) for curve in curves for y in (curve.y, curve.low, curve.high) if y is not None]
    every = np.concatenate([np.ravel(x) for x in values]) if values else np.empty(0)
    return (float(np.nanmin(every)), float(np.nanmax(every))) if np.isfinite(every).any() else None


def _find_coinciding(curves: Sequence[Curve], log_x: bool, log_y: bool, shown: Window | None) -> dict[int, int]:
    """By the number of a curve that need not be drawn that of the one on which it lies."""
    same: dict[int, int] = {}
    if shown is None:
        return same
    tolerance = _ALIKE * (_scale(shown[1], log_y) - _scale(shown[0], log_y))
    heights = [np.log10(y) if log_y else y for y in (visible(curve.y, log_y) for curve in curves)]
    for i, curve in enumerate(curves):
        if np.isnan(heights[i]).all():
            continue
        for first in range(i):
            if first in same or curves[first].joined != curve.joined:
                continue
            alike = np.array_equal(visible(curves[first].x, log_x), visible(curve.x, log_x), equal_nan=True)
            gaps = np.isnan(heights[first]), np.isnan(heights[i])
            if alike and np.array_equal(*gaps) and np.nanmax(np.abs(heights[first] - heights[i])) <= tolerance:
                same[i] = first
                break
    return same


def _write_heading(axes: Axes, heading: str, same: Sequence[tuple[str, str]]) -> None:
    width = _count_characters(axes)
    notes = [line for label, first in same for line in wrap(f"{label}: as {first}", int(width * FONT / _SMALL))]
    if notes:
        small = {
            "fontsize": _SMALL,
            "color": MUTED,
            "transform": axes.transAxes,
            "va": "bottom",
            "linespacing": 1.15,
        }
        axes.text(0, 1.02, "\n".join(map(mathtext, notes)), **small)
    if heading:
        # Not bold: mathtext would stay as it is beside it.
        pad = 5 + 1.35 * _SMALL * len(notes)
        lines = wrap(heading, width)
        axes.set_title("\n".join(map(mathtext, lines)), fontsize=FONT, fontweight="normal", pad=pad)


def _count_characters(axes: Axes) -> int:
    """About as many as stand beside each other over the width of the axes."""
    return int(axes.get_position().width * axes.figure.bbox.width / axes.figure.dpi * 72 / (0.55 * FONT))


def wrap(heading: str, width: int) -> list[str]:
    """Lines of so many characters, which break no formula.

    Args:
        heading: a line of prose.
        width: characters.
    """
    lines = [""]
    for word in re.findall(r"(?:\$[^$]*\$|\S)+", heading):
        if lines[-1] and len(plain(f"{lines[-1]} {word}")) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".lstrip()
    return lines


def _set_ticks(axes: Axes, curves: Sequence[Curve], log_x: bool, log_y: bool) -> None:
    places = np.unique(np.concatenate([visible(curve.x, log_x).ravel() for curve in curves])) if curves else np.empty(0)
    places = places[np.isfinite(places)]
    whole = bool(len(places)) and bool(np.all(places == np.round(places)))
    if whole and not log_x:
        digits = len(f"{places[-1]:.0f}")
        axes.xaxis.set_major_locator(
            MaxNLocator(min(10, max(2, _count_characters(axes) // (digits + 2))), integer=True)
        )
    if whole and log_x and len(places) <= _TICKS:
        axes.xaxis.set_major_locator(FixedLocator(places.tolist()))
        axes.xaxis.set_minor_locator(NullLocator())
    for axis, log in ((axes.xaxis, log_x), (axes.yaxis, log_y)):
        low, high = axis.get_view_interval()
        if log and low >= 1e-3 and high < 2e4:
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(_PlainLog())


class _PlainLog(LogFormatter):
    """Names as many ticks as matplotlib does, as plain numbers: 0.6, not 6e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""
