"""Residual connections: which scale of the branches keeps a deep network's gradient; what do ReZero and Fixup do?"""

import numpy as np

import fbp
from fbp.report import Curve, Figure, Report, Section, Table, Text, curves
from fbp.studies import script

WIDTH = 128


def chain(depth, block):
    return fbp.Serial(fbp.Dense(WIDTH), fbp.Repeat(block, depth), fbp.Dense(WIDTH), shape=(WIDTH,))


def networks(depth):
    """Each network with the scale of its branch, where theory knows it."""
    scales = {
        "scale 1": 1.0,
        "scale 1/2": 0.5,
        "scale 1/sqrt(L)": depth**-0.5,
        "scale 1/L": 1 / depth,
        "ReZero, 0": 0.0,
    }
    branch = fbp.Serial(fbp.Activation("relu"), fbp.Dense(WIDTH))
    found = {name: (chain(depth, fbp.Residual(branch, alpha)), alpha) for name, alpha in scales.items()}
    # Two layers a branch, the first one L^(-1/2) times He, the second one zero; Zhang, Dauphin & Ma (2019).
    first = fbp.initializers.Initializer(2 / depth)
    fixup = fbp.Serial(
        fbp.Activation("relu"), fbp.Dense(WIDTH, first), fbp.Activation("relu"), fbp.Dense(WIDTH, "zeros")
    )
    return found | {"Fixup-like": (chain(depth, fbp.Residual(fixup)), None)}


def study(quick, progress) -> Report:
    """Six kinds of branches at one depth: the gain of the whole network, and what reaches the weights."""
    depth, seeds = (16, 10) if quick else (64, 60)
    streams, weights, rows, records = {}, {}, [], []
    blocks = np.arange(1, depth + 1)
    for name, (net, alpha) in networks(depth).items():
        progress(name)
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
            streams[name] = Curve(name, blocks, mean, low, high, expected[1:] / 2)
        rows.append((name, gain, least, most, theory))
        dW = flow.interval("dW", mean="log")
        weights[name] = Curve(name, blocks, dW.mean[in_branch], dW.low[in_branch], dW.high[in_branch])
        records += flow.records(network=name)
    by = {row[0]: row for row in rows}
    findings = (
        f"Unscaled branches double ||dZ||^2 a block: a gain of {by['scale 1'][1]:.3g} over {depth} blocks (95 % "
        f"interval {by['scale 1'][2]:.3g} to {by['scale 1'][3]:.3g}, theory 2^{depth} = {2.0**depth:.3g}).",
        f"With 1/sqrt(L) the whole network's gain is **{by['scale 1/sqrt(L)'][1]:.3f}** (theory (1 + 1/L)^L = "
        f"{by['scale 1/sqrt(L)'][4]:.3f}), whatever the depth; with 1/L it is {by['scale 1/L'][1]:.3f}.",
        f"ReZero and Fixup begin as the identity: gains {by['ReZero, 0'][1]:.4f} and {by['Fixup-like'][1]:.4f}. The "
        "price is in dW: a branch that is multiplied by zero gets no gradient at the first step, and in a Fixup branch "
        "its last layer alone does.",
    )

    def along():
        return curves(list(streams.values()), "block (input on the left)", "log10 of ||dZ_l|| / ||dZ_L||")

    def of_weights():
        # A norm of zero has no logarithm: no line.
        drawn = [curve for curve in weights.values() if np.isfinite(curve.y).all()]
        return curves(drawn, "block (input on the left)", "log10 of the norm of dW")

    body = (
        Text(
            f"Z + alpha W relu(Z), {depth} blocks of width {WIDTH}, He initialization. The gain is E ||dZ||^2 behind "
            "the first dense layer over that before the last one, along the skip path. De & Smith (2020); Bachlechner "
            "et al. (2020); Zhang, Dauphin & Ma (2019)."
        ),
        Table(
            "Gain of ||dZ||^2 over the whole network.",
            ("branch", "measured", "from", "to (95 %)", "theory"),
            tuple(rows),
        ),
        Figure(
            "stream",
            "Gradient norms along the skip path, block by block: only a scale that falls with the depth keeps them. "
            "Bands are 95 % intervals over networks, thin black lines are theory.",
            along,
        ),
        Figure(
            "weights",
            "Gradient norms of the last weights of each branch. Those of ReZero are zero and have no line: at the "
            "first step its scale alone learns.",
            of_weights,
        ),
    )
    return Report(
        title="Residual connections and the gradient",
        question="Which scale of the branches keeps a deep network's gradient, and what do ReZero and Fixup do?",
        findings=findings,
        setting=(("blocks", depth), ("width", WIDTH), ("networks a curve", seeds)),
        sections=(Section("Six kinds of branches", body),),
        command="python experiments/residual.py" + (" --quick" if quick else ""),
        records=tuple(records),
        results={row[0]: {"measured": row[1], "theory": row[4]} for row in rows},
        seed=0,
    )


if __name__ == "__main__":
    script(study)
