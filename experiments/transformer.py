"""Transformers and the gradient.

How do gradients pass through the depth of a transformer, with the norm before or behind the branches, and what do
smaller residual projections and a warm-up change?
"""

# First, for a Ctrl-C while the rest is imported.
import fbp.script

# isort: split
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from papers_rows.estimates import Estimate, describe_power, estimate, fit_exponents, locate

import fbp
from fbp.flow import confidence_interval
from fbp.report import Curve, Figure, Table, Text, curves, fixed, interval, number, panels, plain, significant
from fbp.studies import Draft, study

WIDTH, HEADS, LENGTH, VOCABULARY, SUCCESSORS = 64, 4, 16, 12, 3
RATES, NUDGE, ALONE = (1e-3, 3e-4), 0.01, 4
LOSS = fbp.SoftmaxCrossEntropy()
WEIGHTS = ("q", "k", "v", "o", "up", "down")
PRE, PRE_SCALED, POST, POST_SCALED = NETWORKS = ("pre-norm", "pre-norm, $1/√(2L)$", "post-norm", "post-norm, $1/√(2L)$")


def build(name: str, depth: int) -> fbp.Network:
    """A transformer as Xiong et al. take it: relu, one width, Glorot's variance, vectors of mean square 1."""
    position, scaled = ("pre" if name.startswith("pre") else "post"), name.endswith("$")
    sizes: dict[str, Any] = {"width": WIDTH, "hidden": WIDTH, "depth": depth, "heads": HEADS}
    net = fbp.gpt(VOCABULARY, LENGTH, **sizes, norm_position=position, scale_residual=scaled, share_head=False)

    def initialize(layer: fbp.Layer) -> fbp.Layer:
        if isinstance(layer, fbp.Dense):
            # GPT-2's deviation is 0.02, and less by the root of 2 L in residual projections: that factor stays.
            rule = fbp.initializer(layer.initializer)
            return replace(layer, initializer=fbp.Initializer(rule.scale / 0.02**2, "fan_avg"))
        if isinstance(layer, fbp.Embedding):
            return replace(layer, initializer="normal(1)")
        if isinstance(layer, fbp.Unembedding):
            return replace(layer, initializer=f"normal({WIDTH**-0.5})")
        return fbp.Activation("relu") if isinstance(layer, fbp.Activation) else layer

    rebuilt = fbp.tree.rebuild(net, initialize)
    assert isinstance(rebuilt, fbp.Network)
    return rebuilt


def speak(table, sentences: int, draw) -> tuple[np.ndarray, np.ndarray]:
    """Sentences of a language where two characters leave `SUCCESSORS` for the next, equally likely: (X, Y)."""
    said = draw.integers(0, VOCABULARY, (sentences, LENGTH + 1))
    for t in range(2, LENGTH + 1):
        said[:, t] = table[said[:, t - 2], said[:, t - 1], draw.integers(0, SUCCESSORS, sentences)]
    return said[:, :-1], said[:, 1:]


class Start(NamedTuple):
    """Of networks at initialization, an axis of networks in front.

    Attributes:
        dW: log10 ‖dW‖ by block and matrix, of the mean loss.
        alone: the same, of the loss of one character, the mean over `ALONE` of them.
        stream: the mean square of the sum behind each block.
        change: the mean square of what a nudge of all parameters changes in the scores.
    """

    dW: np.ndarray
    alone: np.ndarray
    stream: np.ndarray
    change: np.ndarray


def block_norms(d_params):
    """log10 ‖dW‖, (blocks, matrices)."""
    norms = [jnp.linalg.norm(d_params["blocks"][name]["W"], axis=(1, 2)) for name in WEIGHTS]
    return jnp.log10(jnp.stack(norms, axis=1))


@partial(jax.jit, static_argnums=0)
def read_start(net: fbp.Network, pairs, X, Y):
    def observe(layer, params, A):
        out, _ = layer.forward(params, A)
        reading = (
            jnp.mean(out**2) if isinstance(layer, fbp.Add) else out if isinstance(layer, fbp.Unembedding) else None
        )
        return out, reading

    step = fbp.value_and_grad(net, LOSS)
    # All characters, and one after the other the last ones of some sentences.
    counted = jnp.stack([jnp.ones(Y.shape), *(jnp.zeros(Y.shape).at[i, -1].set(1) for i in range(ALONE))])

    def one(pair):
        params = jax.tree.map(lambda both: both[0], pair)
        dW = jax.lax.map(lambda weights: block_norms(step(params, X, Y, weights)[1]), counted)
        seen = jax.lax.map(lambda params: fbp.tree.observe_layers(net, observe, params, X), pair)
        return dW, seen["blocks"]["end"][0], jnp.mean((seen["head"][1] - seen["head"][0]) ** 2)

    return jax.lax.map(one, pairs)


