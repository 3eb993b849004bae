"""Many runs at once: each is the run of `fit` with its seed and rate; one that diverges leaves the others alone."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbp
from fbp.training import fit, fit_many

LOSS = fbp.SoftmaxCrossEntropy()
DRAW = np.random.default_rng(0)
X, Y = DRAW.standard_normal((203, 12), np.float32), DRAW.integers(0, 4, 203)
NETS = {
    "dropout": fbp.mlp((12, 16, 16, 4), "tanh", dropout=0.2),
    "batch": fbp.mlp((12, 16, 4), "tanh", norm="batch"),
    "loop": fbp.mlp((12, 8, 8, 8, 4), "tanh", repeat=True),
}
SEEDS = (3, 5, 11)
RULES = {
    "optax": optax.adam,
    "ours": partial(fbp.training.optimizer, "adamw", weight_decay=0.1, clip_norm=0.5),
    "schedule": lambda rate: optax.adam(lambda step: rate / (1 + step)),
}


def start(net, seed):
    return jax.jit(lambda key: net.init(key)[0])(jax.random.key(seed))


def assert_same(many, single, tolerance=2e-5):
    chex.assert_trees_all_close(many.params, single.params, rtol=tolerance, atol=tolerance)
    assert many.history.names() == single.history.names()
    for name in single.history.names():
        if name not in ("seconds", "examples_per_second"):
            np.testing.assert_allclose(many.history.column(name), single.history.column(name), 100 * tolerance, 1e-5)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("options", [{"validation_split": 0.2, "monitor": "full"}, {"validation": (X[:50], Y[:50])}])
def test_each_run_is_that_of_fit(name, options):
    # A bias in front of batch normalization has the gradient zero, whose rounding errors Adam would blow up.
    net, optimizer = NETS[name], optax.sgd(0.1) if name == "batch" else optax.adam(1e-2)
    given = {"optimizer": optimizer, "epochs": 3, "batch_size": 16} | options
    many = fit_many(net, LOSS, lambda key: net.init(key)[0], (X, Y), seeds=SEEDS, **given)
    for seed, own in zip(SEEDS, many, strict=True):
        assert_same(own, fit(net, LOSS, start(net, seed), (X, Y), seed=seed, **given))


@pytest.mark.parametrize("name", RULES)
def test_each_rate_is_that_of_fit(name):
    net, make, rates = NETS["dropout"], RULES[name], (1e-2, 1e-3)
    given = {"epochs": 2, "batch_size": 16}
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *(start(net, seed) for seed in SEEDS))
    many = fit_many(net, LOSS, stacked, (X, Y), optimizer=make, learning_rates=rates, seeds=SEEDS, **given)
    assert [(own["learning_rate"], own["seed"]) for own in many.labels] == [(r, s) for r in rates for s in SEEDS]
    for label, own in zip(many.labels, many, strict=True):
        rule = make(label["learning_rate"])
        single = fit(net, LOSS, start(net, label["seed"]), (X, Y), optimizer=rule, seed=label["seed"], **given)
        assert_same(own, single)
    assert many.values("loss").shape == (2, 3, 2)
    np.testing.assert_allclose(many.mean("loss"), many.values("loss").mean(1))
    np.testing.assert_allclose(many.spread("loss"), many.values("loss").std(1, ddof=1))
