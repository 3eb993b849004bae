"""The drawings of the report: all rows at a glance, gradients of tanh networks, the edge of chaos."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.figure
import numpy as np
from matplotlib.axes import Axes

from fbp import theory
from fbp.report import Curve, canvas, curve_style, curves, mathtext
from fbp.report.style import MUTED, PALETTE, WIDTH, WRONG, darken, is_narrow
from papers_rows.row import FAILS, HOLDS, INSIDE, Row
from papers_rows.tanh import tanh_flows

REACH = 7.0
"""Per cent on either side of theory that the overview shows."""


def agreement(rows: Sequence[Row]) -> matplotlib.figure.Figure:
    """For each row, the measured value and the stated one as per cent off theory, by arrows where off the axis."""
    figure = canvas(WIDTH, 0.8 + 0.15 * len(rows))
    axes = figure.subplots()
    colors = {HOLDS: PALETTE[0], FAILS: WRONG}
    for y, row in enumerate(rows):
        reference = row.claim if row.theory is None else row.theory
        # Where theory says 0 or 1 in absolute terms, the scale is 1.
        value, low, high, stated = (
            100 * (x - reference) / (abs(reference) or 1.0) for x in (*row.measured[:3], row.claim)
        )
        color = colors.get(row.verdict, PALETTE[4])
        ends = np.clip([low, high], -REACH, REACH)
        axes.plot(ends, [y, y], color=color, linewidth=1.4, solid_capstyle="butt")
        _place(axes, value, y, "o", color=color, markersize=3.6)
        if row.stated is None:
            continue
        if abs(stated) <= REACH:
            axes.plot(stated, y, "o", markerfacecolor="none", markeredgecolor=MUTED, markersize=6, markeredgewidth=0.9)
        else:
            _place(axes, stated, y, "", color=MUTED, markersize=5)
    axes.axvline(0, color=MUTED, linewidth=1, zorder=0.5)
    first = [y for y, row in enumerate(rows) if y == 0 or rows[y - 1].id != row.id]
    axes.set_yticks(first, [rows[y].id for y in first], fontsize=8)
    axes.set(xlim=(-1.03 * REACH, 1.03 * REACH), ylim=(len(rows) - 0.5, -0.5), xlabel="deviation from theory, per cent")
    for label, color in ((HOLDS, PALETTE[0]), (f"{INSIDE}, or near", PALETTE[4]), ("does not hold", WRONG)):
        axes.plot([], [], "o-", color=color, markersize=3.6, label=label)
    axes.plot([], [], "o", markerfacecolor="none", markeredgecolor=MUTED, label="stated")
    figure.legend(loc="outside lower center", ncols=1 if is_narrow() else 4)
    return figure


def _place(axes: Axes, value: float, y: float, marker: str, **look: Any) -> None:
    """A mark at its place, or at the edge an arrow that points to it."""
    arrow = ">" if value > 0 else "<"
    axes.plot(np.clip(value, -REACH, REACH), y, marker if abs(value) <= REACH else arrow, **look)


def gradients(quick: bool) -> matplotlib.figure.Figure:
    """log10 ||delta_l||^2 over layers for tanh at four variances of the weights, and theory."""
    drawn = []
    for variance, (field, flow) in tanh_flows(quick).items():
        logs = (flow.log_dZ - flow.log_dZ[:, -1:]) / math.log(10)
        low, median, high = np.quantile(logs, [0.1, 0.5, 0.9], axis=0)
        decades = np.log10(field.gradients(logs.shape[1] - 1))
        theory_line = np.append(np.cumsum(decades[::-1])[::-1], 0)
        drawn.append(Curve(f"$σ_w^2$ = {variance:g}", np.arange(logs.shape[1]), median, low, high, theory_line))
    return curves(drawn, "layer $l$ (input on the left)", "$log_{10} ‖dZ_l‖^2 / ‖dZ_L‖^2$")


def edge_of_chaos(rows: Sequence[Row]) -> matplotlib.figure.Figure:
    """Measured roots of chi_1 = 1 on the lines of theory, for tanh and erf."""
    figure = canvas(WIDTH, 3.9)
    axes = figure.subplots()
    # The line is vertical where biases vanish.
    biases = 0.55 * np.linspace(0, 1, 45) ** 3
    dots = {"markersize": 4, "capsize": 2.5, "linewidth": 1.2}
    for rank, (name, id) in enumerate((("tanh", "edge-of-chaos"), ("erf", "edge-erf"))):
        style = curve_style(rank)
        shown = biases if name == "tanh" else biases[biases <= 0.25]
        line = [float(theory.edge_of_chaos(name, math.sqrt(b))) ** 2 for b in shown]
        axes.plot(line, shown, color=style.color, label=f"{name}, theory")
        shown = [row for row in rows if row.id == id]
        at = [float(row.setting.split("σ_b²=")[1].split(",")[0]) for row in shown]
        root, low, high = np.array([row.measured[:3] for row in shown]).T
        look = {"fmt": style.marker, "color": darken(style.color), "label": f"{name}, measured"}
        axes.errorbar(root, at, xerr=(root - low, high - root), **look, **dots)
    axes.text(1.15, 0.42, "order: gradients vanish", color=MUTED)
    axes.text(2.35, 0.08, "chaos: gradients explode", color=MUTED)
    axes.set(xlabel=mathtext("$σ_w^2$"), ylabel=mathtext("$σ_b^2$"))
    axes.legend(loc="upper left", bbox_to_anchor=(0.02, 0.72))
    return figure
