"""A report as immutable data, and the folder that it is written to: HTML, Markdown, figures, CSV and JSON."""

from fbp.report.document import Block, Figure, Report, Section, Table, Text
from fbp.report.figures import Curve, curves, panels
from fbp.report.images import digits
from fbp.report.look import style
from fbp.report.rerun import Repetition, rerun
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
    "check_target",
    "curves",
    "digits",
    "panels",
    "rerun",
    "style",
    "write",
]
