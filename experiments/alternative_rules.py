"""Rules that are not the gradient.

How far from the gradient are the raw output error and feedback alignment, and do they learn?
"""

# First, for a Ctrl-C while the rest is imported.
import fbp.script

# isort: split
# A widely copied three-layer network computes the output's delta correctly for its own weights, but sends (Ŷ - Y) W_2^T
# back to the hidden layer, where the chain rule asks for ((Ŷ - Y) Act'(Z_2)) W_2^T.
#
# Feedback alignment sends dZ back through a fixed random matrix instead of W^T (Lillicrap et al. 2016), sign-symmetry
# through the signs of W (Liao, Leibo & Poggio 2016), direct feedback alignment sends the output's error straight to
# every layer (Nøkland 2016).

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from papers_rows.learning import median_curve, watch

import fbp
from fbp.report import Figure, Table, Text, curves, fixed, panels, significant
from fbp.studies import Draft, study

BATCH = 32


@dataclass(frozen=True)
class FedBack(fbp.Dense):
    """A dense layer that holds random matrices, which are never trained: B, like W, and E, from the output's error."""

    def init(self, key, shape):
        params, out = super().init(key, shape)
        of_B, of_E = jax.random.split(jax.random.fold_in(key, 1))
        B = super().init(of_B, shape)[0]["W"]
        return params | {"B": B, "E": jax.random.normal(of_E, (10, *shape)) / 10**0.5}, out

    def backward(self, params, cache, dA_out):
        d_params, dA = super().backward(params, cache, dA_out)
        return d_params | {name: jnp.zeros_like(params[name]) for name in ("B", "E")}, dA


SHALLOW = fbp.Serial(
    *(FedBack(30, "glorot_normal"), fbp.Activation("sigmoid")),
    *(FedBack(10, "glorot_normal"), fbp.Activation("sigmoid")),
    shape=(784,),
)
DEEP = fbp.tree.rebuild(
    fbp.mlp((784, 64, 64, 64, 10), "tanh", "lecun_normal"),
    lambda layer: FedBack(layer.width, layer.initializer) if isinstance(layer, fbp.Dense) else layer,
)
RULES = ("gradient", "raw error")
DEEP_RULES = ("gradient", "sign-symmetric", "feedback alignment", "direct feedback alignment")
LOSS, ERROR, COSINE_W1 = range(3)
"""What the last axis of a run begins with; the cosines of further layers follow."""
LEARNED = 0.5
"""A network has learned when its loss is below this part of what it was."""


def backward(rule, net, loss, params, X, Y, weights=None, key=None):
    """(loss, output, d_params) by a rule; rules differ in what a dense layer sends back."""
    A, caches = X, []
    for layer, p in zip(net.layers, params, strict=True):
        A, cache = layer.forward(p, A)
        caches.append(cache)
    value, error = loss.value_and_dZ(A, Y, weights)
    last = max(l for l, p in enumerate(params) if p)
    d_params, dA = [], error
    for l, layer in reversed(list(enumerate(net.layers))):
        dZ, p = dA, params[l]
        d, dA = layer.backward(p, caches[l], dZ)
        d_params.insert(0, d)
        if d:
            if rule == "raw error" and l == last:
                dA = error @ p["W"].T
            elif rule == "sign-symmetric":
                dA = dZ @ jnp.sign(p["W"]).T * jnp.mean(jnp.abs(p["W"]))
            elif rule == "feedback alignment":
                dA = dZ @ p["B"].T
            elif rule == "direct feedback alignment":
                dA = error @ p["E"]
    return value, A, tuple(d_params)


def train(draft, net, loss, rule, rates, epochs, seeds, X, Y, labels):
    """Plain descent by a rule, every rate and seed at once: by rate, (seeds, epochs + 1, 2 + dense layers)."""
    draft.progress(f"training by {rule}")
    step = partial(backward, rule)

    def observe(params):
        _, true = fbp.value_and_grad(net, loss)(params, X, Y)
        value, output, d_params = step(net, loss, params, X, Y)
        cosines = [cosine(a["W"], b["W"]) for a, b in zip(d_params, true, strict=True) if a]
        return value, jnp.mean(jnp.argmax(output, axis=-1) != labels), *cosines

    options = {"optimizer": optax.sgd, "gradient": step}
    observed = np.stack(watch(net, loss, (X, Y), observe, rates, seeds, epochs, BATCH, **options), axis=-1)
    draft.records += [
        {"layers": len(cosines), "rule": rule, "rate": rate, "seed": seed, "epoch": t, "loss": value, "error": error}
        | {f"cosine_W{l}": x for l, x in enumerate(cosines, start=1)}
        for rate, runs in zip(rates, observed.tolist(), strict=True)
        for seed, run in enumerate(runs)
        for t, (value, error, *cosines) in enumerate(run)
    ]
    return dict(zip(rates, observed, strict=True))


def cosine(a, b):
    return jnp.vdot(a, b) / (jnp.linalg.norm(a) * jnp.linalg.norm(b))


def ends(run):
    """Of a run (seeds, epochs + 1, ...): the cosine of W_1 at the start and the end, loss and error rate at the end."""
    return [float(np.median(run[:, t, i])) for t, i in ((0, COSINE_W1), (-1, COSINE_W1), (-1, LOSS), (-1, ERROR))]


def end_table(columns, rows):
    heads = (*columns, "cosine, start", "cosine, end", "loss, end", "training error rate, end")
    shown = tuple((*row[:-4], *map(fixed, row[-4:-2], (3, 3)), significant(row[-2]), fixed(row[-1], 3)) for row in rows)
    return Table("Cosine with the gradient of $W_1$, and where training ended (medians over seeds).", heads, shown)