def measure_start(name: str, depth: int, seeds: int, X, Y, seed: int) -> Start:
    """Read `seeds` networks of one kind and depth; a network of the same position shares the compiled program."""
    params = fbp.flow.sample_parameters(build(name, depth), (LENGTH,), seeds, seed)
    draw = np.random.default_rng(seed)

    def nudge(x):
        size = x.std(axis=tuple(range(1, x.ndim)), keepdims=True)
        return np.stack([x, x + np.float32(NUDGE) * size * draw.standard_normal(x.shape, np.float32)], axis=1)

    program = build(PRE if name.startswith("pre") else POST, depth)
    dW, stream, change = jax.device_get(read_start(program, jax.tree.map(nudge, params), X, Y))
    return Start(dW[:, 0], dW[:, 1:].mean(axis=1), stream, change)


@partial(jax.jit, static_argnums=0)
def train(net: fbp.Network, params, X, Y, rates, X_seen, Y_seen):
    """Adam over X (periods, steps, m, T) with rates (periods, steps): before each period the loss and the norms on the
    batch that is always seen, (seeds, periods, ...)."""
    step, rule = fbp.value_and_grad(net, LOSS), optax.scale_by_adam()

    def update(carry, batch):
        params, state = carry
        X, Y, rate = batch
        _, d = step(params, X, Y)
        change, state = rule.update(d, state)
        return (jax.tree.map(lambda p, u: p - rate * u, params, change), state), None

    def period(carry, batches):
        loss, d = step(carry[0], X_seen, Y_seen)
        return jax.lax.scan(update, carry, batches)[0], (loss, block_norms(d))

    return jax.lax.map(lambda params: jax.lax.scan(period, (params, rule.init(params)), (X, Y, rates))[1], params)


def judge(found: Estimate, bound: float) -> str:
    """Whether the published exponent lies in the interval."""
    return f"{number(bound, 2)} lies {locate(bound, found.low, found.high)} the interval"


def describe(found: Estimate, digits: int) -> str:
    low, mean, high = (number(x, digits, True) for x in found)
    return f"{mean} [{low}, {high}]"


describe_exponent = partial(describe_power, "L")


