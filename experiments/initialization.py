"""Initialization and the gradient.

Which variance of the weights keeps the gradient's size, and how narrow is the choice?
"""

# First, for a Ctrl-C while the rest is imported.
import fbp.script  # noqa: F401

# isort: split
from functools import partial

import numpy as np

from fbp.report import Curve, Figure, curves
from fbp.studies import Draft, add_flows, flow_records, measure_perceptrons, study, theory_rate

ACTIVATIONS = ("relu", "tanh")
INITIALIZERS = ("normal(0.01)", "lecun_normal", "glorot_normal", "he_normal", "orthogonal", "inverse_sqrt_uniform")
WIDTH = 128


@study
def initialization(draft: Draft) -> None:
    """Named initializers at one depth, then the scale of the weights as a continuous dial."""
    depth, seeds = (16, 8) if draft.quick else (64, 20)
    draft.setting = {"width": WIDTH, "depth": depth, "networks a curve": seeds, "batch": "64 digits"}
    flow = measure_perceptrons(draft, WIDTH, seeds)
    flows = {name: {init: flow(name, init, depth) for init in INITIALIZERS} for name in ACTIVATIONS}
    variances = np.linspace(0.5, 4.0, 8 if draft.quick else 15)
    fewer = seeds if draft.quick else seeds // 2
    draft.setting["networks a point of the dial"] = fewer
    options = {"seeds": fewer, "scales": tuple(np.sqrt(variances))}
    dial = {name: flow(name, "lecun_normal", depth, **options) for name in ACTIVATIONS}

    def rates(flow):
        theory = [theory_rate(flow, i) or np.nan for i in range(len(variances))]
        verdicts = [flow.verdict(i) for i in range(len(variances))]
        return [v.rate for v in verdicts], [v.low for v in verdicts], [v.high for v in verdicts], theory

    measured = {name: rates(flow) for name, flow in dial.items()}

    drawn = [Curve(name, variances, *each) for name, each in measured.items()]
    he, lecun = (flows["relu"][init].verdict() for init in ("he_normal", "lecun_normal"))
    told = {
        name: ", ".join(f"{x:g}" for i, x in enumerate(variances) if flow.verdict(i).kind == "stable") or "none of them"
        for name, flow in dial.items()
    }
    off = max(abs(np.log(np.array(measured["relu"][0]) / np.sqrt(variances / 2))))
    draft.findings = [
        f"relu with variance $2/n$ (He) is **{he.kind}**, ×{he.rate:.3f} a layer; with $1/n$ it is ×{lecun.rate:.3f} a "
        "layer, near the $√(1/2)$ = 0.707 that He et al. (2015) predict.",
        f"At the {len(variances)} variances that were measured, $n Var W$ = {variances[0]:g} to {variances[-1]:g}, the "
        f"rate of relu is $√(n Var W / 2)$ within {np.expm1(off):.1%}; it is stable at {told['relu']}.",
        f"tanh is stable at {told['tanh']}. At $n Var W$ = {variances[-1]:g} it has ×{measured['tanh'][0][-1]:.3f} a "
        f"layer where relu has ×{measured['relu'][0][-1]:.3f}: its saturation holds the gradient back.",
    ]
    add_flows(
        draft,
        "Named initializers",
        flows,
        name="initializers",
        text=f"{len(INITIALIZERS)} initializers, the same depth and batch. The verdict is on the hidden layers.",
        caption="Gradient norms by layer, one initializer a curve.",
        table="Initializers and their factor a layer.",
        columns=("activation", "initializer"),
        part="named",
    )
    draft.section(
        "The variance as a dial",
        Figure(
            "variance",
            "The factor a layer against the variance of the weights, measured at the markers. Bands are 95 % intervals "
            "over networks, thin lines are mean-field theory.",
            partial(curves, drawn, "$n Var W$", "factor of $‖dZ‖$ a layer", reference=("stable", 1.0)),
        ),
    )
    draft.records += flow_records({"dial": dial}, part="dial")
    draft.results |= {"n_var_w": variances, "rates": measured}


if __name__ == "__main__":
    initialization.main()
