"""Grokking.

A small transformer learns addition modulo 97 from three sums in ten. When does it begin to know the others, what does
weight decay change about that, and what do gradients and weights do meanwhile?
"""

# First, for a Ctrl-C while the rest is imported.
import fbp.script

# isort: split
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from papers_rows.learning import draw_starts

import fbp
from fbp.report import Curve, Figure, Table, Text, curves, fixed, number, panels, significant
from fbp.studies import Draft, study

MODULUS, SHOWN = 97, 0.3
WIDTH, DEPTH, HEADS, BATCH = 64, 1, 4, 512
RATE, BETA2, WARMUP = 1e-3, 0.98, 10
KNOWN, LATE = 0.99, 0.8
LOSS = fbp.SoftmaxCrossEntropy()
MATRICES = ("tokens.E", "blocks.q.W", "blocks.k.W", "blocks.v.W", "blocks.o.W", "blocks.up.W", "blocks.down.W")


@dataclass(frozen=True)
class Answer(fbp.Layer):
    """The scores at the last position, where the sum stands: loss and accuracy are then those of the answer alone."""

    def init(self, key, shape):
        return (), shape[1:]

    def forward(self, params, A, key=None):
        return A[:, -1], A.shape[1]

    def backward(self, params, cache, dA_out):
        return (), jnp.pad(dA_out[:, None], ((0, 0), (cache - 1, 0), (0, 0)))


class Seen(NamedTuple):
    """Of several runs, over time: arrays (runs, moments, ...).

    Attributes:
        steps: at which they were looked at, (moments,).
        accuracy: of the sums that are shown, and of the others, (runs, moments, 2).
        loss: likewise.
        gradient: the norm of the gradient of the loss over all sums that are shown, by matrix, all parameters last.
        weight: the norm of the parameters, likewise.
    """

    steps: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    gradient: np.ndarray
    weight: np.ndarray


def build() -> fbp.Serial:
    return fbp.Serial(fbp.gpt(MODULUS + 1, 3, WIDTH, DEPTH, HEADS), Answer(), shape=(3,))


@partial(jax.jit, static_argnums=0)
def look(net: fbp.Serial, params, train_data, test_data):
    """The fields of `Seen` but the steps, of all runs at one moment."""

    def measure_norms(tree):
        leaves = jax.tree.leaves_with_path(tree[0])
        squares = {jax.tree_util.keystr(path, simple=True, separator="."): jnp.sum(x**2) for path, x in leaves}
        return jnp.sqrt(jnp.stack([*(squares[name] for name in MATRICES), sum(squares.values())]))

    def evaluate(params, X, Y):
        Z, _ = net.forward(params, X)
        return jnp.mean(jnp.argmax(Z, axis=-1) == Y), LOSS.value(Z, Y)

    def one(params):
        evaluated = [evaluate(params, *data) for data in (train_data, test_data)]
        accuracy, loss = (jnp.stack(x) for x in zip(*evaluated, strict=True))
        gradient = fbp.value_and_grad(net, LOSS)(params, *train_data)[1]
        return accuracy, loss, measure_norms(gradient), measure_norms(params)

    return jax.vmap(one)(params)


def train(net, train_data, test_data, decay: float, seeds: int, epochs: int, every: int) -> Seen:
    """AdamW from every seed at once, looked at before training and every so many epochs."""
    seen_now = partial(look, net, train_data=train_data, test_data=test_data)
    start = draw_starts(net, jnp.arange(seeds))
    seen, steps = [seen_now(start)], [0]

    def on_epoch(records, state):
        if records.epoch % every == 0:
            seen.append(seen_now(state.params))
            steps.append(records[0].step)

    rate = optax.linear_schedule(RATE / WARMUP, RATE, WARMUP)
    rule = optax.adamw(rate, b2=BETA2, weight_decay=decay)
    options = {"optimizer": rule, "seeds": seeds, "epochs": epochs, "batch_size": BATCH}
    fbp.training.fit_many(net, LOSS, start, train_data, on_epoch=on_epoch, **options)
    accuracy, loss, gradient, weight = (np.stack(x, axis=1) for x in zip(*seen, strict=True))
    return Seen(np.array(steps), accuracy, loss, gradient, weight)


def find_first(steps, accuracy) -> np.ndarray:
    """The first step at which each run knows its sums, (runs,); infinite where none is."""
    known = accuracy >= KNOWN
    return np.where(known.any(axis=1), steps[known.argmax(axis=1)], np.inf)


