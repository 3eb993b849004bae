"""The style of all figures: curves that differ in grey as well, and the same bytes for the same data."""

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito (2008), "Color Universal Design", without the yellow, which white paper swallows.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK, MUTED, WRONG = "#1c1e21", "#5b626b", "#b34700"
WIDTH, FONT = 7.0, 9.5

_PNG_DPI = 160
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.3)), (0, (6, 1.6, 1.2, 1.6)))
_MARKERS = ("o", "s", "^", "D", "v")
_MACHINE_SETTINGS = ("backend", "interactive", "toolbar", "webagg.", "tk.", "macosx.", "keymap.", "date.")
_STYLE = matplotlib.rc_params_from_file(
    Path(__file__).parent / "templates" / "report.mplstyle", use_default_template=False
)


class CurveStyle(NamedTuple):
    """What tells one curve from another: color, dash and marker, and its rank among the curves."""

    color: str
    dash: Any
    marker: str
    rank: int

    @property
    def line(self) -> dict[str, Any]:
        """The style as matplotlib's arguments of a line."""
        return {"color": self.color, "linestyle": self.dash, "marker": self.marker}


class Picture(NamedTuple):
    """A rendered figure: its two files, and its size in CSS pixels."""

    svg: bytes
    png: bytes
    width: int
    height: int


def style() -> AbstractContextManager[None]:
    """A context in which matplotlib draws as the reports do, whatever the user's own settings."""
    defaults = matplotlib.rcParamsDefault.items()
    settings: Any = {k: v for k, v in defaults if not k.startswith(_MACHINE_SETTINGS)}
    return matplotlib.rc_context(settings | dict(_STYLE) | {"axes.prop_cycle": cycler(color=PALETTE)})


def canvas(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, belonging to no window."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def curve_style(rank: int) -> CurveStyle:
    """The style of the curve of that rank; the first 140 differ from one another."""
    return CurveStyle(PALETTE[rank % 7], _DASHES[rank % 4], _MARKERS[rank % 5], rank)


def darken(color: str) -> str:
    """The color, dark enough for text on white."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"#{red * 3 // 5:02x}{green * 3 // 5:02x}{blue * 3 // 5:02x}"


def render_figure(figure: Figure, title: str) -> Picture:
    """The figure as SVG and PNG, without a date or a version in them.

    Args:
        figure: what to draw.
        title: the title element of the SVG, for screen readers.

    Returns:
        The bytes of both files and the size on a page.
    """
    svg, png = io.BytesIO(), io.BytesIO()
    no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with style():
        figure.savefig(svg, format="svg", metadata={**no_metadata, "Title": title})
        figure.savefig(png, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Picture(svg.getvalue(), png.getvalue(), width, height)
