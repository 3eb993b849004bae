"""Alternative rules: how far is back-propagating the raw output error, without Act'(Z), from the gradient?

A widely copied three-layer network computes the output's delta rightly for its own weights, but sends W2 (Y - Yhat)
back to the hidden layer, where the chain rule asks for W2 (Y - Yhat) Act'(Z2).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import fbp
from fbp.report import Curve, Figure, Report, Section, Table, Text, curves, script

HIDDEN = 30
BATCH = 32


@dataclass(frozen=True)
class SigmoidOutput(fbp.Layer):
    """Yhat = Act(A W + b), a dense layer and its sigmoid in one, with the gradient's backward rule."""

    width: int

    def init(self, key, shape):
        return fbp.Dense(self.width, "glorot_normal").init(key, shape)

    def forward(self, params, A, key=None):
        out = jax.nn.sigmoid(A @ params["W"] + params["b"])
        return out, (A, out)

    def backward(self, params, cache, dA_out):
        A, out = cache
        dZ = dA_out * out * (1 - out)
        return {"W": A.T @ dZ, "b": dZ.sum(axis=0)}, self.sent_back(params, dA_out, dZ)

    def sent_back(self, params, error, dZ):
        return dZ @ params["W"].T


class RawErrorOutput(SigmoidOutput):
    """The same function; the raw error goes back, without the factor Act'(Z)."""

    def sent_back(self, params, error, dZ):
        return error @ params["W"].T


RULES = {"gradient": SigmoidOutput(10), "raw error": RawErrorOutput(10)}
LOSS = fbp.HalfSquaredError()


def network(output: SigmoidOutput) -> fbp.Serial:
    return fbp.Serial(fbp.Dense(HIDDEN, "glorot_normal"), fbp.Activation("sigmoid"), output, shape=(784,))


