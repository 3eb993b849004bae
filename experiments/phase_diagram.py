"""The phase diagram of tanh.

Where do gradients vanish, where do they explode, and does theory draw the line in the right place?
"""

# First, for a Ctrl-C while the rest is imported.
import fbp.script

# isort: split
from functools import partial

import numpy as np

import fbp
from fbp.flow import confidence_interval
from fbp.report import Curve, Figure, Table, Text, canvas, curves, fixed, mathtext
from fbp.studies import Draft, study

WIDTH, BURN_IN = 200, 8


def measure_chi(sigma_b, sigmas_w, depth, seeds):
    """The factor of E ‖dZ‖^2 a layer, for every sigma_w: (value, low, high), each (sigmas,)."""
    net = fbp.mlp((WIDTH,) * (depth + 1), "tanh", f"mean_field(1,{sigma_b})", repeat=True)
    flow = fbp.flow.measure(net, seeds=seeds, scales=sigmas_w)
    # A network's rate is the mean over the layers behind the burn-in.
    logs = 2 * np.log(10) * np.asarray(flow.log10.dZ, np.float64)[:, :, BURN_IN:-1]
    ratios = np.exp(logs[..., :-1] - logs[..., 1:]).mean(axis=-1)
    low, value, high = confidence_interval(ratios.T)
    return value, low, high, flow


def find_bracket(variances_w, low, high) -> str:
    """Between which measured points the rate passes one: the last that is surely below, the first surely above."""
    below, above = variances_w[high < 1], variances_w[low > 1]
    if not len(below) or not len(above):
        return "not within the grid"
    return f"between {below.max():.2f} and {above.min():.2f}"


def chi_map(variances_w, variances_b, layers=200):
    """χ_1 = σ_w^2 E tanh'(√q x)^2 at the length q that 200 layers come to, for arrays that broadcast."""
    q = np.ones(np.broadcast_shapes(np.shape(variances_w), np.shape(variances_b)))
    for _ in range(layers):
        q = variances_w * fbp.theory.second_moment("tanh", q) + variances_b
    return variances_w * fbp.theory.slope_moment("tanh", q)


@study
def phase_diagram(draft: Draft) -> None:
    """χ_1 over σ_w^2 and σ_b^2 by theory, and the measured rate along lines of equal σ_b."""
    depth, seeds = (20, 6) if draft.quick else (30, 20)
    draft.setting = {"width": WIDTH, "depth": depth, "networks a point": seeds}
    variances_w = np.linspace(0.5, 4.0, 6 if draft.quick else 15)
    variances_b = (0.0, 0.05, 0.3) if draft.quick else (0.0, 0.01, 0.05, 0.1, 0.3)
    lines, rows, farthest = {}, [], {}
    for b in variances_b:
        draft.progress(f"σ_b² = {b}")
        value, low, high, flow = measure_chi(b**0.5, np.sqrt(variances_w), depth, seeds)
        theory = np.array([fbp.theory.mean_field("tanh", w**0.5, b**0.5).chi_1 for w in variances_w])
        lines[b] = (value, low, high, theory)
        edge = float(fbp.theory.edge_of_chaos("tanh", b**0.5)) ** 2
        off = np.abs(value / theory - 1)
        farthest[b] = variances_w[off.argmax()]
        rows.append((b, edge, find_bracket(variances_w, low, high), float(off.max())))
        draft.records += flow.records(sigma_b2=b)
    fine_w, fine_b = np.linspace(0.3, 4.2, 40), np.linspace(0.0, 0.35, 15)
    draft.progress("theory")
    chi = chi_map(fine_w, fine_b[:, None])
    inside = np.mean([(low <= theory) & (theory <= high) for _, low, high, theory in lines.values()])
    draft.results = {"edge": rows}
    draft.findings = [
        f"With biases the measured rate follows $χ_1$ **within {max(row[3] for row in rows[1:]):.1%}**; without them "
        f"within {rows[0][3]:.1%}, farthest off at $σ_w^2$ = {farthest[0.0]:.2f}: near 1 lengths fall only like one "
        f"over the layer, and {depth} layers do not reach their limit.",
        f"Theory, that of infinite width, lies in the 95 % interval of {inside:.0%} of all points.",
        "The edge of chaos, where $χ_1 = 1$: "
        + "; ".join(f"$σ_b^2 = {b:g}$: $σ_w^2$ = {edge:.2f} by theory, measured {at}" for b, edge, at, _ in rows)
        + ".",
    ]
    colors = {"cmap": "PuOr_r", "vmin": -0.3, "vmax": 0.3}
    factor = "factor of $‖dZ‖^2$ a layer"

    def draw_map():
        figure = canvas(7, 4)
        axes = figure.subplots()
        image = axes.pcolormesh(fine_w, fine_b, np.log10(chi), shading="gouraud", rasterized=True, **colors)
        edge = axes.contour(fine_w, fine_b, chi, levels=[1.0], colors="black")
        axes.clabel(edge, fmt={1.0: mathtext("$χ_1 = 1$")})
        for b, (_, low, high, _) in lines.items():
            heights = np.full(len(variances_w), b)
            for marker, those in (("v", high < 1), ("^", low > 1), ("o", (low <= 1) & (high >= 1))):
                dots = {"marker": marker, "s": 46, "edgecolors": "black", "linewidths": 1.1, "clip_on": False}
                axes.scatter(variances_w[those], heights[those], c="white", zorder=3, **dots)
        axes.grid(False)
        axes.set(xlabel=mathtext("$σ_w^2$"), ylabel=mathtext("$σ_b^2$"))
        figure.colorbar(image, extend="min", label=mathtext(f"$log_{{10}}$ of the {factor}"))
        return figure

    drawn = [Curve(f"$σ_b^2 = {b:g}$", variances_w, *line) for b, line in lines.items()]
    draft.section(
        "Order, chaos and the edge",
        Text(
            f"tanh networks of width {WIDTH} and depth {depth}, {seeds} networks a point; the rate is that behind the "
            f"first {BURN_IN} layers, where lengths have reached $q^*$, except near $σ_w = 1$ without biases. Poole et "
            "al. (2016), Schoenholz et al. (2017)."
        ),
        Figure(
            "map",
            "$χ_1$ by theory as the color of the ground, and what was measured: ▼ where gradients shrink, ▲ where they "
            "grow, ○ where one lies in the 95 % interval of the rate.",
            draw_map,
        ),
        Figure(
            "lines",
            "The rate along lines of equal σ_b; bands are 95 % intervals over networks.",
            partial(curves, drawn, "$σ_w^2$", factor, reference=("edge of chaos", 1.0)),
        ),
        Table(
            "The edge of chaos: by theory, and between which of the measured $σ_w^2$ the rate, with its interval, "
            "passes one; and the largest distance of the rate from theory.",
            ("$σ_b^2$", "$σ_w^2$, theory", "measured", "rate off by at most, in %"),
            tuple((b, fixed(edge, 2), at, fixed(100 * off, 1)) for b, edge, at, off in rows),
        ),
    )


if __name__ == "__main__":
    phase_diagram.main()
