"""Many runs at once: each is the run of `fit` with its seed and rate; one that diverges leaves the others alone."""

import csv
import io
import signal
import threading
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
SGD = optax.sgd(0.1)
RULES = {
    "optax": optax.adam,
    "ours": partial(fbp.training.optimizer, "adamw", weight_decay=0.1, clip_norm=0.5),
    "schedule": lambda rate: optax.adam(lambda step: rate / (1 + step)),
}


def start(net, seed):
    return jax.jit(lambda key: net.init(key)[0])(jax.random.key(seed))


def stack(net, seeds):
    return jax.tree.map(lambda *x: jnp.stack(x), *(start(net, seed) for seed in seeds))


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
    many = fit_many(net, LOSS, stack(net, SEEDS), (X, Y), optimizer=make, learning_rates=rates, seeds=SEEDS, **given)
    assert [(own["learning_rate"], own["seed"]) for own in many.labels] == [(r, s) for r in rates for s in SEEDS]
    for label, own in zip(many.labels, many, strict=True):
        rule = make(label["learning_rate"])
        single = fit(net, LOSS, start(net, label["seed"]), (X, Y), optimizer=rule, seed=label["seed"], **given)
        assert_same(own, single)
    assert many.values("loss").shape == (2, 3, 2)
    np.testing.assert_allclose(many.mean("loss"), many.values("loss").mean(1))
    np.testing.assert_allclose(many.spread("loss"), many.values("loss").std(1, ddof=1))


def test_a_run_that_diverges_leaves_the_others_alone():
    net, given = NETS["dropout"], {"seeds": 2, "epochs": 2, "batch_size": 16, "validation_split": 0.2}
    init = lambda key: net.init(key)[0]
    alone = fit_many(net, LOSS, init, (X, Y), optimizer=optax.sgd, learning_rates=[0.1], **given)
    many = fit_many(net, LOSS, init, (X, Y), optimizer=optax.sgd, learning_rates=[1e38, 0.1], **given)
    assert (many.diverged, alone.diverged) == ((0, 1), ())
    assert not np.isfinite(many.values("loss")[0]).any()
    assert not np.isfinite(many.values("validation_loss")[0]).any()
    np.testing.assert_array_equal(many.values("loss")[1], alone.values("loss")[0])
    chex.assert_trees_all_equal(many[2].params, alone[0].params)
    assert np.isnan(many.mean("accuracy")[0]).all()
    assert "2 of 2 diverged" in str(many)
    assert "diverged: run 1, seed 1, learning rate 1e+38" in str(many)


def test_means_leave_out_what_diverged():
    net = NETS["dropout"]
    params = stack(net, (0, 1, 2))
    params[0]["W"] = params[0]["W"].at[1].set(np.nan)
    many = fit_many(net, LOSS, params, (X, Y), optimizer=SGD, seeds=3, epochs=2)
    assert many.diverged == (1,)
    for name in ("loss", "accuracy"):
        sound = many.values(name)[[0, 2]]
        np.testing.assert_allclose(many.mean(name), sound.mean(0))
        np.testing.assert_allclose(many.spread(name), sound.std(0, ddof=1))
    assert "1 of 3 diverged" in str(many).splitlines()[0]


def test_one_seed_has_no_spread():
    net = NETS["dropout"]
    many = fit_many(net, LOSS, stack(net, [7]), (X, Y), optimizer=SGD, seeds=[7], steps=30)
    assert many.stopped == "steps"
    assert many.values("loss").shape == (1, 4)
    assert np.isnan(many.spread("loss")).all()
    assert "±" not in str(many)


def test_the_order_and_the_table_of_the_runs():
    net, seen = NETS["loop"], []

    def on_epoch(records, state):
        seen.append((records.epoch, [record.loss for record in records]))
        assert state.step.tolist() == [13 * records.epoch] * 4
        return records.epoch == 2

    given = {"learning_rates": (0.2, 0.1), "seeds": (5, 4), "epochs": 9, "batch_size": 16, "on_epoch": on_epoch}
    many = fit_many(net, LOSS, lambda key: net.init(key)[0], (X, Y), optimizer=optax.sgd, **given)
    assert many.stopped == "callback"
    np.testing.assert_array_equal(np.array([losses for _, losses in seen]).T, many.values("loss").reshape(4, 2))
    rows = list(csv.DictReader(io.StringIO(many.to_csv())))
    assert [(row["run"], row["seed"], row["learning_rate"], row["epoch"]) for row in rows[:3]] == [
        ("0", "5", "0.2", "1"),
        ("0", "5", "0.2", "2"),
        ("1", "4", "0.2", "1"),
    ]
    assert float(rows[7]["loss"]) == many.values("loss")[1, 1, 1]


def sign_symmetric(net, loss, params, X, Y, weights, key):
    """A rule of one's own, for dense layers and activations."""
    A, caches = X, []
    for layer, p in zip(net.layers, params, strict=True):
        A, cache = layer.forward(p, A)
        caches.append(cache)
    value, dA = loss.value_and_dZ(A, Y, weights)
    d_params = []
    for layer, p, cache in reversed(list(zip(net.layers, params, caches, strict=True))):
        dZ = dA
        d, dA = layer.backward(p, cache, dZ)
        dA = dZ @ jnp.sign(p["W"]).T if p else dA
        d_params.insert(0, d)
    return value, A, d_params


