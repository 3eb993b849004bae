"""Depth and the gradient.

How fast do gradients shrink or grow from layer to layer, and does the rate depend on depth?
"""

# First, for a Ctrl-C while the rest is imported.
import fbp.script  # noqa: F401

# isort: split
import numpy as np

from fbp.report import interval, number
from fbp.studies import Draft, add_flows, measure_perceptrons, study

NETWORKS = (("sigmoid", "glorot_normal"), ("tanh", "glorot_normal"), ("relu", "he_normal"), ("relu", "lecun_normal"))
WIDTH = 128


@study
def depth(draft: Draft) -> None:
    """Networks at several depths, the same batch of digits through all of them."""
    depths, seeds = ((8, 32), 8) if draft.quick else ((8, 32, 128), 20)
    networks = NETWORKS[1:] if draft.quick and len(NETWORKS) > 1 else NETWORKS
    draft.setting = {"width": WIDTH, "depths": depths, "networks a curve": seeds, "batch": "64 digits"}
    flow = measure_perceptrons(draft, WIDTH, seeds)
    flows = {f"{name}, {init}": {f"depth {d}": flow(name, init, d) for d in depths} for name, init in networks}
    rates = {network: [flow.verdict() for flow in each.values()] for network, each in flows.items()}
    last = {network: each[-1] for network, each in rates.items()}
    steady = max(rates, key=lambda network: -np.ptp([np.log(v.rate) for v in rates[network]]))
    moving = max(rates, key=lambda network: np.ptp([np.log(v.rate) for v in rates[network]]))
    spread = lambda network: " to ".join(f"{f(v.rate for v in rates[network]):.3f}" for f in (min, max))
    draft.findings = [
        f"At depth {depths[-1]}: "
        + "; ".join(
            f"{network} is **{v.kind}**, ×{v.rate:.3f} a layer ({interval(v.low, v.high, 3)}), {number(v.decades, 2)} "
            "decades in all"
            for network, v in last.items()
        )
        + ".",
        f"A rate that depth does not change makes the total grow with depth. It changes least with {steady}, ×"
        f"{spread(steady)} over depths {depths[0]} to {depths[-1]}"
        + (f", and most with {moving}, ×{spread(moving)}." if moving != steady else "."),
    ]
    add_flows(
        draft,
        "Gradient norms over layers",
        flows,
        name="depth",
        text="One batch of 64 digits goes forward and backward through many random networks of each kind. The norm of "
        "$dZ_l$ is that of the whole batch; it is carried with its power of two, so that nothing underflows.",
        caption="Gradient norms by layer: a straight line has one factor for every layer.",
        table="The factor a layer towards the input, for each depth.",
        columns=("network", "depth"),
    )


if __name__ == "__main__":
    depth.main()
