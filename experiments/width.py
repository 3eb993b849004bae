"""Width and the gradient.

Do the fluctuations of gradients fall like $1/n$, and does muP keep the size of what one step changes?
"""

# First, for a Ctrl-C while the rest is imported.
import fbp.script

# isort: split
from functools import partial

import jax.numpy as jnp
import numpy as np
from papers_rows.estimates import describe_power, estimate, fit_exponents
from papers_rows.learning import coordinate_check

import fbp
from fbp.report import Curve, Figure, Table, Text, curves, fixed, interval, number, significant
from fbp.studies import Draft, study

LOG_GAIN = "ln ‖dZ_1‖^2 / ‖dZ_L‖^2"


def fit_slope(x, y) -> float:
    """The exponent of a power law through the points."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


@study
def width(draft: Draft) -> None:
    """The spread of ln ‖dZ_1‖^2 over networks of several widths; the change of the logits in one step."""
    depth, seeds = (10, 60) if draft.quick else (20, 300)
    widths = (16, 32, 64) if draft.quick else (16, 32, 64, 128, 256)
    draft.setting = {"depth": depth, "networks a point": seeds, "widths": widths}
    rows, found, halves = [], [], []
    for n in widths:
        draft.progress(f"width {n}")
        net = fbp.mlp((n,) * (depth + 1), "relu", "he_normal", repeat=True)
        # One example: the norm over a batch of independent cotangents would average over them.
        flow = fbp.flow.measure(net, X=jnp.ones((1, n)), seeds=seeds)
        logs = 2 * np.log(10) * np.asarray(flow.log10.dZ, np.float64)[0]
        gains = (logs[:, 0] - logs[:, -1])[np.isfinite(logs).all(axis=1)]
        variance = float(gains.var(ddof=1))
        # The variance of a variance of nearly normal numbers.
        half = 1.96 * variance * (2 / (len(gains) - 1)) ** 0.5
        halves.append(half)
        law = fbp.theory.relu_log_norm((n,) * (depth - 1))
        ends = interval(variance - half, variance + half, 3)
        low, mean, high = estimate(gains)
        spread = significant(variance), ends, significant(law.variance)
        rows.append((n, *spread, fixed(mean, 2), interval(fixed(low, 2), fixed(high, 2)), fixed(law.mean, 2)))
        found.append((variance, law.variance, mean, law.mean))
        draft.records += flow.records(width=n)
    variances, laws, means, law_means = np.array(found).T
    draft.progress("one step of standard and muP networks")
    check_widths = (64, 128, 256) if draft.quick else (64, 128, 256, 512, 1024)
    changes = coordinate_check(check_widths, 6 if draft.quick else 20)
    slopes = {name: fit_exponents(check_widths, np.log(each).T) for name, each in changes.items()}
    powers = {name: describe_power("n", fit) for name, fit in slopes.items()}
    draft.results = {
        "variance_slope": fit_slope(widths, variances),
        "logit_slopes": {name: fit.mean for name, fit in slopes.items()},
    }
    draft.findings = [
        f"The variance of the log-gain, ${LOG_GAIN}$, falls like $n^{{{fit_slope(widths, variances):.2f}}}$ (law of "
        f"relu networks: $n^{{{fit_slope(widths, laws):.2f}}}$ over these widths, $1/n$ for large ones); at width "
        f"{widths[0]}, depth {depth} it is {variances[0]:.2f}, at width {widths[-1]} {variances[-1]:.3f} (law "
        f"{laws[-1]:.3f}).",
        f"The typical gradient is smaller than the mean one: the mean log-gain is {number(means[0], 3)} at width "
        f"{widths[0]} (law {number(law_means[0], 3)}), although He initialization keeps $E ‖dZ‖^2$.",
        f"One step of gradient descent changes the logits like {powers['standard']} in standard parametrization and "
        f"like **{powers['muP']} in muP** (95 % intervals over networks; theory for large widths 1 and 0).",
    ]

    spread = [Curve("measured", widths, variances, variances - halves, variances + halves, laws)]
    steps = [
        Curve(name, check_widths, *(np.quantile(each, q, axis=0) for q in (0.5, 0.1, 0.9)))
        for name, each in changes.items()
    ]
    draw = partial(curves, xlabel="width $n$", log_x=True, log_y=True)
    draft.section(
        "Fluctuations",
        Text(
            "Gradients of random networks scatter; Hanin & Nica (2018) give the law for relu: the variance of the "
            "logarithm is about $5 L / n$. Bands are 95 % intervals over networks."
        ),
        Figure(
            "spread",
            "Fluctuations over the width, measured at the markers; the thin line is the law of relu networks.",
            partial(draw, spread, ylabel=f"variance of ${LOG_GAIN}$"),
        ),
        Table(
            f"${LOG_GAIN}$ over networks.",
            ("width", "variance", "95 % interval", "law", "mean", "95 % interval", "law"),
            tuple(rows),
        ),
    )
    draft.section(
        "Coordinate check",
        Text("Two hidden relu layers, one step of gradient descent with a small rate; Yang & Hu (2021, 2022)."),
        Figure(
            "coordinates",
            "The coordinate check: a line is level where a step changes the logits by as much at every width. Bands go "
            "from 10 % to 90 % of the networks.",
            partial(draw, steps, ylabel="change of the logits in one step"),
        ),
    )


if __name__ == "__main__":
    width.main()