def tell_steps(first, last: int) -> str:
    """When the runs knew: the median and the range, as far as they did."""
    known = np.sort(first[np.isfinite(first)])
    if len(known) == 0:
        return f"in no run within {last} steps"
    span = f"at step {known[0]:.0f}" if known[0] == known[-1] else f"at steps {known[0]:.0f} to {known[-1]:.0f}"
    return span if len(known) == len(first) else f"{span} in {len(known)} of {len(first)} runs"


def median_curves(names, steps, values) -> list[Curve]:
    """Medians over runs of values (runs, moments, names) in the band that they span."""
    each = ((name, values[:, :, i]) for i, name in enumerate(names))
    return [Curve(name, steps, np.median(x, axis=0), x.min(axis=0), x.max(axis=0)) for name, x in each]


@study
def grokking(draft: Draft) -> None:
    """The same runs with several strengths of weight decay."""
    decays, seeds, epochs, every = ((0.0, 1.0), 1, 170, 10) if draft.quick else ((0.0, 0.3, 1.0), 3, 500, 10)
    data = fbp.data.load(f"modular({MODULUS})")
    draft.data[data.name] = data.sha256
    shown = round(SHOWN * MODULUS**2)
    taught = jnp.asarray(data.train_X[:shown]), jnp.asarray(data.train_Y[:shown, -1])
    others = jnp.asarray(data.test_X), jnp.asarray(data.test_Y[:, -1])
    draft.setting = {"network": f"{DEPTH} block of width {WIDTH}, {HEADS} heads", "sums shown": shown}
    draft.setting |= {"other sums": len(others[1]), "batch": BATCH, "seeds": seeds, "rate": RATE, "decay": decays}
    runs = {}
    for decay in decays:
        draft.progress(f"weight decay {decay:g}")
        runs[decay] = train(build(), taught, others, decay, seeds, epochs, every)
        draft.records += list(list_records(decay, runs[decay]))
    report(draft, runs)


def list_records(decay: float, seen: Seen):
    for seed, t in np.ndindex(seen.weight.shape[:2]):
        yield {
            "decay": decay,
            "seed": seed,
            "step": int(seen.steps[t]),
            "accuracy": float(seen.accuracy[seed, t, 0]),
            "test_accuracy": float(seen.accuracy[seed, t, 1]),
            "loss": float(seen.loss[seed, t, 0]),
            "test_loss": float(seen.loss[seed, t, 1]),
            **{f"gradient {m}": float(x) for m, x in zip((*MATRICES, "all"), seen.gradient[seed, t], strict=True)},
            **{f"weight {m}": float(x) for m, x in zip((*MATRICES, "all"), seen.weight[seed, t], strict=True)},
        }


def report(draft: Draft, runs: dict[float, Seen]) -> None:
    """What the runs say."""
    _, interval, *_, last = next(iter(runs.values())).steps
    first = {decay: [find_first(x.steps, x.accuracy[:, :, i]) for i in (0, 1)] for decay, x in runs.items()}
    rows, known_at, weights, gradients, start = [], [], [], [], 0.0
    for decay, seen in runs.items():
        heart, known = first[decay]
        known_at.append(f"{tell_steps(known, last)} at decay {decay:g}")
        norm, slope = seen.weight[:, :, -1], seen.gradient[:, :, -1]
        peak = norm.argmax(axis=1)
        start, most, end = (float(np.median(x)) for x in (norm[:, 0], norm.max(axis=1), norm[:, -1]))
        told = f"{number(end, 3)} at decay {decay:g}"
        weights.append(f"{told} (at its largest {number(most, 3)})" if most > 1.005 * end else told)
        if np.isfinite(heart).all():
            then = [slope[run, np.searchsorted(seen.steps, step)] for run, step in enumerate(heart)]
            # One moment is a matter of chance: gradients leap by decades.
            late = slope[:, seen.steps >= LATE * last]
            ends = (number(float(np.median(x)), 2) for x in (then, late))
            gradients.append(f"from {' to '.join(ends)} at decay {decay:g}")
        middle = lambda x: float(np.median(x)) if np.isfinite(x).all() else None
        rows.append(
            (
                *(decay, middle(heart), middle(known), fixed(float(np.median(seen.accuracy[:, -1, 1])), 3)),
                *(significant(float(np.median(seen.loss[:, -1, i])), 2) for i in (0, 1)),
                *(*map(significant, (start, most)), round(float(np.median(seen.steps[peak]))), significant(end)),
            )
        )
    draft.results = {
        f"decay {decay:g}": {
            "known_by_heart": [float(x) if np.isfinite(x) else None for x in heart],
            "known": [float(x) if np.isfinite(x) else None for x in known],
            "test_accuracy": runs[decay].accuracy[:, -1, 1].tolist(),
        }
        for decay, (heart, known) in first.items()
    }
    by_heart = tell_steps(np.concatenate([heart for heart, _ in first.values()]), last)
    draft.findings = [
        f"{KNOWN:.0%} of the sums that are shown are right {by_heart}, at any weight decay, and of the others "
        f"{'; '.join(known_at)} (asked every {interval} steps).",
        *compare_delays(first),
        f"The norm of all parameters goes in {last} steps from {number(start, 3)} to {'; '.join(weights)}.",
    ]
    if gradients:
        draft.findings.append(
            f"From the moment when {KNOWN:.0%} of the sums shown are right to the last fifth of the steps, the norm of "
            f"the gradient over them goes {'; '.join(gradients)} (medians)."
        )
    add_figures(draft, runs, rows, last)


