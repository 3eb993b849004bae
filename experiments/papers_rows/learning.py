"""The loss before training, and what one step of gradient descent changes at different widths."""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import fbp
from fbp import theory
from papers_rows.networks import draw_normal
from papers_rows.row import Claim, Row, jackknife

CLASSES = 10
LOSS = fbp.SoftmaxCrossEntropy(reduction="sum")


def descend(epoch, look, states, epochs: int, examples: int, batch: int, runs) -> list[np.ndarray]:
    """Several runs at once: what is seen before every epoch and after the last.

    Args:
        epoch: (state, order, rate) -> state, for an order of examples (steps, batch).
        look: state -> a tuple of arrays.
        states: where the runs begin, with an axis of runs.
        epochs: how many.
        examples: how many there are.
        batch: the size of a batch.
        runs: (rate, seed) of each; the seed is that of the order.

    Returns:
        What `look` gives, each with an axis of runs and one of epochs in front.
    """
    epoch, look = jax.jit(jax.vmap(epoch)), jax.jit(jax.vmap(look))
    draws, rates = [np.random.default_rng(seed) for _, seed in runs], jnp.array([rate for rate, _ in runs])
    found = [look(states)]
    for _ in range(epochs):
        orders = [rng.permutation(examples)[: examples // batch * batch].reshape(-1, batch) for rng in draws]
        states = epoch(states, jnp.asarray(np.array(orders)), rates)
        found.append(look(states))
    return [np.stack(x, axis=1) for x in zip(*found, strict=True)]


def learning(quick: bool) -> Iterator[Row]:
    """Cross-entropy at initialization, and the width in a step."""
    yield from _zero_head()
    yield from _he_head(quick)
    yield from _width(quick)


def _zero_head() -> Iterator[Row]:
    digits = fbp.data.load()
    X, Y = jnp.asarray(digits.train_X[:256]), jnp.asarray(digits.train_Y[:256])
    net = fbp.Serial(fbp.Dense(128), fbp.Activation("relu"), fbp.Dense(CLASSES, "zeros"), shape=(784,))

    @jax.jit
    def at_start(params):
        value, dZ = LOSS.value_and_dZ(net.forward(params, X)[0], Y)
        return value, jnp.mean(jnp.linalg.norm(dZ, axis=1))

    losses, norms = [], []
    for seed in range(3):
        value, norm = at_start(_draw_one(net, seed))
        losses.append(value / len(X))
        norms.append(norm)
    head = theory.softmax_head(CLASSES)
    where = f"784-128-{CLASSES} on 256 digits, zero head"
    norm, claim = math.sqrt(head.dZ_mean_square), Claim("ce-init", "derived", 1e-5)
    yield claim(where, "loss", math.log(10), head.loss, jackknife(losses))
    yield claim(where, "‖dZ‖ of an example", math.sqrt(0.9), norm, jackknife(norms))


def _draw_one(net: fbp.Layer, seed: int, inputs: int = 784):
    """The parameters of one random network."""
    return jax.tree.map(lambda p: p[0], fbp.flow.sample_parameters(net, (inputs,), 1, seed))


def _he_head(quick: bool) -> Iterator[Row]:
    width, networks = 64, 2000 if quick else 20000
    # Orthogonal inputs of mean square 1: the logits of one network are then as independent as those of several.
    X = jnp.asarray(math.sqrt(width) * _draw_one(fbp.Dense(width, "orthogonal"), 50, width)["W"])
    layer, Y = fbp.Dense(CLASSES, "he_normal"), jnp.arange(width) % CLASSES
    params = fbp.flow.sample_parameters(layer, (width,), networks, seed=50)

    @jax.jit
    def at_start(params):
        value, dZ = LOSS.value_and_dZ(layer.forward(params, X)[0], Y)
        return jnp.stack([value, jnp.sum(jnp.square(dZ))]) / width

    losses, squares = np.asarray(jax.lax.map(at_start, params)).T
    head, where = theory.softmax_head(CLASSES, 2.0), f"He head, n={width}, {CLASSES} classes, inputs of mean square 1"
    measured, claim = jackknife(losses), Claim("he-head", "derived", 0.002)
    yield claim(where, "loss", 3.111, head.loss, measured)
    yield claim(where, "E ‖dZ‖²", 1.0758, head.dZ_mean_square, jackknife(squares))
    finding = (
        f"A classifier before training is not at ln {CLASSES} by itself: a He head has logits of variance 2, and "
        "starts 0.81 nats above."
    )
    uniform = Claim("he-head-uniform", "often said", 0.002, finding)
    yield uniform(where, "loss", math.log(CLASSES), head.loss, measured)


def _width(quick: bool) -> Iterator[Row]:
    source, widths = "Yang & Hu 2021, 2022", (64, 128, 256) if quick else (64, 128, 256, 512, 1024)
    for name, changes in coordinate_check(widths, 6 if quick else 30).items():
        x = np.log(widths) - np.mean(np.log(widths))
        slopes = jackknife(np.log(changes) @ x / np.sum(x**2))
        where = f"8-n-n-{CLASSES}, relu, n={widths[0]} to {widths[-1]}, {name} parameters"
        stated = 1.0 if name == "standard" else 0.0
        yield Claim("mup-coord", source, 0.05)(where, "slope of ln |Δ logit| over ln n", stated, None, slopes)


def coordinate_check(widths: Sequence[int], networks: int) -> dict[str, np.ndarray]:
    """By parametrization, the change of the logits in one step of gradient descent, (networks, widths)."""
    inputs, rate = 8, 2e-5
    changes = {"standard": [], "muP": []}
    for width in widths:
        net = fbp.mlp((inputs, width, width, CLASSES), "relu")
        rng = np.random.default_rng(51)
        X, Y = draw_normal(rng, (networks, 4, inputs)), rng.integers(0, CLASSES, (networks, 4))
        params = fbp.flow.sample_parameters(net, (inputs,), networks, seed=51)
        # muP: a head of variance 1/n^2; steps n times as long on the way in, 1/n times as long on the way out.
        for name, head, rates in (("standard", 1.0, (1, 1, 1)), ("muP", width**-0.5, (width, 1, 1 / width))):
            scaled = (*params[:-1], {"W": np.float32(head) * params[-1]["W"], "b": params[-1]["b"]})
            changes[name].append(_change(net, scaled, X, Y, rate * np.array(rates, np.float32)))
    return {name: np.stack(each, axis=1) for name, each in changes.items()}


@partial(jax.jit, static_argnums=0)
def _changes(net: fbp.Layer, params, X, Y, rates):
    def one(params, X, Y):
        _, d_params = fbp.value_and_grad(net, LOSS)(params, X, Y)
        rate = iter(rates)
        moved = tuple(
            jax.tree.map(lambda p, d, r=r: p - r * d, p, d) if p else p
            for p, d, r in ((p, d, next(rate) if p else None) for p, d in zip(params, d_params, strict=True))
        )
        return jnp.sqrt(jnp.mean(jnp.square(net.forward(moved, X)[0] - net.forward(params, X)[0])))

    return jax.lax.map(lambda each: one(*each), (params, X, Y))


def _change(net: fbp.Layer, params, X: np.ndarray, Y: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """The root mean square change of the logits by one step, for each network."""
    return np.asarray(_changes(net, params, X, Y, rates), np.float64)
