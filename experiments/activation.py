"""Activation: how does the choice of nonlinearity, with the same weights, change the gradient's way back?"""

import jax.numpy as jnp

import fbp
from fbp.report import Report, Section, Text
from fbp.studies import flow_figure, flow_records, flow_table, flow_verdicts, hidden_verdict, script

FAMILIES = {
    "bounded": ("sigmoid", "tanh", "scaled_tanh", "hard_tanh", "erf"),
    "rectified": ("relu", "leaky_relu(0.2)", "elu", "selu", "softplus"),
    "smooth gates": ("gelu", "silu", "linear"),
}
VARIANCES = {"lecun_normal": "1/n", "he_normal": "2/n"}
WIDTH = 128


def study(quick, progress) -> Report:
    """Every activation with two variances of the weights, at one depth."""
    depth, seeds = (16, 8) if quick else (50, 20)
    digits = fbp.data.load()
    X, Y = jnp.asarray(digits.train_X[:64]), jnp.asarray(digits.train_Y[:64])

    flows = {}
    for init, variance in VARIANCES.items():
        for family, activations in FAMILIES.items():
            panel = flows.setdefault(f"{family}, {variance}", {})
            for activation in activations[:2] if quick else activations:
                progress(f"{activation}, {variance}")
                net = fbp.mlp((784,) + (WIDTH,) * depth + (10,), activation, init, repeat=True)
                panel[activation] = fbp.flow.measure(net, fbp.SoftmaxCrossEntropy(), X, Y, seeds=seeds)

    verdicts = {(panel, name): hidden_verdict(flow) for panel, each in flows.items() for name, flow in each.items()}
    stable = [f"{name} ({panel.split(', ')[1]})" for (panel, name), v in verdicts.items() if v.kind == "stable"]
    kinds = {}
    for (_, name), v in verdicts.items():
        kinds.setdefault(name, set()).add(v.kind)
    swayed, fixed = ([name for name, found in kinds.items() if (len(found) > 1) is more] for more in (True, False))
    (worst_panel, worst), slowest = min(verdicts.items(), key=lambda item: item[1].rate)
    findings = (
        f"Stable over {depth} layers: {', '.join(stable) if stable else 'none'}.",
        f"The fastest to vanish is **{worst}** ({worst_panel.split(', ')[1]}): x{slowest.rate:.3f} a layer.",
        f"The variance changes the verdict on {', '.join(swayed) if swayed else 'none'}; "
        f"{', '.join(fixed) if fixed else 'none'} {'keeps' if len(fixed) == 1 else 'keep'} it under both.",
    )
    body = (
        Text(
            "Each activation with weights of variance 1/n and 2/n, biases zero. Theory is that of infinite width. "
            "Where activations have a mean (softplus), the part of the gradient along it, one part in n, shrinks more "
            "slowly than the rest and takes over on a long way."
        ),
        flow_figure(
            "activation",
            "Gradient norms by layer, for each activation and two variances of the weights. Lines are medians over "
            "networks, bands go from 10 % to 90 %, thin black lines are mean-field theory.",
            flows,
        ),
        flow_table("The factor a layer towards the input.", flows, ("family", "activation")),
    )
    return Report(
        title="Activations and the gradient",
        question="How does the choice of nonlinearity, with the same weights, change the gradient's way back?",
        findings=findings,
        setting=(("width", WIDTH), ("depth", depth), ("networks a curve", seeds), ("batch", "64 digits")),
        sections=(Section("Gradient norms over layers", body),),
        command="python experiments/activation.py" + (" --quick" if quick else ""),
        records=tuple(flow_records(flows)),
        results={"verdicts": flow_verdicts(flows)},
        seed=0,
        data=((digits.name, digits.sha256),),
    )


if __name__ == "__main__":
    script(study)
