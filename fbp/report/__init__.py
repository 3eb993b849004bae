"""A report as immutable data, and the folder that it is written to: HTML, Markdown, figures, CSV and JSON."""

from fbp.report.document import Block as Block
from fbp.report.document import Figure as Figure
from fbp.report.document import Report as Report
from fbp.report.document import Section as Section
from fbp.report.document import Table as Table
from fbp.report.document import Text as Text
from fbp.report.format import fixed as fixed
from fbp.report.format import interval as interval
from fbp.report.format import number as number
from fbp.report.inline import mathtext as mathtext
from fbp.report.inline import plain as plain
from fbp.report.plots import Curve as Curve
from fbp.report.plots import curves as curves
from fbp.report.plots import digits as digits
from fbp.report.plots import panels as panels
from fbp.report.rerun import Repetition as Repetition
from fbp.report.rerun import rerun as rerun
from fbp.report.style import canvas as canvas
from fbp.report.style import curve_style as curve_style
from fbp.report.style import style as style
from fbp.report.write import check_target as check_target
from fbp.report.write import describe_target as describe_target
from fbp.report.write import write as write
