"""Rules that are not the gradient.

How far from the gradient are the raw output error and feedback alignment, and do they learn?
"""

# A widely copied three-layer network computes the output's delta correctly for its own weights, but sends (Ŷ - Y) W_2^T
# back to the hidden layer, where the chain rule asks for ((Ŷ - Y) Act'(Z_2)) W_2^T.
#
# Feedback alignment sends dZ back through a fixed random matrix instead of W^T (Lillicrap et al. 2016), sign-symmetry
# through the signs of W (Liao, Leibo & Poggio 2016), direct feedback alignment sends the output's error straight to
# every layer (Nøkland 2016).

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from papers_rows.learning import descend

import fbp
from fbp.report import Curve, Figure, Table, Text, curves, panels
from fbp.studies import Draft, study

HIDDEN = 30
BATCH = 32


@dataclass(frozen=True)
class SigmoidOutput(fbp.Layer):
    """Ŷ = Act(A W + b), a dense layer and its sigmoid in one, with the gradient's backward rule."""

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


def train(rule: str, rates, epochs: int, X, Y, seeds: int) -> list[dict]:
    """Plain descent by a rule, every rate and seed at once; each epoch, the loss and the cosine with the gradient."""
    net, true = network(RULES[rule]), network(RULES["gradient"])
    step, gradient = fbp.value_and_grad(net, LOSS), fbp.value_and_grad(true, LOSS)

    def epoch(params, order, rate):
        def update(params, rows):
            _, d = step(params, X[rows], Y[rows])
            return jax.tree.map(lambda p, g: p - rate * g, params, d), None

        return jax.lax.scan(update, params, order)[0]

    def observe(params):
        loss, d_true = gradient(params, X, Y)
        _, d_rule = step(params, X, Y)
        cosines = [cosine(d_rule[i]["W"], d_true[i]["W"]) for i in (0, 2)]
        wrong = jnp.argmax(net.forward(params, X)[0], axis=-1) != jnp.argmax(Y, axis=-1)
        return loss, jnp.mean(wrong), *cosines

    runs = [(rate, seed) for rate in rates for seed in range(seeds)]
    params = jax.vmap(lambda seed: net.init(jax.random.key(seed))[0])(jnp.array([seed for _, seed in runs]))
    observed = descend(epoch, observe, params, epochs, len(X), BATCH, runs)
    names = ("loss", "error", "cosine_W1", "cosine_W2")
    return [
        {"rule": rule, "rate": rate, "seed": seed, "epoch": t}
        | {name: float(x[i, t]) for name, x in zip(names, observed, strict=True)}
        for i, (rate, seed) in enumerate(runs)
        for t in range(epochs + 1)
    ]


def cosine(a, b):
    return jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


DEEP = fbp.mlp((784, 64, 64, 64, 10), "tanh", "lecun_normal")
CROSS_ENTROPY = fbp.SoftmaxCrossEntropy()


def sent_back_by(rule):
    """A rule as a function (params, B, X, Y) -> d_params; it differs from the gradient in what is sent back."""

    def matrix(W, B):
        return {"feedback alignment": B, "sign-symmetric": jnp.sign(W) * jnp.mean(jnp.abs(W))}.get(rule, W)

    def backward(params, B, X, Y):
        A, caches = X, []
        for layer, p in zip(DEEP.layers, params, strict=True):
            A, cache = layer.forward(p, A)
            caches.append(cache)
        _, error = CROSS_ENTROPY.value_and_dZ(A, Y)
        d, dA = [], error
        for layer, p, cache, b in reversed(list(zip(DEEP.layers, params, caches, B, strict=True))):
            if isinstance(layer, fbp.Dense):
                d_layer, _ = layer.backward(p, cache, dA)
                dA = dA @ matrix(p["W"], b["W"]).T
            else:
                dA = error @ b["E"] if rule == "direct feedback alignment" else dA
                d_layer, dA = layer.backward(p, cache, dA)
            d.append(d_layer)
        return tuple(reversed(d))

    return backward


