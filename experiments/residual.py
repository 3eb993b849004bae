"""Residual connections: which scale of the branches keeps a deep network's gradient; what do ReZero and Fixup do?"""

import numpy as np

import fbp
from fbp.report import Curve, Figure, Report, Section, Table, Text, panels, script

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


def study(quick, tell) -> Report:
    """Six kinds of branches at one depth: the gain of the whole network, forward and backward."""
    depth, seeds = (16, 10) if quick else (64, 60)
    curves_of, rows, records = {}, [], []
    for name, (net, alpha) in networks(depth).items():
        tell(name)
        flow = fbp.flow.measure(net, seeds=seeds)
        measured = flow.interval("dA", mean="arithmetic")
        # dA of the first and of the last dense layer lie on the skip path; those between lie in the branches.
        start = flow.interval("dZ", mean="arithmetic")
        low, gain, high = (float(10 ** (2 * (x[0] - measured.mean[-1]))) for x in start)
        theory = float("nan")
        if alpha is not None:
            theory = float(10 ** fbp.theory.propagation("relu", 2**0.5, depth=depth, residual=alpha).log10_dZ[0])
        rows.append((name, gain, f"{low:.4g} to {high:.4g}", theory if alpha is not None else 1.0))
        dW = flow.interval("dW", mean="log")
        curves_of[name] = [Curve("dW", np.arange(1, len(dW.mean) + 1), dW.mean, dW.low, dW.high)]
        records += flow.records(network=name)
    by = {row[0]: row for row in rows}
    findings = (
        f"Unscaled branches double the gradient a block: a gain of {by['scale 1'][1]:.3g} over {depth} blocks (theory "
        f"2^{depth} = {2.0**depth:.3g}).",
        f"With 1/sqrt(L) the whole network's gain is **{by['scale 1/sqrt(L)'][1]:.3f}** (theory (1 + 1/L)^L = "
        f"{by['scale 1/sqrt(L)'][3]:.3f}), whatever the depth; with 1/L it is {by['scale 1/L'][1]:.3f}.",
        f"ReZero and Fixup begin as the identity: gains {by['ReZero, 0'][1]:.4f} and {by['Fixup-like'][1]:.4f}. The "
        "price is in dW: where a branch is multiplied by zero, its weights get no gradient at the first step.",
    )

    def drawn():
        return panels(list(curves_of.items()), "dense layer (input on the left)", "log10 of ||dW||")

    body = (
        Text(
            f"Z + alpha W relu(Z), {depth} blocks of width {WIDTH}, He initialization. The gain is E ||dZ||^2 behind "
            "the first dense layer over that before the last one, along the skip path."
        ),
        Table(
            "Gain of ||dZ||^2 over the whole network.", ("branch", "measured", "95 % interval", "theory"), tuple(rows)
        ),
        Figure("weights", "Gradient norms of the weights, layer by layer; a gap is a norm of zero.", drawn),
    )
    return Report(
        title="Residual connections and the gradient",
        question="Which scale of the branches keeps a deep network's gradient, and what do ReZero and Fixup do?",
        findings=findings,
        setting=(("blocks", depth), ("width", WIDTH), ("networks a curve", seeds)),
        sections=(Section("Six kinds of branches", body),),
        command="python experiments/residual.py" + (" --quick" if quick else ""),
        records=tuple(records),
        results={row[0]: {"measured": row[1], "theory": row[3]} for row in rows},
        seed=0,
    )


if __name__ == "__main__":
    script(study)
