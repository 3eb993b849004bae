"""Complexity: does one gradient cost what the sums over n_l n_{l-1} and n_l say, in operations and in memory?"""

import jax
import jax.numpy as jnp
import numpy as np

import fbp
from fbp.report import Curve, Figure, Report, Section, Table, Text, curves
from fbp.studies import script

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


def measured(widths, m, activation):
    """Operations of forward and gradient and temporary memory, as the compiler counts them; nothing is run."""
    net = fbp.mlp(widths, activation, repeat=False)
    params = jax.eval_shape(lambda key: net.init(key)[0], jax.random.key(0))
    X, Y = (jax.ShapeDtypeStruct((m, n), jnp.float32) for n in (widths[0], widths[-1]))
    forward = fbp.cost.compile(lambda *args: fbp.loss_value(net, LOSS, *args), (params, X, Y))
    gradient = fbp.cost.compile(fbp.value_and_grad(net, LOSS), (params, X, Y))
    return forward.flops, gradient.flops, gradient.temporary_bytes


def predicted(widths, m):
    """2 m sum n_l n_{l-1} forward, twice that backward less the first layer's dA; bytes 4 m sum n_l."""
    products = np.multiply(widths[1:], widths[:-1])
    forward = 2 * m * products.sum()
    backward = 2 * m * (2 * products.sum() - products[0])
    return forward, forward + backward, 4 * m * sum(widths[1:])


def study(quick, progress) -> Report:
    """Networks of several shapes; counts, not timings, so that nothing wobbles."""
    networks = NETWORKS[:4] if quick else NETWORKS
    records = []
    for widths in networks:
        for m in BATCHES:
            for activation in ("linear", "relu", "tanh"):
                name = "-".join(map(str, widths)) if len(widths) < 6 else f"{widths[0]} x {len(widths) - 1}"
                progress(f"{name}, batch {m}, {activation}")
                found, expected = measured(widths, m, activation), predicted(widths, m)
                labels = ("forward", "gradient", "memory")
                records.append(
                    {
                        "network": name,
                        "batch": m,
                        "activation": activation,
                        "width": predicted(widths, 1)[0] / 2 / sum(widths[1:]),
                    }
                    | {f"{label}_measured": float(x) for label, x in zip(labels, found, strict=True)}
                    | {f"{label}_predicted": float(x) for label, x in zip(labels, expected, strict=True)}
                )

    def ratio(label):
        return np.array([r[f"{label}_measured"] / r[f"{label}_predicted"] for r in records])

    backward = [
        (r["gradient_measured"] - r["forward_measured"]) / r["forward_measured"]
        for r in records
        if r["activation"] == "linear"
    ]
    findings = (
        f"Forward, the compiler counts **{np.median(ratio('forward')):.3f}** times 2 m sum n_l n_(l-1) (from "
        f"{ratio('forward').min():.3f} to {ratio('forward').max():.3f}): the products are all that matters; the rest "
        "is of the order m sum n_l.",
        f"Value and gradient together count {np.median(ratio('gradient')):.3f} times the sum of forward and backward; "
        f"the backward pass alone is {np.median(backward):.2f} times the forward pass (from {min(backward):.2f} to "
        f"{max(backward):.2f}): **two products for one, except in the first layer**, whose dA nobody asks for.",
        f"Temporary memory is {np.median(ratio('memory')):.2f} times 4 m sum n_l bytes (from "
        f"{ratio('memory').min():.2f} to {ratio('memory').max():.2f}): below one, where the compiler keeps "
        "activations in the buffers of gradients that are not computed yet; above one, where it holds two arrays of a "
        "wide layer at once.",
    )

    def draw():
        lines = []
        for activation in ("linear", "relu", "tanh"):
            chosen = [r for r in records if (r["activation"], r["batch"]) == (activation, BATCHES[-1])]
            chosen.sort(key=lambda r: r["width"])
            y = [r["gradient_measured"] / r["gradient_predicted"] for r in chosen]
            lines.append(Curve(activation, [r["width"] for r in chosen], y))
        return curves(
            lines,
            "sum n_l n_(l-1) / sum n_l, the width of the network",
            "operations, counted / predicted",
            log_x=True,
            reference=("theory", 1.0),
        )

    body = (
        Text(
            "A dense layer multiplies an (m, n_{l-1}) by an (n_{l-1}, n_l) matrix: 2 m n_{l-1} n_l operations. "
            "Backward there are two such products, dW = A^T dZ and dA = dZ W^T. What is kept is one array of m n_l "
            "numbers a layer. The counts are those of XLA for the compiled, unrolled program."
        ),
        Figure(
            "operations",
            "Counted over predicted operations: what is not a product falls like one over the width.",
            draw,
        ),
        Table(
            "Counts of relu networks beside the sums; operations in millions, memory in KiB.",
            ("network", "batch", "forward", "predicted", "gradient", "predicted", "memory", "4 m sum n"),
            tuple(
                (
                    r["network"],
                    r["batch"],
                    r["forward_measured"] / 1e6,
                    r["forward_predicted"] / 1e6,
                    r["gradient_measured"] / 1e6,
                    r["gradient_predicted"] / 1e6,
                    r["memory_measured"] / 2**10,
                    r["memory_predicted"] / 2**10,
                )
                for r in records
                if r["activation"] == "relu"
            ),
        ),
    )
    return Report(
        title="What a gradient costs",
        question="Does one gradient cost what the sums over n_l n_{l-1} and n_l say, in operations and in memory?",
        findings=findings,
        setting=(("networks", len(networks)), ("batches", BATCHES), ("loss", "half squared error")),
        sections=(Section("Counted beside predicted", body),),
        command="python experiments/complexity.py" + (" --quick" if quick else ""),
        records=tuple(records),
        results={label: {"median": float(np.median(ratio(label)))} for label in ("forward", "gradient", "memory")},
        seed=0,
    )


if __name__ == "__main__":
    script(study)