def test_a_rule_of_ones_own():
    net = fbp.mlp((12, 16, 4), "tanh")
    given = {"optimizer": SGD, "epochs": 3, "batch_size": 16}
    init = lambda key: net.init(key)[0]
    many = fit_many(net, LOSS, init, (X, Y), seeds=2, gradient=sign_symmetric, **given)
    exact = fit_many(net, LOSS, init, (X, Y), seeds=2, **given)
    for seed in (0, 1):
        assert_same(many[seed], fit(net, LOSS, start(net, seed), (X, Y), seed=seed, gradient=sign_symmetric, **given))
    assert (many.values("loss")[:, 0] != exact.values("loss")[:, 0]).all()
    assert (many.values("loss")[:, -1] < many.values("loss")[:, 0]).all()
    # The rule of the last layer is the gradient, those before it are not.
    params = start(net, 0)
    _, _, ours = sign_symmetric(net, LOSS, params, X, Y, None, None)
    _, true = fbp.value_and_grad(net, LOSS)(params, X, Y)
    np.testing.assert_array_equal(ours[2]["W"], true[2]["W"])
    assert not np.allclose(ours[0]["W"], true[0]["W"])


def test_a_rule_must_return_the_shapes_of_the_parameters():
    net = fbp.mlp((12, 16, 4), "tanh")

    def wrong(net, loss, params, X, Y, weights, key):
        value, Z, d_params = sign_symmetric(net, loss, params, X, Y, weights, key)
        return value, Z, [{"W": d_params[0]["W"]}, *d_params[1:]]

    with pytest.raises(fbp.FbpError, match=r"a rule must return .* got None for 0.b, which has \(16,\)"):
        fit(net, LOSS, start(net, 0), (X, Y), optimizer=SGD, epochs=1, gradient=wrong)


@pytest.mark.parametrize("net", [NETS["dropout"], NETS["batch"]])
def test_a_folder_of_many_runs(net, tmp_path):
    folder = tmp_path / "runs"
    given = {"optimizer": optax.sgd, "learning_rates": (0.1, 0.01), "seeds": 2, "epochs": 2, "batch_size": 16}
    many = fit_many(net, LOSS, lambda key: net.init(key)[0], (X, Y), out=folder, **given)
    with pytest.raises(fbp.FbpError, match=r"one of the 4 runs in .* must be chosen, got None; give run=0 to run=3"):
        fbp.load(folder)
    single = {"optimizer": optax.sgd(0.01), "seed": 1, "epochs": 2, "batch_size": 16}
    fit(net, LOSS, start(net, 1), (X, Y), out=tmp_path / "one", **single)
    own_net, params = fbp.load(folder, run=3)
    net_of_one, params_of_one = fbp.load(tmp_path / "one")
    assert own_net == net_of_one
    chex.assert_trees_all_close(params, params_of_one, rtol=1e-4, atol=1e-5)
    assert (folder / "history.csv").read_text() == many.to_csv()
    with pytest.raises(fbp.FbpError, match="run must be left out"):
        fbp.load(tmp_path / "one", run=0)
    with pytest.raises(fbp.FbpError, match="a new run must have a new folder"):
        fit_many(net, LOSS, lambda key: net.init(key)[0], (X, Y), out=folder, **given)
    summary = fbp.training.describe_run(folder, run=3)
    assert (summary.history[-1].loss, summary.training["seed"]) == (many.histories[3][-1].loss, 1)


def test_an_interruption_keeps_what_was_trained(tmp_path):
    net = NETS["dropout"]

    def press(records, state):
        if records.epoch == 2:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    init = lambda key: net.init(key)[0]
    with pytest.raises(KeyboardInterrupt, match="saved as they were in epoch 3"):
        fit_many(net, LOSS, init, (X, Y), optimizer=SGD, seeds=2, epochs=50, on_epoch=press, out=tmp_path / "runs")
    whole = fit_many(net, LOSS, init, (X, Y), optimizer=SGD, seeds=2, epochs=2)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "runs" / "history.csv").read_text())))
    assert [float(row["loss"]) for row in rows] == whole.values("loss").reshape(-1).tolist()
    assert fbp.load(tmp_path / "runs", run=1)[0] == net


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"learning_rates": (0.1,)}, "the optimizer must be a function of the learning rate"),
        ({"optimizer": optax.sgd}, "must come with learning_rates"),
        ({"optimizer": optax.sgd, "learning_rates": ()}, "learning_rates must be at least one"),
        ({"optimizer": optax.sgd, "learning_rates": (0.1, -1)}, "the learning rate must be finite and at least 0"),
        ({"seeds": ()}, "seeds must be different and at least one"),
        ({"seeds": (1, 1)}, "seeds must be different and at least one"),
        ({"seeds": 0}, "seeds must be a positive integer"),
        ({"seeds": (-1,)}, "seed must be an integer in"),
        ({"seeds": 3}, "params must have a leading axis of 3 seeds"),
        ({"data": lambda epoch: []}, "data must be arrays for many runs"),
        ({"gradient": "both"}, "gradient must be 'manual', 'autodiff' or a rule for many runs"),
        ({"validation": (X, Y), "validation_split": 0.1}, "must not be given both"),
        ({"epochs": None}, "training must have an end"),
    ],
)
def test_what_does_not_fit_is_refused(options, said):
    net = NETS["dropout"]
    given = {"data": (X, Y), "optimizer": SGD, "seeds": 2, "epochs": 1} | options
    with pytest.raises(fbp.FbpError, match=said):
        fit_many(net, LOSS, stack(net, (0, 1)), **given)
