"""A report as immutable data, and the folder that it is written to: HTML, Markdown, figures, CSV and JSON."""

from fbp.report.document import Block, Figure, Report, Section, Table, Text
from fbp.report.format import fixed, interval, number
from fbp.report.inline import mathtext, plain
from fbp.report.plots import Curve, curves, digits, panels
from fbp.report.rerun import Repetition, rerun
from fbp.report.style import canvas, curve_style, style
from fbp.report.write import check_target, write

__all__ = [
    "Block",
    "Curve",
    "Figure",
    "Repetition",
    "Report",
    "Section",
    "Table",
    "Text",
    "canvas",
    "check_target",
    "curve_style",
    "curves",
    "digits",
    "fixed",
    "interval",
    "mathtext",
    "number",
    "panels",
    "plain",
    "rerun",
    "style",
    "write",
]
