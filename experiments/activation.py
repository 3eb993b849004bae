"""Activations and the gradient.

How does the choice of nonlinearity, with the same weights, change the gradient on its way back?
"""

# First, for a Ctrl-C while the rest is imported.
import fbp.script  # noqa: F401

# isort: split
from fbp.studies import Draft, add_flows, measure_perceptrons, study

FAMILIES = {
    "bounded": ("sigmoid", "tanh", "scaled_tanh", "hard_tanh", "erf"),
    "rectified": ("relu", "leaky_relu(0.2)", "elu", "selu", "softplus"),
    "gates and linear": ("gelu", "silu", "linear"),
}
VARIANCES = {"lecun_normal": "$1/n$", "he_normal": "$2/n$"}
WIDTH = 128


@study
def activation(draft: Draft) -> None:
    """Every activation with two variances of the weights, at one depth."""
    depth, seeds = (16, 8) if draft.quick else (50, 20)
    draft.setting = {"width": WIDTH, "depth": depth, "networks a curve": seeds, "batch": "64 digits"}
    flow = measure_perceptrons(draft, WIDTH, seeds)
    flows = {
        f"{family}, {variance}": {name: flow(name, init, depth) for name in (names[:1] if draft.quick else names)}
        for init, variance in VARIANCES.items()
        for family, names in FAMILIES.items()
    }

    verdicts = {(name, panel.split(", ")[1]): x.verdict() for panel, each in flows.items() for name, x in each.items()}
    kinds = {}
    for (name, _), v in verdicts.items():
        kinds.setdefault(name, set()).add(v.kind)
    (worst, variance), slowest = min(verdicts.items(), key=lambda item: item[1].rate)
    counts = {kind: sum(v.kind == kind for v in verdicts.values()) for kind in ("vanishing", "stable", "exploding")}
    stable = [f"{name} ({variance})" for (name, variance), v in verdicts.items() if v.kind == "stable"]
    swayed = [name for name, seen in kinds.items() if len(seen) > 1]
    draft.findings = [
        f"{len(verdicts)} networks of {depth} layers: {counts['vanishing']} vanishing, {counts['stable']} stable, "
        f"{counts['exploding']} exploding. **Stable**: {', '.join(stable) or 'none'}.",
        ("No variance suits all: from" if swayed else "From")
        + f" $1/n$ to $2/n$ the verdict changes for {len(swayed)} of {len(kinds)} activations"
        + (f" ({', '.join(swayed)})." if swayed else "."),
        f"The fastest to vanish is **{worst}** ({variance}), ×{slowest.rate:.3f} a layer.",
    ]
    add_flows(
        draft,
        "Gradient norms over layers",
        flows,
        name="activation",
        text="Each activation with weights of variance $1/n$ and $2/n$, biases zero. Theory "
        "counts the width where activations have a mean (softplus): the part of the gradient along $Z$, one part in "
        "$n$, shrinks more slowly than the rest.",
        caption="Gradient norms by layer, for each activation and two variances of the weights.",
        table="The factor a layer towards the input.",
        columns=("family", "activation"),
    )


if __name__ == "__main__":
    activation.main()
