"""Remedies: a 64-layer sigmoid network does not learn the digits. Which single change makes it learn?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fbp
from fbp.report import Curve, Figure, Report, Section, Table, Text, curves, panels, script

DEPTH, WIDTH, BATCH = 64, 64, 50
LOSS = fbp.SoftmaxCrossEntropy()
SICK = {"activation": "sigmoid", "init": "glorot_normal"}
EDGE = fbp.theory.edge_of_chaos("sigmoid", 0.0)
NETWORKS = {
    "sigmoid, Glorot": SICK,
    "activation: relu, He": {"activation": "relu", "init": "he_normal"},
    "activation: tanh": SICK | {"activation": "tanh"},
    "initialization: edge of chaos": SICK | {"init": f"mean_field({EDGE:.4f})"},
    "normalization: batch": SICK | {"norm": "batch"},
    "normalization: layer": SICK | {"norm": "layer"},
    "residual, 1/sqrt(L)": SICK | {"residual": DEPTH**-0.5},
}


def train(options, epochs, X, Y, seed):
    """Adam; before every epoch the loss, the error rate and the gradient norms of all layers."""
    net = fbp.mlp((784, *[WIDTH] * (DEPTH - 1), 10), repeat=True, **options)
    params, _ = net.init(jax.random.key(seed))
    rule = optax.adam(1e-3)
    step, norms = fbp.value_and_grad(net, LOSS), fbp.log10_gradient_norms(net, LOSS)

    @jax.jit
    def epoch(params, state, order):
        def update(carry, rows):
            params, state = carry
            _, d = step(params, X[rows], Y[rows])
            change, state = rule.update(d, state, params)
            return (optax.apply_updates(params, change), state), None

        return jax.lax.scan(update, (params, state), order)[0]

    @jax.jit
    def look(params):
        Z, _ = net.forward(params, X)
        return LOSS.value(Z, Y), jnp.mean(jnp.argmax(Z, axis=-1) != Y), norms(params, X[:BATCH], Y[:BATCH]).dW

    state, rows = rule.init(params), []
    draw = np.random.default_rng(seed)
    for number in range(epochs + 1):
        loss, error, dW = look(params)
        rows.append((float(loss), float(error), np.asarray(dW)))
        if number < epochs:
            order = draw.permutation(len(X))[: len(X) // BATCH * BATCH].reshape(-1, BATCH)
            params, state = epoch(params, state, order)
    return rows


def study(quick, tell) -> Report:
    """One sick network, and six that differ from it in one respect."""
    epochs, examples, seeds = (3, 1000, 1) if quick else (15, 3000, 3)
    digits = fbp.data.load()
    X, Y = jnp.asarray(digits.train_X[:examples]), jnp.asarray(digits.train_Y[:examples])
    runs = {}
    for name, options in NETWORKS.items():
        tell(name)
        runs[name] = [train(options, epochs, X, Y, seed) for seed in range(seeds)]

    def over(name, index):
        return np.array([[row[index] for row in run] for run in runs[name]], float)

    final = {name: float(np.median(over(name, 1)[:, -1])) for name in runs}
    decades = {name: float(np.median([run[0][2][-2] - run[0][2][1] for run in runs[name]])) for name in runs}
    cured = [name for name in runs if final[name] < 0.5]
    failed = [name for name in runs if name not in cured]
    findings = (
        f"These do not learn in {epochs} epochs (chance is 90 % errors): "
        + "; ".join(f"**{name}** ({final[name]:.0%})" for name in failed)
        + ". In the sick network the gradient of the first hidden layer is "
        f"{decades['sigmoid, Glorot']:.0f} decades below that of the last one.",
        "What makes it learn: " + "; ".join(f"{name} ({final[name]:.1%} errors)" for name in cured) + ".",
        "Between the gradients of the first and the last hidden layer lie, at the start: "
        + "; ".join(f"{name} {abs(decades[name]):.1f} decades" for name in runs)
        + ". Few decades are needed, and they are not enough.",
    )

    def curve(name, index):
        values = over(name, index)
        return Curve(name, np.arange(epochs + 1), np.median(values, 0), values.min(0), values.max(0))

    def losses():
        return curves(
            [curve(name, 0) for name in runs], "epoch", "training loss (nats)", reference=("ln 10", np.log(10))
        )

    def flows():
        drawn = []
        for name, each in runs.items():
            layers = np.arange(1, DEPTH + 1)
            drawn.append(
                (name, [Curve(f"epoch {t}", layers, np.median([run[t][2] for run in each], 0)) for t in (0, 1, epochs)])
            )
        return panels(drawn, "layer l (input on the left)", "log10 of the norm of dW")

    body = (
        Text(
            f"{DEPTH} dense layers of width {WIDTH}, softmax cross-entropy, Adam with learning rate 0.001, batches of "
            f"{BATCH} of {examples:,} digits. Each network differs from the first in one respect."
        ),
        Figure("loss", "Training loss: the sick network stays at ln 10, chance. Bands span the seeds.", losses),
        Figure("gradients", "Gradient norms by layer before, early in and after training.", flows),
        Table(
            "Where training ended (medians over seeds).",
            ("network", "loss", "error rate", "decades at the start"),
            tuple((n, float(np.median(over(n, 0)[:, -1])), final[n], decades[n]) for n in runs),
        ),
    )
    records = tuple(
        {
            "network": name,
            "seed": seed,
            "epoch": t,
            "loss": row[0],
            "error": row[1],
            "layer": l + 1,
            "log10_dW": float(n),
        }
        for name, each in runs.items()
        for seed, run in enumerate(each)
        for t, row in enumerate(run)
        for l, n in enumerate(row[2])
    )
    return Report(
        title="Remedies for a network that does not learn",
        question="A 64-layer sigmoid network does not learn the digits. Which single change makes it learn?",
        findings=findings,
        setting=(("depth", DEPTH), ("width", WIDTH), ("epochs", epochs), ("seeds", seeds), ("digits", examples)),
        sections=(Section("Seven networks", body),),
        command="python experiments/remedies.py" + (" --quick" if quick else ""),
        records=records,
        results={"error_rate": final, "decades": decades},
        seed=0,
        data=((digits.name, digits.sha256),),
    )


if __name__ == "__main__":
    script(study)