@study
def alternative_rules(draft: Draft) -> None:
    """Both rules from the same weights, at a modest and at a large learning rate; then four rules in a deeper net."""
    epochs, seeds, rates = (5, 2, (0.5, 4.0)) if draft.quick else (20, 5, (0.5, 4.0))
    draft.setting = {"network": "784-30-10, sigmoid", "digits": 2000, "batch": BATCH, "seeds": seeds}
    X, labels = draft.digits(2000)
    one_hot, shared = jax.nn.one_hot(labels, 10), (epochs, seeds, X)
    half_squared, cross_entropy = fbp.HalfSquaredError(), fbp.SoftmaxCrossEntropy()
    runs = {
        (rule, rate): run
        for rule in RULES
        for rate, run in train(draft, SHALLOW, half_squared, rule, rates, *shared, one_hot, labels).items()
    }
    deep = {rule: train(draft, DEEP, cross_entropy, rule, (0.1,), *shared, labels, labels)[0.1] for rule in DEEP_RULES}

    rows = tuple((rule, rate, *ends(run)) for (rule, rate), run in runs.items())
    deep_rows = {rule: ends(run) for rule, run in deep.items()}
    raw = {rate: run for (rule, rate), run in runs.items() if rule == "raw error"}
    lowest, lowest_W2 = (float(min(run[:, :, COSINE_W1 + l].min() for run in raw.values())) for l in range(2))
    learns = all(np.median(run[:, -1, LOSS] / run[:, 0, LOSS]) < LEARNED for run in raw.values())
    start, end, *_ = ends(runs["raw error", rates[0]])
    draft.results = {"rows": rows, "lowest_cosine_W1": lowest}
    at_end = {(rule, rate): ends(run)[2] for (rule, rate), run in runs.items()}
    fed = {rule: deep_rows[rule][:2] for rule in DEEP_RULES[1:]}
    turns = all(end > start for start, end in (fed[rule] for rule in DEEP_RULES[2:]))
    draft.findings = [
        f"For $W_1$ the raw-error rule is **not the gradient**: its cosine is {start:.3f} at the start and {end:.3f} "
        f"after {epochs} epochs at learning rate {rates[0]:g}; the lowest seen is {lowest:.3f}. For $W_2$ "
        f"the lowest is {lowest_W2:.3f}.",
        ("Nevertheless **it learns**" if learns else "**It does not learn** at every rate")
        + f": after {epochs} epochs its loss is "
        + "; ".join(
            f"{at_end['raw error', rate]:.4f} at learning rate {rate:g}, where the gradient has "
            f"{at_end['gradient', rate]:.4f}"
            for rate in rates
        )
        + ". It leaves out the slope of the output, so that a saturated output sends back its whole error.",
        f"In a network of four layers the cosine with the first layer's gradient goes in {epochs} epochs "
        + ", ".join(f"from {fed[rule][0]:z.2f} to {fed[rule][1]:z.2f} ({rule})" for rule in DEEP_RULES[1:])
        + ("; with random matrices **the network turns towards the gradient**." if turns else "."),
        "That a network learns is no proof that its backward pass is right: a comparison with the gradient is.",
    ]

    losses = [median_curve(f"{rule}, {rate:g}", run[:, :, LOSS]) for (rule, rate), run in runs.items()]
    cosines = [median_curve(f"$W_1$, rate {rate:g}", run[:, :, COSINE_W1]) for rate, run in raw.items()]
    deep_losses = [median_curve(rule, run[:, :, LOSS]) for rule, run in deep.items()]
    deep_cosines = [
        (rule, [median_curve(f"$W_{l + 1}$", deep[rule][:, :, COSINE_W1 + l]) for l in range(4)])
        for rule in DEEP_RULES[1:]
    ]
    beside_gradient = {"xlabel": "epoch", "ylabel": "cosine with the gradient", "reference": ("the gradient", 1.0)}
    draft.section(
        "The raw output error",
        Text(
            "Wrong rule: $dA_1 = (Ŷ - Y) W_2^T$. Gradient: $dA_1 = ((Ŷ - Y) ⊙ Act'(Z_2)) W_2^T$. Everything else is "
            "equal: 784-30-10, sigmoid, half squared error, plain gradient descent, the same weights and batches."
        ),
        Figure(
            "cosine",
            "Cosine of the raw-error rule with the gradient of $W_1$: medians, bands span the seeds.",
            partial(curves, cosines, **beside_gradient),
        ),
        Figure(
            "training",
            "Training by both rules at two learning rates: medians, bands span the seeds.",
            partial(curves, losses, "epoch", "half squared error per digit", log_y=True),
        ),
        end_table(("rule", "learning rate"), rows),
    )
    draft.section(
        "Deeper networks, other matrices",
        Text(
            "784-64-64-64-10, tanh, softmax cross-entropy, plain descent with rate 0.1. The last layer's rule is the "
            "gradient in all of them; they differ in what they send back."
        ),
        Figure(
            "alignment",
            "Cosine of each layer's update with the gradient: medians, bands span the seeds.",
            partial(panels, deep_cosines, **beside_gradient),
        ),
        Figure(
            "deep",
            "Training by four rules from the same weights and batches: medians, bands span the seeds.",
            partial(curves, deep_losses, "epoch", "loss (nats)", log_y=True),
        ),
        end_table(("rule",), tuple((rule, *row) for rule, row in deep_rows.items())),
    )


if __name__ == "__main__":
    alternative_rules.main()