@study
def transformer(draft: Draft) -> None:
    """Four transformers at initialization over their depth, and six runs of training."""
    depths, seeds = ((4, 16), 8) if draft.quick else ((2, 4, 8, 16, 32), 20)
    depth, steps, runs = (4, 36, 2) if draft.quick else (12, 240, 4)
    draft.setting = {"width": WIDTH, "heads": HEADS, "length": LENGTH, "characters": VOCABULARY, "depths": depths}
    draft.setting |= {"networks a point": seeds, "blocks in training": depth, "steps": steps, "runs a curve": runs}
    draw = np.random.default_rng(draft.seed)
    table = draw.integers(0, VOCABULARY, (VOCABULARY, VOCABULARY, SUCCESSORS))
    X, Y = speak(table, 16, draw)
    starts: dict[str, dict[int, Start]] = {name: {} for name in NETWORKS}
    for L in depths:
        for name in NETWORKS:
            draft.progress(f"{plain(name)}, {L} blocks at initialization")
            starts[name][L] = measure_start(name, L, seeds, X, Y, draft.seed)
    add_start(draft, depths, starts)
    # One period more than is counted: what is read before it is the end.
    X, Y = (x.reshape(-1, steps // 12, 16, LENGTH) for x in speak(table, 16 * steps * 13 // 12, draw))
    seen = speak(table, 64, draw)
    add_training(draft, depth, steps, runs, (X, Y), seen, know(table, *seen))


def know(table, X, Y) -> float:
    """The loss of who knows the language, in nats a character; the second one is any."""
    p = np.mean(table[X[:, :-1], X[:, 1:]] == Y[:, 1:, None], axis=-1)
    return float((np.log(VOCABULARY) - np.sum(np.log(p), axis=1).mean()) / LENGTH)


def add_start(draft: Draft, depths, starts: dict[str, dict[int, Start]]) -> None:
    """Norms by block, and how they and the stream change with the depth of the network."""
    deepest, down, ln10 = depths[-1], WEIGHTS.index("down"), np.log(10)
    shown, over_depth, growth, rows, blocks = [], [], [], [], np.arange(1, deepest + 1)
    exponents, together, changes, slopes, implied, ratios, queries = ({} for _ in range(7))
    for name, by_depth in starts.items():
        dW = by_depth[deepest].dW
        lines = [confidence_interval(dW[:, :, i]) for i in range(len(WEIGHTS))]
        shown.append((name, [Curve(w, blocks, x.mean, x.low, x.high) for w, x in zip(WEIGHTS, lines, strict=True)]))
        last = np.stack([ln10 * start.alone[:, -1, down] for start in by_depth.values()])
        summed = np.stack([ln10 * start.dW[:, -1, down] for start in by_depth.values()])
        change = np.stack([np.log(start.change) for start in by_depth.values()])
        size = np.stack([-0.5 * np.log(start.stream[:, -1]) for start in by_depth.values()])
        exponents[name], changes[name] = fit_exponents(depths, last), fit_exponents(depths, change)
        implied[name], together[name] = fit_exponents(depths, size), fit_exponents(depths, summed)
        points = confidence_interval((last / ln10).T)
        over_depth.append(Curve(name, depths, *(10**x for x in (points.mean, points.low, points.high))))
        mean = confidence_interval(stream := by_depth[deepest].stream)
        growth.append(Curve(name, blocks, mean.mean, mean.low, mean.high))
        ratios[name] = Estimate(*(10**x for x in estimate(dW[:, 0, down] - dW[:, -1, down])))
        queries[name] = Estimate(*(10**x for x in estimate(dW[:, -1, 0] - dW[:, 0, 0])))
        slopes[name] = estimate(np.polyfit(blocks, stream.T, 1)[0])
        powers = (exponents[name], together[name], changes[name])
        cells = [cell for x in powers for cell in (fixed(x.mean, 2), interval(fixed(x.low, 2), fixed(x.high, 2)))]
        rows.append((name, *cells, significant(ratios[name].mean), interval(ratios[name].low, ratios[name].high, 3)))
        draft.records += [
            {"part": "start", "network": plain(name), "blocks": L, "seed": s, "block": l + 1, "step": 0, "rate": None}
            | {f"log10_dW_{w}": float(start.dW[s, l, i]) for i, w in enumerate(WEIGHTS)}
            | {"log10_dW_down_alone": float(start.alone[s, l, down]), "mean_square": float(start.stream[s, l])}
            | {"loss": None}
            for L, start in by_depth.items()
            for s, l in np.ndindex(start.stream.shape)
        ]
    found = {"exponent": exponents, "exponent_of_the_mean_loss": together, "change_exponent": changes}
    found |= {"growth": slopes, "first_over_last": ratios, "queries_last_over_first": queries}
    draft.results["start"] = {plain(name): {key: x[name]._asdict() for key, x in found.items()} for name in starts}
    logarithm = fit_exponents(depths, np.log(np.log(depths))[:, None]).mean
    lower, upper = 1 + blocks / 2, 1 + 3 * blocks / 2
    pairs = ((PRE, PRE_SCALED), (POST, POST_SCALED))
    is_evened = all(abs(np.log(x[y].mean)) < abs(np.log(x[n].mean)) for x in (ratios, queries) for n, y in pairs)
    beside = lambda x, digits, n, y: f"{describe(x[y], digits)} instead of {describe(x[n], digits)} ({n})"
    compare = lambda x, digits: "; ".join(beside(x, digits, *pair) for pair in pairs)
    fastest = max(changes, key=lambda name: changes[name].mean)
    draft.findings += [
        f"The gradient of the last block, of the loss of one character, goes over {depths[0]} to {deepest} blocks like "
        f"**{describe_exponent(exponents[POST])} with post-norm** and **{describe_exponent(exponents[PRE])} with "
        f"pre-norm**. Xiong et al. (2020) bound it by $d √(ln d)$ and $d √(ln d / L)$: {judge(exponents[POST], 0)}, "
        f"and {judge(exponents[PRE], -0.5)}. The last norm of a pre-norm network divides by the root of the mean "
        f"square of its stream, which grows by {describe(slopes[PRE], 3)} a block; one over that root goes like "
        f"$L^{{{number(implied[PRE].mean, 2)}}}$.",
        f"Residual projections smaller by $√(2L)$ (Radford et al. 2019) {'' if is_evened else 'do not '}make all "
        f"{deepest} blocks more alike. $‖dW‖$ of the first block over the last: {compare(ratios, 3)}. That of the last "
        f"block's queries over the first's: {compare(queries, 2)}; Noci et al. (2022) derive that queries lose their "
        "gradient where vectors become alike, and keep it in branches scaled by one over the root of the depth.",
        f"What a nudge of all parameters by {NUDGE:.0%} of their deviation changes in the scores grows fastest with "
        f"the depth in {fastest}: its mean square goes like {describe_exponent(changes[POST])} with post-norm, "
        f"{describe_exponent(changes[PRE])} with pre-norm, and {describe_exponent(changes[POST_SCALED])} and "
        f"{describe_exponent(changes[PRE_SCALED])} with the smaller projections. Liu et al. (2020) derive $L$ for "
        f"post-norm and $log L$ for pre-norm, exponents 1 and, over these depths, {logarithm:.2f}: "
        f"{judge(changes[POST], 1)}, and {judge(changes[PRE], logarithm)}.",
    ]
    bounds = [Curve("bound $1 + l/2$", blocks, lower), Curve("bound $1 + 3l/2$", blocks, upper)]
    draft.section(
        "At initialization",
        Text(
            f"Blocks of attention and a feed-forward network, all of width {WIDTH}, with relu, Glorot initialization "
            "and vectors of mean square 1 for the characters, after Xiong et al. (2020). Attention has "
            f"{HEADS} heads and is causal, and its softmax is not held uniform as in their proof. $1/√(2L)$ draws the "
            "last weights of each branch smaller by that factor. Norms are those of the mean "
            "cross-entropy over 16 sentences; intervals are 95 % over networks, exponents fitted network by network."
        ),
        Figure(
            "blocks",
            f"Gradient norms by block in networks of {deepest} blocks, geometric means with 95 % intervals.",
            partial(panels, shown, "block (input on the left)", "$log_{10} ‖dW‖$"),
        ),
        Figure(
            "depth",
            "The gradient of the last block's second feed-forward matrix, of the loss of one character, over the depth "
            "of the network: geometric means with 95 % intervals over networks.",
            partial(curves, over_depth, "blocks $L$", "$‖dW‖$, last block, down", log_x=True, log_y=True),
        ),
        Figure(
            "stream",
            f"The mean square of the sum behind each of {deepest} blocks, and the bounds of Xiong et al. (2020) for "
            "the pre-norm network. In a post-norm network the sum stands before the norm.",
            partial(curves, [*growth, *bounds], "block $l$", "mean square of the sum"),
        ),
        Table(
            f"Exponents in $L$ over {depths[0]} to {deepest} blocks: of the last block's $‖dW‖$ (down), of one "
            "character's loss and of the mean loss; of the mean square by which a nudge of all parameters changes the "
            f"scores. First / last: $‖dW‖$ of the mean loss in {deepest} blocks.",
            ("network", "one character", "95 %", "mean loss", "95 %", "change", "95 %", "first / last", "95 %"),
            tuple(rows),
        ),
    )


RUNS = {
    "pre-norm": (PRE, False),
    "pre-norm, $1/√(2L)$": (PRE_SCALED, False),
    "post-norm": (POST, False),
    "post-norm, $1/√(2L)$": (POST_SCALED, False),
    "post-norm, warm-up": (POST, True),
    "post-norm, $1/√(2L)$, warm-up": (POST_SCALED, True),
}


def add_training(draft: Draft, depth: int, steps: int, seeds: int, batches, seen, floor: float) -> None:
    """Losses and gradient norms over the first steps of Adam, with and without a warm-up."""
    (periods, length), down, ln_v = batches[0].shape[:2], WEIGHTS.index("down"), float(np.log(VOCABULARY))
    at = np.arange(periods) * length
    warm, steps = steps // 2, steps + length
    middle_and_span = lambda x: (f(x, 0) for f in (np.median, np.min, np.max))
    losses, norms, rows, ends = [], [], [], {}
    for label, (name, is_warm) in RUNS.items():
        draft.progress(f"training: {plain(label)}")
        shape = np.minimum(1, (np.arange(steps) + 1) / warm) if is_warm else np.ones(steps)
        params = fbp.flow.sample_parameters(build(name, depth), (LENGTH,), seeds, draft.seed + 1)
        program = build(PRE if name.startswith("pre") else POST, depth)
        by_rate = {}
        for rate in RATES:
            rates = jnp.asarray(rate * shape.reshape(periods, -1), jnp.float32)
            by_rate[rate] = jax.device_get(train(program, params, *batches, rates, *seen))
        middle = {rate: np.nan_to_num(np.median(loss[:, -1]), nan=np.inf) for rate, (loss, _) in by_rate.items()}
        best = min(RATES, key=middle.__getitem__)
        loss, dW = by_rate[best]
        places, blocks = [0, 1, periods // 2, periods - 1], np.arange(1, depth + 1)
        by_step = [Curve(f"step {at[t]}", blocks, *middle_and_span(dW[:, t, :, down])) for t in places]
        losses.append(Curve(label, at, *middle_and_span(loss)))
        norms.append((label, by_step))
        fall = 10 ** np.median(dW[:, :, 0, down] - dW[:, :, -1, down], axis=0)
        ends[label] = loss[:, -1]
        rows.append(
            (
                *(label, significant(best, 1), *(fixed(float(f(ends[label])), 3) for f in (np.median, np.min, np.max))),
                *(significant(float(x), 2) for x in fall[[0, -1]]),
            )
        )
        draft.records += [
            {"part": "training", "network": plain(label), "blocks": depth, "seed": s, "block": l + 1}
            | {"step": int(at[t]), "rate": rate}
            | {f"log10_dW_{w}": float(dW[s, t, l, i]) for i, w in enumerate(WEIGHTS)}
            | {"log10_dW_down_alone": None, "mean_square": None, "loss": float(loss[s, t])}
            for rate, (loss, dW) in by_rate.items()
            for s, t, l in np.ndindex(dW.shape[:3])
        ]
    draft.results["training"] = {plain(label): end.tolist() for label, end in ends.items()}
    learned = [label for label, end in ends.items() if np.all(end < ln_v - 0.1)]
    stuck = [label for label in ends if label not in learned]
    said = lambda labels: "; ".join(f"{label} ({np.median(ends[label]):.2f})" for label in labels)
    effect = "changes" if "post-norm, warm-up" in learned else "does not change"
    between = " to ".join(number(f(row[-1] for row in rows if row[0] in learned), 2) for f in (min, max) if learned)
    draft.findings += [
        f"In {at[-1]} steps of Adam at the better of the rates {' and '.join(map(str, RATES))}, {depth} blocks come at "
        f"least 0.1 nats below chance, $ln {VOCABULARY}$ = {ln_v:.2f}, in every run of: "
        + (said(learned) or "no network")
        + (f"; not in every run of: {said(stuck)}" if stuck else "")
        + f" (median losses; who knows the language has {floor:.2f})."
        + (f" The warm-up by which Xiong et al. train post-norm {effect} that here." if "post-norm" in stuck else ""),
    ]
    if stuck and learned:
        draft.findings.append(
            "Where the loss stays, the first block's gradient over the last one's goes in these steps from "
            + "; ".join(f"{number(row[-2], 2)} to {number(row[-1], 2)} ({row[0]})" for row in rows if row[0] in stuck)
            + f"; where it falls, it ends at {between}."
        )
    draft.section(
        "The first steps",
        Text(
            f"{depth} blocks are taught a language in which two characters leave {SUCCESSORS} for the next, equally "
            f"likely; who knows it has a loss of {floor:.3f} nats. Each step takes 16 new sentences of {LENGTH} "
            f"characters; the warm-up raises the rate in proportion to the step over the first {warm}. Each network is "
            "shown with the rate that ends lower. Losses and norms are those of 64 other sentences, the same for all."
        ),
        Figure(
            "loss",
            "The loss over the first steps: medians over runs, bands span them all.",
            partial(curves, losses, "step", "loss (nats a character)", reference=("chance", ln_v)),
        ),
        Figure(
            "training",
            "Gradient norms of the second feed-forward matrix by block, before and during training: medians over runs, "
            "bands span them all.",
            partial(panels, norms, "block (input on the left)", "$log_{10} ‖dW‖$, down"),
        ),
        Table(
            f"Where the runs stood after {at[-1]} steps; and $‖dW‖$ of the first block over the last's.",
            ("network", "rate", "loss, median", "least", "largest", "first / last, start", "end"),
            tuple(rows),
        ),
    )


if __name__ == "__main__":
    transformer.main()
