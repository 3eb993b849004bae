"""The phase diagram of tanh: where do gradients vanish and where explode, and does theory draw the line rightly?"""

import numpy as np
from matplotlib.figure import Figure as Drawing

import fbp
from fbp.flow import confidence_interval
from fbp.report import Curve, Figure, Report, Section, Table, Text, curves
from fbp.studies import script

WIDTH, BURN_IN = 200, 8


def measured_chi(sigma_b, sigmas_w, depth, seeds):
    """The factor of E ||dZ||^2 a layer, for every sigma_w: (value, low, high), each (sigmas,)."""
    net = fbp.mlp((WIDTH,) * (depth + 1), "tanh", f"mean_field(1,{sigma_b})", repeat=True)
    flow = fbp.flow.measure(net, seeds=seeds, scales=sigmas_w)
    # A network's rate is the mean over the layers behind the burn-in.
    logs = 2 * np.log(10) * np.asarray(flow.log10.dZ, np.float64)[:, :, BURN_IN:-1]
    ratios = np.exp(logs[..., :-1] - logs[..., 1:]).mean(axis=-1)
    low, value, high = confidence_interval(ratios.T)
    return value, low, high, flow


def chi_map(variances_w, variances_b, layers=200):
    """chi_1 = sigma_w^2 E tanh'(sqrt(q) x)^2 at the length q that 200 layers come to, for arrays that broadcast."""
    q = np.ones(np.broadcast_shapes(np.shape(variances_w), np.shape(variances_b)))
    for _ in range(layers):
        q = variances_w * fbp.theory.second_moment("tanh", q) + variances_b
    return variances_w * fbp.theory.slope_moment("tanh", q)


def study(quick, progress) -> Report:
    """chi_1 over sigma_w^2 and sigma_b^2 by theory, and the measured rate along lines of equal sigma_b."""
    depth, seeds = (20, 6) if quick else (30, 20)
    variances_w = np.linspace(0.5, 4.0, 6 if quick else 15)
    variances_b = (0.0, 0.05, 0.3) if quick else (0.0, 0.01, 0.05, 0.1, 0.3)
    lines, rows, records = {}, [], []
    for b in variances_b:
        progress(f"sigma_b^2 = {b}")
        value, low, high, flow = measured_chi(b**0.5, np.sqrt(variances_w), depth, seeds)
        theory = np.array([fbp.theory.mean_field("tanh", w**0.5, b**0.5).chi_1 for w in variances_w])
        lines[b] = (value, low, high, theory)
        edge = float(fbp.theory.edge_of_chaos("tanh", b**0.5)) ** 2
        crossing = float(np.interp(1.0, value, variances_w))
        rows.append((b, edge, crossing, float(np.max(np.abs(value / theory - 1)))))
        records += flow.records(sigma_b2=b)
    fine_w, fine_b = np.linspace(0.3, 4.2, 40), np.linspace(0.0, 0.35, 15)
    progress("theory")
    chi = chi_map(fine_w, fine_b[:, None])
    inside = np.mean([(low <= t) & (t <= high) for _, low, high, t in lines.values()])
    findings = (
        f"With biases the measured rate follows chi_1 **within {max(row[3] for row in rows[1:]):.1%}**; theory, that "
        f"of infinite width, lies in the 95 % interval of {inside:.0%} of the points.",
        f"Without biases it is up to {rows[0][3]:.1%} off, near sigma_w = 1: there lengths fall as slowly as one over "
        f"the layer, and {depth} layers do not come to their limit.",
        "The edge of chaos, where chi_1 = 1: "
        + "; ".join(f"sigma_b^2 = {b:g}: sigma_w^2 = {edge:.3f}, measured {at:.3f}" for b, edge, at, _ in rows)
        + ".",
    )

    def diagram():
        drawing = Drawing(figsize=(7, 4), layout="constrained")
        axes = drawing.subplots()
        image = axes.pcolormesh(
            fine_w, fine_b, np.log10(chi), cmap="PuOr_r", vmin=-0.3, vmax=0.3, shading="gouraud", rasterized=True
        )
        edge = axes.contour(fine_w, fine_b, chi, levels=[1.0], colors="black")
        axes.clabel(edge, fmt={1.0: "chi_1 = 1"})
        for b, (value, *_rest) in lines.items():
            axes.scatter(
                variances_w,
                np.full(len(variances_w), b),
                c=np.log10(value),
                cmap="PuOr_r",
                vmin=-0.3,
                vmax=0.3,
                edgecolors="black",
                linewidths=0.7,
                clip_on=False,
                zorder=3,
            )
        axes.grid(False)
        axes.set(xlabel="sigma_w^2", ylabel="sigma_b^2")
        drawing.colorbar(image, extend="min", label="log10 of the factor of ||dZ||^2 a layer")
        return drawing

    def along():
        drawn = [Curve(f"sigma_b^2 = {b:g}", variances_w, *found) for b, found in lines.items()]
        return curves(drawn, "sigma_w^2", "factor of ||dZ||^2 a layer", reference=("edge of chaos", 1.0))

    body = (
        Text(
            f"tanh networks of width {WIDTH} and depth {depth}, {seeds} networks a point; the rate is that behind the "
            f"first {BURN_IN} layers, where lengths have come to q*, save near sigma_w = 1 without "
            "biases. Poole et al. (2016), Schoenholz et al. (2017)."
        ),
        Figure(
            "map",
            "chi_1 by theory as colour, the measured rate as dots: where their fill is that of the ground, both agree.",
            diagram,
        ),
        Figure("lines", "The rate along lines of equal sigma_b; bands are 95 % intervals over networks.", along),
        Table(
            "The edge of chaos, by theory and where the measured rate crosses one.",
            ("sigma_b^2", "sigma_w^2, theory", "measured", "largest deviation of the rate"),
            tuple(rows),
        ),
    )
    return Report(
        title="The phase diagram of tanh",
        question="Where do gradients vanish, where do they explode, and does theory draw the line rightly?",
        findings=findings,
        setting=(("width", WIDTH), ("depth", depth), ("networks a point", seeds)),
        sections=(Section("Order, chaos and the edge", body),),
        command="python experiments/phase_diagram.py" + (" --quick" if quick else ""),
        records=tuple(records),
        results={"edge": [list(row) for row in rows]},
        seed=0,
    )


if __name__ == "__main__":
    script(study)
