"""Residual connections and the gradient.

Which scale of the branches keeps a deep network's gradient, and what do ReZero and Fixup do?
"""

# First, for a Ctrl-C while the rest is imported.
import fbp.script

# isort: split
import numpy as np
from papers_rows.estimates import locate

import fbp
from fbp.report import Curve, Figure, Table, Text, curves, interval, number, plain, significant
from fbp.studies import Draft, study

WIDTH = 128


def chain(depth, block):
    return fbp.Serial(fbp.Dense(WIDTH), fbp.Repeat(block, depth), fbp.Dense(WIDTH), shape=(WIDTH,))


def networks(depth):
    """Each network with the scale of its branch, where theory knows it."""
    scales = {
        "scale 1": 1.0,
        "scale $1/2$": 0.5,
        "scale $1/√L$": depth**-0.5,
        "scale $1/L$": 1 / depth,
        "ReZero, 0": 0.0,
    }
    branch = fbp.Serial(fbp.Activation("relu"), fbp.Dense(WIDTH))
    scaled = {name: (chain(depth, fbp.Residual(branch, alpha)), alpha) for name, alpha in scales.items()}
    # Two layers a branch, the first one L^(-1/2) times He, the second one zero; Zhang, Dauphin & Ma (2019).
    first = fbp.initializers.Initializer(2 / depth)
    fixup = fbp.Serial(
        fbp.Activation("relu"), fbp.Dense(WIDTH, first), fbp.Activation("relu"), fbp.Dense(WIDTH, "zeros")
    )
    return scaled | {"Fixup-like": (chain(depth, fbp.Residual(fixup)), None)}


@study
def residual(draft: Draft) -> None:
    """Six kinds of branches at one depth: the gain of the whole network, and what reaches the weights."""
    depth, seeds = (16, 10) if draft.quick else (64, 60)
    draft.setting = {"blocks": depth, "width": WIDTH, "networks a curve": seeds}
    streams, weights, rows = [], [], []
    blocks = np.arange(1, depth + 1)
    for name, (net, alpha) in networks(depth).items():
        draft.progress(name)
        flow = fbp.flow.measure(net, seeds=seeds)
        last = flow.interval("dA", mean="arithmetic").mean[-1]
        # dZ of the first and dA of the last dense layer lie on the skip path; the layers between lie in the branches.
        dZ = flow.interval("dZ", mean="arithmetic")
        least, gain, most = (float(10 ** (2 * (x[0] - last))) for x in dZ)
        in_branch = (len(dZ.mean) - 2) // depth * blocks
        theory = 1.0
        if alpha:
            expected = fbp.theory.propagation("relu", 2**0.5, depth=depth, residual=alpha).log10_dZ
            theory = float(10 ** expected[0])
            # A branch hands alpha times the gradient of the sum to its last layer.
            low, mean, high = (x[in_branch] - np.log10(alpha) - last for x in dZ)
            streams.append(Curve(name, blocks, mean, low, high, expected[1:] / 2))
        rows.append((name, gain, least, most, theory))
        dW = flow.interval("dW", mean="log")
        # A norm of zero has no logarithm: no line.
        if np.isfinite(dW.mean[in_branch]).all():
            weights.append(Curve(name, blocks, *(x[in_branch] for x in (dW.mean, dW.low, dW.high))))
        draft.records += flow.records(network=plain(name))
    by = {plain(row[0]): row[1:] for row in rows}
    draft.results = {name: {"measured": gain, "theory": theory} for name, (gain, _, _, theory) in by.items()}
    gain, least, most, theory = by["scale 1"]
    scaled, _, _, scaled_theory = by["scale 1/√L"]
    draft.findings = [
        f"Unscaled branches double $‖dZ‖^2$ a block: ×{gain ** (1 / depth):.2f}, over {depth} blocks a gain of "
        f"{number(gain, 3)} (95 % interval {interval(least, most, 3)}). Theory, $2^{{{depth}}}$ = {number(theory, 3)}, "
        f"is that of infinite width and lies {locate(theory, least, most)} the interval.",
        f"With $1/√L$ the whole network's gain is **{scaled:.3f}** (theory $(1 + 1/L)^L$ = {scaled_theory:.3f}, and e "
        f"for many blocks); with $1/L$ it is {by['scale 1/L'][0]:.3f}.",
        f"ReZero and Fixup begin as the identity: gains {by['ReZero, 0'][0]:.4f} and {by['Fixup-like'][0]:.4f}. The "
        "price is in $dW$: a branch that is multiplied by zero gets no gradient at the first step, and in a Fixup "
        "branch only the last layer does.",
    ]
    draft.section(
        "Six kinds of branches",
        Text(
            f"$Z + α W relu(Z)$, {depth} blocks of width {WIDTH}, He initialization. The gain is $E ‖dZ‖^2$ behind the "
            "first dense layer over that before the last one, along the skip path. De & Smith (2020); Bachlechner et "
            "al. (2020); Zhang, Dauphin & Ma (2019)."
        ),
        Table(
            "Gain of $‖dZ‖^2$ over the whole network; theory is that of infinite width.",
            ("branch", "measured", "from", "to (95 %)", "theory"),
            tuple((name, *map(significant, rest)) for name, *rest in rows),
        ),
        Figure(
            "stream",
            "Gradient norms along the skip path, block by block. "
            "Bands are 95 % intervals over networks, thin lines are theory.",
            lambda: curves(streams, "block (input on the left)", "$log_{10} ‖dZ_l‖ / ‖dZ_L‖$"),
        ),
        Figure(
            "weights",
            "Gradient norms of the last weights of each branch. Those of ReZero are zero and have no line: at the "
            "first step its scale alone learns.",
            lambda: curves(weights, "block (input on the left)", "$log_{10} ‖dW‖$"),
        ),
    )


if __name__ == "__main__":
    residual.main()
