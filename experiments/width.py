"""Width: do the fluctuations of gradients fall like 1/n, and does muP keep what one step does?"""

import jax.numpy as jnp
import numpy as np
from papers_rows.learning import coordinate_check

import fbp
from fbp.report import Curve, Figure, Report, Section, Table, Text, curves
from fbp.studies import script


def study(quick, progress) -> Report:
    """The spread of log ||dZ_1||^2 over networks of several widths; the change of the logits in one step."""
    depth, seeds = (10, 60) if quick else (20, 300)
    widths = (16, 32, 64) if quick else (16, 32, 64, 128, 256)
    rows, halves, records = [], [], []
    for width in widths:
        progress(f"width {width}")
        net = fbp.mlp((width,) * (depth + 1), "relu", "he_normal", repeat=True)
        # One example: the norm over a batch of independent cotangents would average over them.
        flow = fbp.flow.measure(net, X=jnp.ones((1, width)), seeds=seeds)
        logs = 2 * np.log(10) * np.asarray(flow.log10.dZ, np.float64)[0]
        gains = (logs[:, 0] - logs[:, -1])[np.isfinite(logs).all(axis=1)]
        variance = gains.var(ddof=1)
        # The variance of a variance of nearly normal numbers.
        half = 1.96 * variance * (2 / (len(gains) - 1)) ** 0.5
        halves.append(half)
        law = fbp.theory.relu_log_norm((width,) * (depth - 1))
        rows.append(
            (
                width,
                float(variance),
                f"{variance - half:.3f} to {variance + half:.3f}",
                law.variance,
                float(gains.mean()),
                law.mean,
            )
        )
        records += flow.records(width=width)
    slope, of_law = (float(np.polyfit(np.log(widths), np.log([row[i] for row in rows]), 1)[0]) for i in (1, 3))
    progress("one step of standard and muP networks")
    check_widths = (64, 128, 256) if quick else (64, 128, 256, 512, 1024)
    changes = coordinate_check(check_widths, 6 if quick else 20)
    slopes = {
        name: float(np.polyfit(np.log(check_widths), np.log(np.median(each, axis=0)), 1)[0])
        for name, each in changes.items()
    }
    findings = (
        f"The variance of the log-gain, ln ||dZ_1||^2 / ||dZ_L||^2, falls like n^{slope:.2f} (law of relu networks: "
        f"n^{of_law:.2f} over these widths, 1/n for large ones); at width {widths[0]}, depth {depth} it is "
        f"{rows[0][1]:.2f}, at width {widths[-1]} {rows[-1][1]:.3f} (law {rows[-1][3]:.3f}).",
        f"The typical gradient is smaller than the mean one: the mean log-gain is {rows[0][4]:.2f} at width "
        f"{widths[0]} (law {rows[0][5]:.2f}), although He initialization keeps E ||dZ||^2.",
        f"One step of gradient descent changes the logits like n^{slopes['standard']:.2f} in standard parametrization "
        f"and like **n^{slopes['muP']:.2f} in muP** (theory 1 and 0).",
    )

    def spread():
        n = np.array(widths)
        measured = np.array([row[1] for row in rows])
        law = np.array([row[3] for row in rows])
        drawn = [Curve("measured", n, measured, measured - halves, measured + halves, law)]
        return curves(drawn, "width n", "variance of ln ||dZ_1||^2 / ||dZ_L||^2", log_x=True, log_y=True)

    def coordinates():
        drawn = [
            Curve(name, check_widths, *(np.quantile(each, q, axis=0) for q in (0.5, 0.1, 0.9)))
            for name, each in changes.items()
        ]
        return curves(drawn, "width n", "change of the logits in one step", log_x=True, log_y=True)

    body = (
        Text(
            "Gradients of random networks scatter; Hanin & Nica (2018) give the law for relu: the variance of the "
            "logarithm is about 5 L / n. Bands are 95 % intervals over networks."
        ),
        Figure(
            "spread",
            "Fluctuations fall like one over the width; the thin black line is the law of relu networks.",
            spread,
        ),
        Table(
            "ln ||dZ_1||^2 / ||dZ_L||^2 over networks.",
            ("width", "variance", "95 % interval", "law", "mean", "law"),
            tuple(rows),
        ),
    )
    check = (
        Text("Two hidden relu layers, one step of gradient descent with a small rate; Yang & Hu (2021, 2022)."),
        Figure(
            "coordinates",
            "The coordinate check: level lines are what muP is for. Bands go from 10 % to 90 % of the networks.",
            coordinates,
        ),
    )
    return Report(
        title="Width and the gradient",
        question="Do the fluctuations of gradients fall like 1/n, and does muP keep what one step does?",
        findings=findings,
        setting=(("depth", depth), ("networks a point", seeds), ("widths", widths)),
        sections=(Section("Fluctuations", body), Section("Coordinate check", check)),
        command="python experiments/width.py" + (" --quick" if quick else ""),
        records=tuple(records),
        results={"variance_slope": slope, "logit_slopes": slopes},
        seed=0,
    )


if __name__ == "__main__":
    script(study)