def compare_delays(first) -> list[str]:
    """How much later the others are known than those that are shown, by weight decay, if all runs came to that."""
    ratios = {
        decay: known / heart
        for decay, (heart, known) in first.items()
        if np.isfinite(known).all() and np.isfinite(heart).all()
    }
    if not ratios:
        return []
    told = "; ".join(f"{number(float(np.median(x)), 2)} at decay {decay:g}" for decay, x in ratios.items())
    return [f"The wait: steps until the others are known, over those for the sums shown, are in the median {told}."]


def add_figures(draft: Draft, runs: dict[float, Seen], rows, last: int) -> None:
    """Accuracies, norms by decay, and norms by matrix."""
    name = lambda decay: f"decay {decay:g}"
    several = len(next(iter(runs.values())).weight) > 1
    spans = "medians over runs, bands span them all" if several else "one run a curve"
    accuracies = [
        (name(decay), median_curves(("shown", "others"), seen.steps, seen.accuracy)) for decay, seen in runs.items()
    ]
    steps = next(iter(runs.values())).steps
    total = lambda field: [
        median_curves((name(decay),), steps, getattr(seen, field)[:, :, -1:])[0] for decay, seen in runs.items()
    ]
    short = [matrix.removeprefix("blocks.") for matrix in MATRICES]
    by_matrix = [
        (name(decay), median_curves(short, seen.steps, np.log10(np.maximum(seen.gradient[:, :, :-1], 1e-30))))
        for decay, seen in runs.items()
    ]
    weights = [(name(decay), median_curves(short, seen.steps, seen.weight[:, :, :-1])) for decay, seen in runs.items()]
    draft.section(
        f"Sums modulo {MODULUS}",
        Text(
            f"A transformer of {DEPTH} block, width {WIDTH} and {HEADS} heads reads a, b and = and is taught the "
            f"sum at the last position, after Power et al. (2022): AdamW with rate {RATE:g}, $β_2$ = {BETA2}, decay of "
            f"all parameters and batches of {BATCH}. It is shown {SHOWN:.0%} of all sums; half of all, none of which "
            "it is shown, test it."
        ),
        Figure(
            "accuracy",
            f"The fraction of right answers among the sums that are shown and among others that are not: {spans}.",
            partial(panels, accuracies, "step", "fraction right"),
        ),
        Figure(
            "weights",
            f"The norm of all parameters over training: {spans}.",
            partial(curves, total("weight"), "step", "norm of the parameters"),
        ),
        Figure(
            "gradients",
            f"The norm of the gradient of the mean loss over all sums that are shown: {spans}.",
            partial(curves, total("gradient"), "step", "norm of the gradient", log_y=True),
        ),
        Table(
            f"Medians over runs. Steps: first with {KNOWN:.0%} right; empty where not every run came to that within "
            f"{last} steps.",
            (
                *("decay", "shown: step", "others: step", "others right, end", "loss, end", "loss of others, end"),
                *("norm of parameters, start", "largest", "at step", "end"),
            ),
            tuple(rows),
        ),
    )
    draft.section(
        "By matrix",
        Figure(
            "gradients_by_matrix",
            f"Gradient norms by matrix: {spans}.",
            partial(panels, by_matrix, "step", "$log_{10} ‖dW‖$"),
        ),
        Figure(
            "weights_by_matrix",
            f"Norms of the weights by matrix: {spans}.",
            partial(panels, weights, "step", "$‖W‖$"),
        ),
    )


if __name__ == "__main__":
    grokking.main()
