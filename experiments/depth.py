"""Depth: how fast do gradients shrink or grow from layer to layer, and does the rate depend on depth?"""

import jax.numpy as jnp

import fbp
from fbp.report import Report, Section, Text
from fbp.studies import flow_figure, flow_records, flow_table, flow_verdicts, hidden_verdict, script

NETWORKS = (("sigmoid", "glorot_normal"), ("tanh", "glorot_normal"), ("relu", "he_normal"), ("relu", "lecun_normal"))
WIDTH = 128


def study(quick, progress) -> Report:
    """Four networks at several depths, the same batch of digits through all of them."""
    depths, seeds = ((8, 32), 8) if quick else ((8, 32, 128), 20)
    digits = fbp.data.load()
    X, Y = jnp.asarray(digits.train_X[:64]), jnp.asarray(digits.train_Y[:64])

    flows = {}
    for activation, init in NETWORKS:
        flows[f"{activation}, {init}"] = {}
        for depth in depths:
            progress(f"{activation}, {init}, depth {depth}")
            net = fbp.mlp((784,) + (WIDTH,) * depth + (10,), activation, init, repeat=True)
            measured = fbp.flow.measure(net, fbp.SoftmaxCrossEntropy(), X, Y, seeds=seeds)
            flows[f"{activation}, {init}"][f"depth {depth}"] = measured

    deepest = {name: hidden_verdict(each[f"depth {depths[-1]}"]) for name, each in flows.items()}
    findings = tuple(
        f"{name}: **{v.kind}** at depth {depths[-1]}, x{v.rate:.3f} a layer (95 % interval {v.low:.3f} to "
        f"{v.high:.3f}), {v.decades:z.1f} decades over the network."
        for name, v in deepest.items()
    )
    body = (
        Text(
            "One batch of 64 digits goes forward and backward through many random networks of each kind. The norm of "
            "dZ is that of the whole batch; it is carried with its power of two, so that nothing underflows."
        ),
        flow_figure(
            "depth",
            "Gradient norms by layer: the slope belongs to the network, not to its depth. Lines are medians over "
            "networks, bands go from 10 % to 90 %, thin black lines are mean-field theory.",
            flows,
        ),
        flow_table("The factor a layer towards the input, for each depth.", flows, ("network", "depth")),
    )
    return Report(
        title="Depth and the gradient",
        question="How fast do gradients shrink or grow from layer to layer, and does the rate depend on depth?",
        findings=findings,
        setting=(("width", WIDTH), ("depths", depths), ("networks a curve", seeds), ("batch", "64 digits")),
        sections=(Section("Gradient norms over layers", body),),
        command="python experiments/depth.py" + (" --quick" if quick else ""),
        records=tuple(flow_records(flows)),
        results={"verdicts": flow_verdicts(flows)},
        seed=0,
        data=((digits.name, digits.sha256),),
    )


if __name__ == "__main__":
    script(study)
