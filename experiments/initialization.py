"""Initialization: which variance of the weights keeps the gradient's size, and how narrow is the choice?"""

import jax.numpy as jnp
import numpy as np

import fbp
from fbp.report import Curve, Figure, Report, Section, Text, curves
from fbp.studies import flow_figure, flow_records, flow_table, flow_verdicts, hidden_verdict, script, theory_rate

ACTIVATIONS = ("relu", "tanh")
INITIALIZERS = ("normal(0.01)", "lecun_normal", "glorot_normal", "he_normal", "orthogonal", "inverse_sqrt_uniform")
WIDTH = 128


def study(quick, progress) -> Report:
    """Named initializers at one depth, then the scale of the weights as a continuous dial."""
    depth, seeds = (16, 8) if quick else (64, 20)
    digits = fbp.data.load()
    X, Y = jnp.asarray(digits.train_X[:64]), jnp.asarray(digits.train_Y[:64])
    widths = (784,) + (WIDTH,) * depth + (10,)
    loss = fbp.SoftmaxCrossEntropy()

    flows = {}
    for activation in ACTIVATIONS:
        flows[activation] = {}
        for init in INITIALIZERS:
            progress(f"{activation}, {init}")
            net = fbp.mlp(widths, activation, init, repeat=True)
            flows[activation][init] = fbp.flow.measure(net, loss, X, Y, seeds=seeds)

    variances = np.linspace(0.5, 4.0, 8 if quick else 15)
    dial = {}
    for activation in ACTIVATIONS:
        progress(f"{activation}, n Var W from {variances[0]} to {variances[-1]}")
        net = fbp.mlp(widths, activation, "lecun_normal", repeat=True)
        dial[activation] = fbp.flow.measure(net, loss, X, Y, seeds=max(seeds // 2, 4), scales=np.sqrt(variances))

    def rates(flow):
        theory = [theory_rate(flow, i) or np.nan for i in range(len(variances))]
        verdicts = [flow.verdict(i) for i in range(len(variances))]
        return [v.rate for v in verdicts], [v.low for v in verdicts], [v.high for v in verdicts], theory

    measured = {activation: rates(flow) for activation, flow in dial.items()}

    def draw():
        drawn = [Curve(activation, variances, *each) for activation, each in measured.items()]
        return curves(drawn, "n Var W", "factor a layer of the norm of dZ", reference=("stable", 1.0))

    he, lecun = (hidden_verdict(flows["relu"][init]) for init in ("he_normal", "lecun_normal"))
    off = max(abs(np.log(np.array(measured["relu"][0]) / np.sqrt(variances / 2))))
    findings = (
        f"relu with variance 2/n (He) is **{he.kind}**, x{he.rate:.3f} a layer; with 1/n it loses x{lecun.rate:.3f} a "
        "layer, the square root of one half (0.707) that He et al. (2015) predict.",
        f"Over n Var W from {variances[0]:g} to {variances[-1]:g} the rate of relu follows sqrt(n Var W / 2) within "
        f"{np.expm1(off):.1%}: there is one right value, 2.",
        "tanh forgives more: above n Var W = 1 its own saturation holds the gradient back, but larger weights explode.",
    )
    named = (
        Text("Six usual initializers, the same depth and batch for all. The verdict is on the hidden layers."),
        flow_figure(
            "initializers",
            "Gradient norms by layer for six initializers: under relu only variance 2/n stays level. Lines are medians "
            "over networks, bands go from 10 % to 90 %, thin black lines are mean-field theory.",
            flows,
        ),
        flow_table("Initializers and their factor a layer.", flows, ("activation", "initializer")),
    )
    swept = (
        Figure(
            "variance",
            "The factor a layer against the variance of the weights: relu follows the square root of n Var W / 2, and "
            "is stable at 2 alone. Bands are 95 % intervals over networks, thin black lines are mean-field theory.",
            draw,
        ),
    )
    return Report(
        title="Initialization and the gradient",
        question="Which variance of the weights keeps the gradient's size, and how narrow is the choice?",
        findings=findings,
        setting=(("width", WIDTH), ("depth", depth), ("networks a curve", seeds), ("batch", "64 digits")),
        sections=(Section("Named initializers", named), Section("The variance as a dial", swept)),
        command="python experiments/initialization.py" + (" --quick" if quick else ""),
        records=(*flow_records(flows, part="named"), *flow_records({"dial": dial}, part="dial")),
        results={"verdicts": flow_verdicts(flows), "n_var_w": variances.tolist(), "rates": measured},
        seed=0,
        data=((digits.name, digits.sha256),),
    )


if __name__ == "__main__":
    script(study)
