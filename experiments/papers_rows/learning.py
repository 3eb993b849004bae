"""The loss before training, and what one step of gradient descent changes at different widths."""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import fbp
from fbp import theory
from fbp.report import Curve
from papers_rows.networks import draw_normal
from papers_rows.row import DERIVED, Row, jackknife

CLASSES = 10
LOSS = fbp.SoftmaxCrossEntropy(reduction="sum")


def watch(net, loss, data, observe, rates, seeds: int, epochs: int, batch: int, **options) -> list[np.ndarray]:
    """Runs at every rate from every seed, all at once: what is seen before training and after every epoch.

    Args:
        net: a network.
        loss: its loss.
        data: (X, Y).
        observe: parameters -> a tuple of arrays.
        rates: the learning rates.
        seeds: how many; a seed is that of the parameters and of the orders.
        epochs: how many.
        batch: the size of a batch.
        options: others of `fbp.training.fit_many`.

    Returns:
        What `observe` gives, each with the axes (rates, seeds, epochs + 1) in front.
    """
    look = jax.jit(jax.vmap(observe))
    start = draw_starts(net, jnp.arange(seeds))
    seen = [look(jax.tree.map(lambda x: jnp.concatenate([x] * len(rates)), start))]
    options |= {"learning_rates": rates, "seeds": seeds, "epochs": epochs, "batch_size": batch}
    on_epoch = lambda _, state: seen.append(look(state.params))
    fbp.training.fit_many(net, loss, start, data, on_epoch=on_epoch, **options)
    found = (np.stack(x, axis=1) for x in zip(*seen, strict=True))
    return [x.reshape(len(rates), seeds, *x.shape[1:]) for x in found]


# It runs once for a network: what optimization would save is less than it takes.
@partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def draw_starts(net: fbp.Serial, seeds: Array):
    """The initial parameters from every seed, with an axis of seeds in front."""
    return jax.vmap(lambda seed: net.init(jax.random.key(seed))[0])(seeds)


def median_curve(label: str, values: np.ndarray) -> Curve:
    """The median over seeds of values (seeds, epochs + 1), in the band that they span."""
    return Curve(label, np.arange(values.shape[1]), np.median(values, 0), values.min(0), values.max(0))


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
    yield Row("ce-init", DERIVED, where, "loss", None, head.loss, jackknife(losses), 1e-5)
    norm, what = math.sqrt(head.dZ_mean_square), "‖dZ‖ of an example"
    yield Row("ce-init", DERIVED, where, what, None, norm, jackknife(norms), 1e-5)


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
    loss = jackknife(losses)
    yield Row("he-head", DERIVED, where, "loss", None, head.loss, loss, 0.002)
    yield Row("he-head", DERIVED, where, "E ‖dZ‖²", None, head.dZ_mean_square, jackknife(squares), 0.002)
    finding = (
        f"A classifier before training is not at ln {CLASSES} by itself: a He head has logits of variance 2, and "
        "starts 0.81 nats above."
    )
    uniform = math.log(CLASSES)
    yield Row("he-head-uniform", "often said", where, "loss", uniform, head.loss, loss, 0.002, finding=finding)


def _width(quick: bool) -> Iterator[Row]:
    source, widths = "Yang & Hu 2021, 2022", (64, 128, 256) if quick else (64, 128, 256, 512, 1024)
    for name, changes in coordinate_check(widths, 6 if quick else 30).items():
        x = np.log(widths) - np.mean(np.log(widths))
        slopes = jackknife(np.log(changes) @ x / np.sum(x**2))
        where = f"8-n-n-{CLASSES}, relu, n={widths[0]} to {widths[-1]}, {name} parameters"
        stated, what = 1.0 if name == "standard" else 0.0, "slope of ln |Δ logit| over ln n"
        yield Row("mup-coord", source, where, what, stated, None, slopes, 0.05)


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
        for name, head, rates in (("standard", 1.0, (1,) * 5), ("muP", width**-0.5, (width, 1, 1, 1, 1 / width))):
            scaled = (*params[:-1], {"W": np.float32(head) * params[-1]["W"], "b": params[-1]["b"]})
            changes[name].append(_measure_changes(net, scaled, X, Y, rate * np.array(rates, np.float32)))
    return {name: np.stack(each, axis=1).astype(np.float64) for name, each in changes.items()}


@partial(jax.jit, static_argnums=0)
def _measure_changes(net: fbp.Layer, params, X: np.ndarray, Y: np.ndarray, rates: np.ndarray) -> Array:
    """The root mean square change of the logits by one step, for each network; one rate for each layer."""

    descend = lambda d_params, _: tuple(
        jax.tree.map(partial(jnp.multiply, -rate), d) for d, rate in zip(d_params, rates, strict=True)
    )
    rule = optax.stateless(descend)
    step = fbp.training.train_step(net, LOSS, rule)

    def one(network):
        params, X, Y = network
        state, _ = step(fbp.training.initial_state(params, rule), X, Y)
        return jnp.sqrt(jnp.mean(jnp.square(net.forward(state.params, X)[0] - net.forward(params, X)[0])))

    return jax.lax.map(one, (params, X, Y))
