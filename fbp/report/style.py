"""The style of all figures: curves that differ in grey as well, on paper, in the dark and on a phone."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito (2008), "Color Universal Design", without the yellow, which white paper swallows.
# A violet and a brown follow, so that nine curves have nine colors.
PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#111111"),
    *("#6A3D9A", "#8A5A2B"),
)
INK, MUTED, WRONG = "#1c1e21", "#5b626b", "#b34700"
PAPER, FRAME = "#fefefe", "#c3c9d0"
"""Of the page around a figure's parts; what stands on a picture takes white and black, which stay as they are."""
WIDTH, NARROW, FONT = 7.0, 4.1, 9.5
"""Inches of a page and of a phone; points."""

_PNG_DPI = 160
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.3)), (0, (6, 1.6, 1.2, 1.6)))
_MARKERS = ("o", "s", "^", "D", "v")
_IN_THE_DARK = dict(zip(PALETTE, (
    *("#4ba8e8", "#ff8a48", "#2cc795", "#e39ac6", "#efb23c", "#7cc8f2", "#f2f4f6"),
    *("#b79ae6", "#cf9a63"),
), strict=True)) | {
    INK: "#e2e5e9", MUTED: "#a0a9b4", WRONG: "#ff9a5c", PAPER: "#14171b", FRAME: "#5a6470",
    "#8a929b": "#727b86", "#e4e7eb": "#2c3239",
}  # fmt: skip
"""What the colors of figures become where readers have a dark page."""
_narrow = ContextVar("narrow", default=False)
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


class Vector(NamedTuple):
    """A drawing as SVG, which turns dark with the reader's page, and its size in CSS pixels."""

    svg: bytes
    width: int
    height: int


class Picture(NamedTuple):
    """A rendered figure: for a page, for a phone, and as PNG."""

    wide: Vector
    narrow: Vector
    png: bytes


@contextmanager
def style(narrow: bool | None = None) -> Iterator[None]:
    """A context in which matplotlib draws as the reports do, whatever the user's own settings.

    Args:
        narrow: whether figures are drawn for a phone; None keeps what holds around the context.
    """
    defaults = matplotlib.rcParamsDefault.items()
    settings: Any = {k: v for k, v in defaults if not k.startswith(_MACHINE_SETTINGS)}
    before = _narrow.set(is_narrow() if narrow is None else narrow)
    try:
        with matplotlib.rc_context(settings | dict(_STYLE) | {"axes.prop_cycle": cycler(color=PALETTE)}):
            yield
    finally:
        _narrow.reset(before)


def is_narrow() -> bool:
    """Whether the figure is drawn for a phone."""
    return _narrow.get()


def canvas(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, no wider than the page, belonging to no window.

    Args:
        width: inches; on a phone at most `NARROW`.
        height: inches.
    """
    figure = Figure(figsize=(min(width, NARROW) if is_narrow() else width, height))
    FigureCanvasAgg(figure)
    return figure


def curve_style(rank: int) -> CurveStyle:
    """The style of the curve of that rank; the first 180 differ from one another."""
    return CurveStyle(PALETTE[rank % len(PALETTE)], _DASHES[rank % 4], _MARKERS[rank % 5], rank)


def darken(color: str) -> str:
    """The color, dark enough for text on white."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"#{red * 3 // 5:02x}{green * 3 // 5:02x}{blue * 3 // 5:02x}"


def render_figure(draw: Callable[[], Figure], title: str) -> Picture:
    """A figure as SVG, for a page and for a phone, and as PNG, without a date or a version in them.

    Args:
        draw: draws it.
        title: the title element of the SVG, for screen readers.

    Returns:
        The bytes of the files and the sizes on a page.
    """
    with style():
        figure = draw()
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=_PNG_DPI, metadata={"Software": None})
        wide = _render_svg(figure, title)
    with style(narrow=True):
        narrow = _render_svg(draw(), title)
    return Picture(wide, narrow, png.getvalue())


def _render_svg(figure: Figure, title: str) -> Vector:
    file = io.BytesIO()
    no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(file, format="svg", metadata={**no_metadata, "Title": title}, transparent=True)
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    # The first style element of the file; a viewer that knows no dark pages ignores what is added.
    svg = file.getvalue().replace(b"</style>", _dark_rules().encode() + b"</style>", 1)
    return Vector(svg, width, height)


def _dark_rules() -> str:
    rules = "".join(
        f'[style*="{part}: {light.lower()}"]{{{part}:{dark}!important}}'
        for color, dark in _IN_THE_DARK.items()
        for light in dict.fromkeys((color, darken(color) if color in PALETTE else color))
        for part in ("fill", "stroke")
    )
    return f"@media screen and (prefers-color-scheme:dark){{{rules}}}"