DEEP_RULES = ("gradient", "sign-symmetric", "feedback alignment", "direct feedback alignment")


def align(rule, epochs, X, Y, seeds):
    """Descent by a rule: by seed and epoch, loss, error rate and the cosine with the gradient, layer by layer."""
    send, gradient = sent_back_by(rule), fbp.value_and_grad(DEEP, CROSS_ENTROPY)

    def init(seed):
        key, other = jax.random.key(seed), jax.random.key(1000 + seed)
        B = [
            b
            if isinstance(layer, fbp.Dense)
            else {"E": jax.random.normal(jax.random.fold_in(other, i), (10, 64)) / 10**0.5}
            for i, (layer, b) in enumerate(zip(DEEP.layers, DEEP.init(other)[0], strict=True))
        ]
        return DEEP.init(key)[0], tuple(B)

    def epoch(state, order, rate):
        params, B = state

        def update(params, rows):
            return jax.tree.map(lambda p, g: p - rate * g, params, send(params, B, X[rows], Y[rows])), None

        return jax.lax.scan(update, params, order)[0], B

    def observe(state):
        params, B = state
        loss, true = gradient(params, X, Y)
        sent = send(params, B, X, Y)
        cosines = [cosine(a["W"], b["W"]) for a, b in zip(sent, true, strict=True) if a]
        return loss, jnp.mean(jnp.argmax(DEEP.forward(params, X)[0], axis=-1) != Y), *cosines

    state = jax.vmap(init)(jnp.arange(seeds))
    return np.stack(
        descend(epoch, observe, state, epochs, len(X), BATCH, [(0.1, seed) for seed in range(seeds)]), axis=-1
    )


def median_curve(label, values):
    """The median over seeds of values (seeds, epochs + 1), in the band that they span."""
    return Curve(label, np.arange(values.shape[1]), np.median(values, 0), values.min(0), values.max(0))


def compare_deep_rules(draft, epochs, seeds, X, Y):
    """Train by the deep rules, and add what they do to the report."""
    runs = {}
    for rule in DEEP_RULES:
        draft.progress(f"training by {rule}")
        runs[rule] = align(rule, epochs, X, Y, seeds)
    others = DEEP_RULES[1:]

    def draw_cosines():
        drawn = [(rule, [median_curve(f"$W_{l + 1}$", runs[rule][:, :, 2 + l]) for l in range(4)]) for rule in others]
        return panels(drawn, "epoch", "cosine with the gradient", reference=("the gradient", 1.0))

    def draw_losses():
        drawn = [median_curve(rule, runs[rule][:, :, 0]) for rule in DEEP_RULES]
        return curves(drawn, "epoch", "loss (nats)", log_y=True)

    # The cosine of W_1 at the start and at the end, the loss and the error rate at the end.
    ends = {
        rule: [float(np.median(run[:, t, i])) for t, i in ((0, 2), (-1, 2), (-1, 0), (-1, 1))]
        for rule, run in runs.items()
    }
    draft.findings.append(
        "In a network of four layers the first layer's cosine with the gradient goes from start to end: "
        + "; ".join(f"{rule} {ends[rule][0]:.2f} to {ends[rule][1]:.2f}" for rule in others)
        + ". Random matrices begin at right angles to the gradient and come to a cosine of "
        f"{ends['feedback alignment'][1]:.2f} after {epochs} epochs, because the weights turn towards them; the signs "
        "of $W$ are close from the start."
    )
    draft.records += [
        {"rule": rule, "seed": s, "epoch": e, "loss": x[0], "error": x[1]}
        | {f"cosine_W{l + 1}": x[2 + l] for l in range(4)}
        for rule, each in runs.items()
        for s, run in enumerate(each.tolist())
        for e, x in enumerate(run)
    ]
    draft.section(
        "Deeper networks, other matrices",
        Text(
            "784-64-64-64-10, tanh, softmax cross-entropy, plain descent with rate 0.1. The last layer's rule is the "
            "gradient in all of them; they differ in what they send back."
        ),
        Figure("alignment", "Cosine of each layer's update with the gradient; bands span the seeds.", draw_cosines),
        Figure("deep", "Training by four rules from the same weights and batches.", draw_losses),
        Table(
            "Cosine with the gradient of $W_1$, and where training ended (medians over seeds).",
            ("rule", "cosine, start", "cosine, end", "loss, end", "training error rate, end"),
            tuple((rule, *each) for rule, each in ends.items()),
        ),
    )


