"""What a gradient costs.

Does one gradient cost what the sums over $n_l n_{l-1}$ and $n_l$ say, in operations and in memory?
"""

# First, for a Ctrl-C while the rest is imported.
import fbp.script

# isort: split
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import fbp
from fbp.report import Curve, Figure, Table, Text, curves, interval
from fbp.studies import Draft, study

LOSS = fbp.HalfSquaredError()
NETWORKS = (
    (784, 128, 64, 10),
    (784, 512, 512, 10),
    (256,) * 5,
    (256,) * 17,
    (64, 512, 64, 512, 64),
    (1024, 32, 1024),
    (32,) * 33,
)
BATCHES = (64, 512)
ACTIVATIONS = ("linear", "relu", "tanh")
LABELS = ("forward", "gradient", "memory")


def count_cost(widths, m, activation):
    """Operations of forward and gradient and temporary memory, as the compiler counts them; nothing is run."""
    net = fbp.mlp(widths, activation, repeat=False)
    params = jax.eval_shape(lambda key: net.init(key)[0], jax.random.key(0))
    X, Y = (jax.ShapeDtypeStruct((m, n), jnp.float32) for n in (widths[0], widths[-1]))
    forward = fbp.cost.compile(lambda *args: fbp.loss_value(net, LOSS, *args), (params, X, Y))
    gradient = fbp.cost.compile(fbp.value_and_grad(net, LOSS), (params, X, Y))
    return forward.flops, gradient.flops, gradient.temporary_bytes


def predict_cost(widths, m):
    """2 m Σ n_l n_{l-1} forward, twice that backward less the first layer's dA; bytes 4 m Σ n_l."""
    products = np.multiply(widths[1:], widths[:-1])
    forward = 2 * m * products.sum()
    backward = 2 * m * (2 * products.sum() - products[0])
    return forward, forward + backward, 4 * m * sum(widths[1:])


@study
def complexity(draft: Draft) -> None:
    """Networks of several shapes; counts, not timings, so that nothing depends on the clock."""
    networks = NETWORKS[:4] if draft.quick else NETWORKS
    draft.setting = {"networks": len(networks), "batches": BATCHES, "loss": "half squared error"}
    cases = [(widths, m, activation) for widths in networks for m in BATCHES for activation in ACTIVATIONS]
    names = {x: "-".join(map(str, x)) if len(x) < 6 else f"{x[0]} × {len(x) - 1}" for x in networks}
    mean_widths = np.array([predict_cost(widths, 1)[0] / 2 / sum(widths[1:]) for widths, *_ in cases])
    counted, predicted = [], []
    for (widths, m, activation), mean_width in zip(cases, mean_widths, strict=True):
        draft.progress(f"{names[widths]}, batch {m}, {activation}")
        counted.append(count_cost(widths, m, activation))
        predicted.append(predict_cost(widths, m))
        case = {"network": names[widths], "batch": m, "activation": activation, "width": mean_width}
        columns = [f"{label}_{kind}" for kind in ("measured", "predicted") for label in LABELS]
        draft.records.append(case | dict(zip(columns, (*map(float, counted[-1]), *predicted[-1]), strict=True)))
    counted, predicted = np.array(counted), np.array(predicted)
    ratios = dict(zip(LABELS, (counted / predicted).T, strict=True))
    linear = np.array([activation == "linear" for *_, activation in cases])
    backward = (counted[:, 1] / counted[:, 0] - 1)[linear]
    units = np.array([m * sum(widths[1:]) for widths, m, _ in cases])
    left = (counted[:, 0] - predicted[:, 0]) / units
    arrays = np.array([4 * m * max(widths[1:]) for widths, m, _ in cases])
    more = ((counted[:, 2] - predicted[:, 2]) / arrays).max()
    ends = {label: interval(x.min(), x.max(), 3) for label, x in (ratios | {"backward": backward}).items()}
    draft.results = {label: {"median": float(np.median(ratio))} for label, ratio in ratios.items()}
    draft.findings = [
        f"Forward, the compiler counts **{np.median(ratios['forward']):.3f}** times $2 m Σ n_l n_{{l-1}}$ "
        f"(from {ends['forward']}); what the products do not explain is {left.min():.1f} to {left.max():.1f} times "
        "$m Σ n_l$.",
        f"Value and gradient together count {np.median(ratios['gradient']):.3f} times the sum of forward and backward; "
        f"in linear networks the backward pass alone is {np.median(backward):.2f} times the forward pass (from "
        f"{ends['backward']}): **two products for one, except in the first layer**, whose $dA$ nobody asks for.",
        f"Temporary memory is {np.median(ratios['memory']):.2f} times $4 m Σ n_l$ bytes (from {ends['memory']}): "
        "below one, where the compiler keeps activations in the buffers of gradients that are not computed yet; above "
        + (f"one by at most {more:.1f} arrays of the widest layer." if more > 0 else "one nowhere."),
    ]

    lines = []
    for name in ACTIVATIONS:
        rows = [i for i in np.argsort(mean_widths, kind="stable") if cases[i][1:] == (BATCHES[-1], name)]
        lines.append(Curve(name, mean_widths[rows], ratios["gradient"][rows], joined=False))
    order = np.argsort(mean_widths, kind="stable")[[0, -1]]
    excess = [float(ratios["gradient"][mean_widths == mean_widths[i]].max() - 1) for i in order]
    axes = ("width of the network, $Σ n_l n_{l-1} / Σ n_l$", "operations, counted / predicted")
    pairs = np.stack([counted, predicted], axis=-1) / np.array([1e6, 1e6, 2**10])[:, None]
    draft.section(
        "Counted beside predicted",
        Text(
            "A dense layer multiplies an $(m, n_{l-1})$ by an $(n_{l-1}, n_l)$ matrix: $2 m n_{l-1} n_l$ operations. "
            "Backward there are two such products, $dW = A^T dZ$ and $dA = dZ W^T$. What is kept is one array of "
            "$m n_l$ numbers a layer. The counts are those of XLA for the compiled, unrolled program."
        ),
        Figure(
            "operations",
            f"Counted over predicted operations, a point for each network at batch {BATCHES[-1]}: the excess, which "
            f"the products do not explain, is {excess[0]:.1%} in the narrowest network and {excess[1]:.1%} in the "
            "widest.",
            partial(curves, lines, *axes, log_x=True, reference=("theory", 1.0)),
        ),
        Table(
            "Counts of relu networks beside the sums; operations in millions, memory in KiB.",
            ("network", "batch", "forward", "predicted", "gradient", "predicted", "memory", "$4 m Σ n_l$"),
            tuple(
                (names[widths], m, *map(float, pair.ravel()))
                for (widths, m, activation), pair in zip(cases, pairs, strict=True)
                if activation == "relu"
            ),
        ),
    )


if __name__ == "__main__":
    complexity.main()
