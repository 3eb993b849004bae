"""Remedies for a network that does not learn.

A sigmoid and a tanh network of 64 layers do not learn the digits. Which single change cures them?
"""

# First, for a Ctrl-C while the rest is imported.
import fbp.script

# isort: split
from functools import partial

import jax.numpy as jnp
import numpy as np
import optax
from papers_rows.learning import median_curve, watch

import fbp
from fbp.report import Curve, Figure, Table, Text, curves, fixed, panels, plain, significant
from fbp.studies import Draft, study

DEPTH, WIDTH, BATCH = 64, 64, 50
FAINT = -6
"""log10 of a norm of dW below which a gradient is called faint."""
RATES = (1e-3, 1e-4)
LOSS = fbp.SoftmaxCrossEntropy()
SIGMOID = {"activation": "sigmoid", "init": "glorot_normal"}
TANH = {"activation": "tanh", "init": "inverse_sqrt_uniform"}
EDGE = fbp.theory.edge_of_chaos("sigmoid", 0.0)
SIGMOID_SICK, TANH_SICK = "sigmoid, Glorot", "tanh, uniform $1/√n$"
NETWORKS = {
    SIGMOID_SICK: SIGMOID,
    "activation: tanh": SIGMOID | {"activation": "tanh"},
    "initialization: edge of chaos": SIGMOID | {"init": f"mean_field({EDGE:.4f})"},
    "normalization: batch": SIGMOID | {"norm": "batch"},
    "normalization: layer": SIGMOID | {"norm": "layer"},
    "residual, $1/√L$": SIGMOID | {"residual": DEPTH**-0.5},
    TANH_SICK: TANH,
    "initialization: orthogonal": TANH | {"init": "orthogonal"},
}


def train(options, epochs, X, Y, seeds):
    """Adam at every rate from every seed, all at once.

    Returns:
        Before every epoch and after the last: the loss and the error rate, (rates, seeds, epochs + 1), and log10 of the
        norms of dW, (rates, seeds, epochs + 1, L).
    """
    net = fbp.mlp((784, *[WIDTH] * (DEPTH - 1), 10), repeat=True, **options)
    norms = fbp.log10_gradient_norms(net, LOSS)

    def observe(params):
        Z, _ = net.forward(params, X)
        return LOSS.value(Z, Y), jnp.mean(jnp.argmax(Z, axis=-1) != Y), norms(params, X[:BATCH], Y[:BATCH]).dW

    return watch(net, LOSS, (X, Y), observe, RATES, seeds, epochs, BATCH, optimizer=optax.adam)


@study
def remedies(draft: Draft) -> None:
    """Two sick networks, and six that differ from one of them in one respect."""
    epochs, examples, seeds = (3, 1000, 1) if draft.quick else (15, 3000, 2)
    draft.setting = {"depth": DEPTH, "width": WIDTH, "epochs": epochs, "seeds": seeds, "digits": examples}
    X, Y = draft.digits(examples)
    shown, ends, rows = {}, {}, []
    for name, options in NETWORKS.items():
        draft.progress(name)
        loss, error, dW = train(options, epochs, X, Y, seeds)
        last = np.median(loss[:, :, -1], axis=1)
        best = int(np.argmin(np.where(np.isfinite(last), last, np.inf)))
        shown[name] = loss[best], dW[best]
        ends[name] = [float(np.median(x[best])) for x in (loss[:, :, -1], error[:, :, -1], dW[:, :, 0, 0])]
        rows.append(
            (
                name,
                significant(RATES[best], 1),
                *(fixed(x, places) for x, places in zip(ends[name], (3, 3, 1), strict=True)),
            )
        )
        draft.records += [
            {"network": plain(name), "rate": rate, "seed": seed, "epoch": t, "layer": l + 1}
            | {"loss": float(loss[r, seed, t]), "error": float(error[r, seed, t]), "log10_dW": float(dW[r, seed, t, l])}
            for r, rate in enumerate(RATES)
            for seed, t, l in np.ndindex(dW.shape[1:])
        ]
    cured = [name for name in ends if ends[name][1] < 0.5]
    draft.results = {
        key: {plain(name): each[i] for name, each in ends.items()} for i, key in ((1, "error_rate"), (2, "log10_dW_1"))
    }
    faint = [name for name in ends if ends[name][2] < FAINT]
    spans = f" Bands span the {seeds} seeds." if seeds > 1 else " One seed."
    sick = "; ".join(f"**{name}** ({error:.0%})" for name, (_, error, _) in ends.items() if name not in cured)
    learned = sum(name in cured for name in ends if name not in faint)
    enough = "A gradient that arrives is not enough: at" if learned < len(ends) - len(faint) else "At"
    draft.findings = [
        f"Above 50 % errors on the training digits stay in {epochs} epochs (chance is 90 %): {sick or 'none'}.",
        "What makes the network learn them: "
        + ("; ".join(f"{name} ({ends[name][1]:.1%} errors)" for name in cured) or "none of these changes")
        + ".",
        f"{enough} the start $‖dW_1‖$ is below $10^{{{FAINT}}}$ in {len(faint)} networks, "
        f"{sum(name in cured for name in faint)} of which learn; it is larger in {len(ends) - len(faint)}, {learned} "
        "of which learn.",
    ]

    losses = [median_curve(name, loss) for name, (loss, _) in shown.items()]
    norms = [
        (name, [Curve(f"epoch {t}", np.arange(1, DEPTH + 1), np.median(dW[:, t], 0)) for t in (0, 1, epochs)])
        for name, (_, dW) in shown.items()
    ]
    draft.section(
        "Eight networks",
        Text(
            f"{DEPTH} dense layers of width {WIDTH}, softmax cross-entropy, Adam, batches of {BATCH} of {examples:,} "
            f"digits. Each network is trained with the learning rates {RATES[0]:g} and {RATES[1]:g} and shown with the "
            "one that ends lower. Five differ in one respect from a sigmoid network with Glorot's initialization, the "
            "last one from a tanh network whose weights are uniform within $1/√n$, as PyTorch draws those of its "
            "linear layers; biases are zero here."
        ),
        Figure(
            "loss",
            f"Training loss; chance is ln 10.{spans}",
            partial(curves, losses, "epoch", "training loss (nats)", log_y=True, reference=("ln 10", np.log(10))),
        ),
        Figure(
            "gradients",
            "Gradient norms by layer before, early in and after training, medians over seeds.",
            partial(panels, norms, "layer $l$ (input on the left)", "$log_{10} ‖dW_l‖$"),
        ),
        Table(
            "Where training ended (medians over seeds).",
            ("network", "learning rate", "loss", "training error rate", "$log_{10} ‖dW_1‖$, start"),
            tuple(rows),
        ),
    )


if __name__ == "__main__":
    remedies.main()