@study
def alternative_rules(draft: Draft) -> None:
    """Both rules from the same weights, at a modest and at a large learning rate."""
    epochs, seeds, rates = (5, 2, (0.5, 4.0)) if draft.quick else (20, 5, (0.5, 4.0))
    draft.setting = {"network": f"784-{HIDDEN}-10, sigmoid", "digits": 2000, "batch": BATCH, "seeds": seeds}
    X, labels = draft.digits(2000)
    runs = []
    for rule in RULES:
        draft.progress(f"training by {rule}")
        runs += train(rule, rates, epochs, X, jax.nn.one_hot(labels, 10), seeds)
    draft.records += runs

    def over_epochs(column: str, rule: str, rate: float) -> np.ndarray:
        values = [r[column] for r in runs if r["rule"] == rule and r["rate"] == rate]
        return np.array(values).reshape(seeds, epochs + 1)

    def draw_losses():
        drawn = [median_curve(f"{rule}, {rate:g}", over_epochs("loss", rule, rate)) for rule in RULES for rate in rates]
        return curves(drawn, "epoch", "half squared error per digit", log_y=True)

    def draw_cosines():
        drawn = [median_curve(f"$W_1$, rate {rate:g}", over_epochs("cosine_W1", "raw error", rate)) for rate in rates]
        label = "cosine of the raw-error rule with the gradient"
        return curves(drawn, "epoch", label, reference=("the gradient", 1.0))

    summary = [
        (
            rule,
            rate,
            *(
                float(np.median(over_epochs(column, rule, rate)[:, t]))
                for column, t in (("cosine_W1", 0), ("cosine_W1", -1), ("loss", -1), ("error", -1))
            ),
        )
        for rule in RULES
        for rate in rates
    ]
    lowest = float(min(over_epochs("cosine_W1", "raw error", rate).min() for rate in rates))
    start, end = summary[len(rates)][2:4]
    draft.results = {"rows": summary, "lowest_cosine_W1": lowest}
    draft.findings += [
        f"For $W_1$ the raw-error rule is **not the gradient**: its cosine is {start:.3f} at the start and {end:.3f} "
        f"after {epochs} epochs at learning rate {rates[0]:g}; the lowest seen is {lowest:.3f}. For $W_2$ "
        "it is the gradient.",
        "It points downhill nevertheless, and it does not see the saturation of the output: "
        + "; ".join(f"{rule}, learning rate {rate:g}: loss {loss:.4f}" for rule, rate, _, _, loss, _ in summary)
        + f" after {epochs} epochs.",
    ]
    draft.section(
        "The raw output error",
        Text(
            "Wrong rule: $dA_1 = (Ŷ - Y) W_2^T$. Gradient: $dA_1 = ((Ŷ - Y) Act'(Z_2)) W_2^T$, with products entry by "
            "entry inside. Everything else is equal: 784-30-10, sigmoid, half squared error, plain gradient descent, "
            "the same weights and batches."
        ),
        Figure(
            "cosine", "The angle between the raw-error rule and the gradient of $W_1$, over training.", draw_cosines
        ),
        Figure("training", "Training by both rules at two learning rates; bands span the seeds.", draw_losses),
        Table(
            "Cosine with the gradient of $W_1$, and where training ended (medians over seeds).",
            ("rule", "learning rate", "cosine, start", "cosine, end", "loss, end", "training error rate, end"),
            tuple(summary),
        ),
    )
    compare_deep_rules(draft, epochs, seeds, X, labels)
    draft.findings.append(
        "That a network learns is no proof that its backward pass is right: a comparison with the gradient is."
    )


if __name__ == "__main__":
    alternative_rules.main()