def train(rule: str, rate: float, epochs: int, X, Y, seed: int) -> list[dict]:
    """Plain gradient descent by a rule; every epoch, the loss and the cosine of the rule with the gradient."""
    net, true = network(RULES[rule]), network(RULES["gradient"])
    params, _ = net.init(jax.random.key(seed))
    step, gradient = fbp.value_and_grad(net, LOSS), fbp.value_and_grad(true, LOSS)

    @jax.jit
    def epoch(params, order):
        def update(params, rows):
            _, d = step(params, X[rows], Y[rows])
            return jax.tree.map(lambda p, g: p - rate * g, params, d), None

        params, _ = jax.lax.scan(update, params, order)
        return params

    @jax.jit
    def look(params):
        loss, d_true = gradient(params, X, Y)
        _, d_rule = step(params, X, Y)
        cosines = [
            jnp.vdot(a["W"], b["W"]) / (jnp.linalg.norm(a["W"]) * jnp.linalg.norm(b["W"]))
            for a, b in ((d_rule[0], d_true[0]), (d_rule[2], d_true[2]))
        ]
        wrong = jnp.argmax(net.forward(params, X)[0], axis=-1) != jnp.argmax(Y, axis=-1)
        return loss, jnp.mean(wrong), *cosines

    rows = []
    keys = jax.random.split(jax.random.key(seed + 1), epochs)
    for number in range(epochs + 1):
        loss, error, first, second = (float(x) for x in look(params))
        rows.append(
            {"rule": rule, "rate": rate, "seed": seed, "epoch": number, "loss": loss, "error": error}
            | {"cosine_W1": first, "cosine_W2": second}
        )
        if number < epochs:
            order = jax.random.permutation(keys[number], len(X))
            params = epoch(params, order[: len(X) // BATCH * BATCH].reshape(-1, BATCH))
    return rows


def study(quick, tell) -> Report:
    """Both rules from the same weights, at a modest and at a large learning rate."""
    epochs, seeds, rates = (5, 2, (0.5, 4.0)) if quick else (20, 5, (0.5, 4.0))
    digits = fbp.data.load()
    X, Y = jnp.asarray(digits.train_X[:2000]), jax.nn.one_hot(digits.train_Y[:2000], 10)

    records = []
    for rule in RULES:
        for rate in rates:
            tell(f"training by {rule}, learning rate {rate}")
            for seed in range(seeds):
                records += train(rule, rate, epochs, X, Y, seed)

    def over_epochs(column: str, rule: str, rate: float) -> np.ndarray:
        found = [r[column] for r in records if r["rule"] == rule and r["rate"] == rate]
        return np.array(found).reshape(seeds, epochs + 1)

    def curve(label: str, column: str, rule: str, rate: float) -> Curve:
        values = over_epochs(column, rule, rate)
        return Curve(label, np.arange(epochs + 1), np.median(values, axis=0), values.min(axis=0), values.max(axis=0))

    def losses():
        return curves(
            [curve(f"{rule}, {rate:g}", "loss", rule, rate) for rule in RULES for rate in rates],
            "epoch",
            "half squared error per digit",
            log_y=True,
        )

    def cosines():
        return curves(
            [curve(f"W1, rate {rate:g}", "cosine_W1", "raw error", rate) for rate in rates],
            "epoch",
            "cosine of the raw-error rule with the gradient",
            reference=("the gradient", 1.0),
        )

    summary = tuple(
        (
            rule,
            rate,
            float(np.median(over_epochs("cosine_W1", rule, rate)[:, 0])),
            float(np.median(over_epochs("cosine_W1", rule, rate)[:, -1])),
            float(np.median(over_epochs("loss", rule, rate)[:, -1])),
            float(np.median(over_epochs("error", rule, rate)[:, -1])),
        )
        for rule in RULES
        for rate in rates
    )
    lowest = float(min(over_epochs("cosine_W1", "raw error", rate).min() for rate in rates))
    start, end = summary[len(rates)][2:4]
    findings = (
        f"For W1 the raw-error rule is **not the gradient**: its cosine is {start:.3f} at the start and {end:.3f} "
        f"after {epochs} epochs at learning rate {rates[0]:g}; the lowest met is {lowest:.3f}. For W2 "
        "it is the gradient.",
        "It points downhill nevertheless, and it does not see the saturation of the output: "
        + "; ".join(f"{rule}, learning rate {rate:g}: loss {loss:.4f}" for rule, rate, _, _, loss, _ in summary)
        + f" after {epochs} epochs.",
        "That a network learns is no proof that its backward pass is right: a comparison with the gradient is.",
    )
    body = (
        Text(
            "Wrong rule: dA1 = (Yhat - Y) W2^T. Gradient: dA1 = ((Yhat - Y) * Act'(Z2)) W2^T. Everything else is "
            "equal: 784-30-10, sigmoid, half squared error, plain gradient descent, the same weights and batches."
        ),
        Figure("cosine", "The angle between the raw-error rule and the gradient of W1, over training.", cosines),
        Figure("training", "Training by both rules at two learning rates; bands span the seeds.", losses),
        Table(
            "Cosine with the gradient of W1, and where training ended (medians over seeds).",
            ("rule", "learning rate", "cosine, start", "cosine, end", "loss, end", "error rate, end"),
            summary,
        ),
    )
    return Report(
        title="The raw-error rule",
        question="How far is back-propagating the raw output error, without the factor Act'(Z), from the gradient?",
        findings=findings,
        setting=(("network", f"784-{HIDDEN}-10, sigmoid"), ("digits", 2000), ("batch", BATCH), ("seeds", seeds)),
        sections=(Section("Against the gradient", body),),
        command="python experiments/alternative_rules.py" + (" --quick" if quick else ""),
        records=tuple(records),
        results={"rows": [list(row) for row in summary], "lowest_cosine_W1": lowest},
        seed=0,
        data=((digits.name, digits.sha256),),
    )


if __name__ == "__main__":
    script(study)
