"""The picture of a grid: a tile for each cell, in the color of a measured factor and, below, of the expected one."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from fbp.errors import FbpError
from fbp.report.inline import mathtext
from fbp.report.lines import wrap
from fbp.report.style import FONT, MUTED, WIDTH, canvas, is_narrow, style

_SHADES = LinearSegmentedColormap.from_list("factors", ("#2166ac", "#8fc3e0", "#f7f7f7", "#f6b08a", "#b2182b"))
_FARTHEST = 2.0
"""The factor, and one over it, from which on tiles have the darkest colors."""
_UPPER = 0.62
_LABEL = 40
"""Characters of a line below the colors that a phone shows."""


class Tile(NamedTuple):
    """A cell of a map.

    Attributes:
        factor: the measured one, at least 0; NaN where there is none.
        mark: one character before it.
        expected: what theory says; None where it says nothing.
    """

    factor: float
    mark: str = ""
    expected: float | None = None


def tiles(
    rows: Sequence[tuple[str, str]], columns: Sequence[str], cells: Sequence[Sequence[Tile | None]], label: str
) -> Figure:
    """A map of factors: blue below 1, white at 1, red above; the lower part of a tile is theory.

    Args:
        rows: a group and a name for each row; rows of a group stand together.
        columns: a name for each column.
        cells: by row and column; None leaves a gap.
        label: what the factor is.

    Returns:
        The figure, as wide as the page.

    Raises:
        FbpError: there is no cell, or the cells are not those of the rows and columns.

    Example:
        >>> cells = [[fbp.report.Tile(0.5, "↓", 0.51)], [fbp.report.Tile(1.0, "=")]]
        >>> figure = fbp.report.tiles([("relu", "lecun"), ("relu", "he")], ["depth 10"], cells, "factor a layer")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['relu', '↓ 0.500', 'theory 0.510', '= 1.000']
    """
    if not rows or not columns or len(cells) != len(rows) or any(len(row) != len(columns) for row in cells):
        raise FbpError(
            f"a map must have a cell for each of its rows and columns, at least one, got {len(rows)} rows, "
            f"{len(columns)} columns and {len(cells)} rows of cells; use None for a gap"
        )
    limit = math.log10(_FARTHEST)
    color = ScalarMappable(Normalize(-limit, limit), _SHADES)
    place = lambda factor: math.log10(factor) if factor > 0 else 0.0 if math.isnan(factor) else -limit
    shade = lambda factor: color.to_rgba(np.clip(place(factor), -limit, limit))
    heights = _place(rows)
    with style():
        figure = canvas(WIDTH, 1.25 + 0.4 * (heights[-1] + 1))
        room = (figure.get_figwidth() - 1.5) / len(columns)
        word = "theory " if room > 0.9 else ""
        axes = figure.subplots()
        for (group, _), row, top in zip(rows, cells, heights, strict=True):
            if top in _first_of_groups(rows, heights):
                axes.text(0, top - 0.08, mathtext(group), va="bottom", fontsize=FONT, fontweight="bold", color=MUTED)
            for j, cell in enumerate(row):
                if cell is not None:
                    _draw_tile(axes, cell, j, top, shade, word)
        axes.set(xlim=(0, len(columns)), ylim=(heights[-1] + 1, -0.75))
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.set_xticks(np.arange(len(columns)) + 0.5, [mathtext(name) for name in columns])
        axes.set_yticks(np.array(heights) + 0.47, [mathtext(name) for _, name in rows])
        bar = figure.colorbar(color, ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.02, extend="both")
        marks = (1 / _FARTHEST, 0.7, 0.9, 1, 1.1, 1.4, _FARTHEST) if not is_narrow() else (1 / _FARTHEST, 1, _FARTHEST)
        bar.set_ticks([math.log10(x) for x in marks], labels=[f"{x:g}" for x in marks])
        lines = wrap(label, _LABEL) if is_narrow() else [label]
        bar.set_label("\n".join(map(mathtext, lines)), fontsize=FONT)
        bar.outline.set_visible(False)
    return figure


def _place(rows: Sequence[tuple[str, str]]) -> list[float]:
    """The upper edge of each row, with room above each group for its name."""
    heights, top, before = [], 0.0, None
    for group, _ in rows:
        top += 0.6 if before not in (None, group) else 0.0
        heights.append(top)
        top, before = top + 1, group
    return heights


def _first_of_groups(rows: Sequence[tuple[str, str]], heights: Sequence[float]) -> set[float]:
    return {heights[i] for i in range(len(rows)) if i == 0 or rows[i][0] != rows[i - 1][0]}


def _draw_tile(axes: Any, cell: Tile, column: int, top: float, shade: Any, word: str) -> None:
    parts = [
        (cell.factor, f"{cell.mark} {_describe(cell.factor)}".strip(), 0.0, _UPPER if cell.expected else 0.94, FONT)
    ]
    if cell.expected is not None:
        parts.append((cell.expected, f"{word}{_describe(cell.expected)}", _UPPER, 0.94 - _UPPER, FONT - 2.5))
    for factor, text, down, height, size in parts:
        fill = shade(factor)
        axes.add_patch(Rectangle((column + 0.02, top + down), 0.96, height, facecolor=fill, linewidth=0))
        ink = "white" if np.dot(fill[:3], (0.299, 0.587, 0.114)) < 0.5 else "black"
        place = {"ha": "center", "va": "center", "fontsize": size, "color": ink}
        axes.text(column + 0.5, top + down + height / 2, text, **place)


def _describe(factor: float) -> str:
    if math.isnan(factor):
        return ""
    return f"{factor:.3f}" if 0.1 <= factor < 10 else f"{factor:.3g}"
