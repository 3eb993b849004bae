import json
import math
import re
from dataclasses import dataclass

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fbp.backprop import loss_value
from fbp.calibration import with_population_statistics
from fbp.combinators import Serial
from fbp.data import load
from fbp.errors import FbpError
from fbp.layers import Activation, Dense
from fbp.losses import HalfSquaredError, Loss, SoftmaxCrossEntropy
from fbp.networks import mlp
from fbp.precision import cast
from fbp.training import (
    Diverged,
    Epoch,
    Moment,
    evaluate,
    fit,
    initial_state,
    optimizer,
    show_progress,
    train_step,
)
from fbp.training.feed import Resident

PLATFORMS = ["cpu", "cuda", "rocm", "tpu"]
WIDTHS = (6, 8, 8, 3)
NETS = {
    "plain": mlp(WIDTHS, "tanh"),
    "dropout": mlp(WIDTHS, "gelu", dropout=0.2),
    "batch norm and dropout": mlp(WIDTHS, "relu", norm="batch", dropout=0.1),
    "repeat": mlp((6, *(8,) * 5, 3), "tanh", norm="layer", residual=True, repeat=True),
}
CROSS_ENTROPY = SoftmaxCrossEntropy()
# One object each: what is compiled for one test serves the others.
ADAM, SGD = optimizer("adam", 0.01), optimizer("sgd", 1.0)
MOMENTUM = optimizer("sgd", 0.1, momentum=0.9)


def data(m: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Examples around three centres, and which centre."""
    rng = np.random.default_rng(seed)
    Y = rng.integers(0, 3, m)
    return np.eye(3, 6)[Y] + 0.3 * rng.standard_normal((m, 6)), Y


def losses(fitted) -> list[float]:
    return [record.loss for record in fitted.history]


def run(net=NETS["plain"], m=50, rule=ADAM, **options):
    params, _ = net.init(jax.random.key(1))
    settings = {"epochs": 3, "batch_size": 16} | options
    return fit(net, CROSS_ENTROPY, params, data(m), optimizer=rule, **settings)


@pytest.mark.parametrize("name", NETS)
def test_manual_and_autodiff_give_the_same_curve(name):
    with jax.enable_x64(True):
        manual, autodiff = (
            run(NETS[name], rule=MOMENTUM, epochs=4, gradient=gradient) for gradient in ("manual", "autodiff")
        )
        np.testing.assert_allclose(losses(manual), losses(autodiff), rtol=1e-10)
        chex.assert_trees_all_close(manual.params, autodiff.params, rtol=1e-8, atol=1e-10)


def test_manual_and_autodiff_are_close_in_float32():
    manual, autodiff = (run(rule=MOMENTUM, gradient=gradient, epochs=4) for gradient in ("manual", "autodiff"))
    np.testing.assert_allclose(losses(manual), losses(autodiff), rtol=1e-5)


def test_digits_are_learnt():
    digits = load()
    net = mlp((784, 32, 10))
    params, _ = net.init(jax.random.key(0))
    fitted = fit(
        net,
        CROSS_ENTROPY,
        params,
        (digits.train_X[:1000], digits.train_Y[:1000]),
        optimizer=optimizer("adam", 0.003),
        epochs=12,
        batch_size=32,
        validation=(digits.test_X, digits.test_Y),
    )
    last = fitted.history[-1]
    assert last.accuracy > 0.97
    assert last.validation_accuracy > 0.84
    evaluation = evaluate(net, CROSS_ENTROPY, fitted.params, digits.test_X, digits.test_Y)
    assert evaluation == (last.validation_loss, last.validation_accuracy)


@pytest.mark.parametrize(("batch_size", "reduction"), [(7, "sum"), (32, "mean"), (1000, "mean")])
def test_the_loss_of_an_epoch_is_the_mean_over_all_examples(batch_size, reduction):
    with jax.enable_x64(True):
        net, (X, Y) = NETS["plain"], data(50)
        params, _ = net.init(jax.random.key(1))
        loss = SoftmaxCrossEntropy(reduction)
        fitted = fit(net, loss, params, (X, Y), optimizer=optimizer("sgd", 0.0), epochs=2, batch_size=batch_size)
        exact = float(loss_value(net, CROSS_ENTROPY, params, jnp.asarray(X), jnp.asarray(Y)))
        right = np.mean(np.argmax(np.asarray(net.forward(params, jnp.asarray(X))[0]), -1) == Y)
        evaluation = evaluate(net, loss, params, X, Y, batch_size=batch_size)
        for value, accuracy in (*(record[2:4] for record in fitted.history), evaluation):
            assert value == pytest.approx(exact, rel=1e-13)
            assert accuracy == right


@dataclass(frozen=True)
class Linear(Loss):
    """sum of Z Y: the gradient does not depend on the parameters, so that a row of W counts its visits."""

    def per_example(self, Z, Y):
        return jnp.sum(Z * Y, axis=-1)

    def dZ_per_example(self, Z, Y):
        return Y


def test_every_example_counts_once_an_epoch():
    m = 50
    targets = np.arange(1.0, m + 1)[:, None]
    net = Serial(Dense(1, "zeros"), shape=(m,))
    params, _ = net.init(jax.random.key(0))
    fitted = fit(net, Linear("sum"), params, (np.eye(m), targets), optimizer=SGD, epochs=3, batch_size=32)
    np.testing.assert_array_equal(fitted.params[0]["W"], -3 * targets)


def test_the_last_batch_is_filled_with_examples_of_weight_zero():
    feed = Resident(jnp.zeros((5, 2)), jnp.zeros(5), 2, 0)
    (block,) = feed.blocks(1, 0)
    assert sorted(block.rows.reshape(-1)[:5]) == list(range(5))
    assert block.rows[2, 1] == block.rows[0, 0]
    np.testing.assert_array_equal(block.counts, [2, 2, 1])


def test_the_seed_decides():
    net = NETS["dropout"]
    first, again, other = run(net, epochs=4), run(net, epochs=4), run(net, seed=1)
    assert losses(first) == losses(again)
    chex.assert_trees_all_equal(first.params, again.params)
    assert losses(first) != losses(other)


def test_epochs_have_different_orders():
    net = mlp(WIDTHS, norm="batch")
    params, _ = net.init(jax.random.key(1))
    fitted = fit(net, CROSS_ENTROPY, params, data(50), optimizer=optimizer("sgd", 0.0), epochs=2, batch_size=16)
    # Nothing is learnt, but the statistics of a batch depend on its members.
    assert losses(fitted)[0] != losses(fitted)[1]


@dataclass(frozen=True)
class Counted(Activation):
    """An activation that notes its traces."""

    def forward(self, params, A, key=None):
        TRACES.append(A.shape)
        return super().forward(params, A, key)


TRACES: list[tuple[int, ...]] = []


def test_all_epochs_are_compiled_once():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **about: compiled.append(about["fun_name"]) if "backend_compile" in event else None
    )
    try:
        run(mlp((6, 5, 3)), epochs=4, validation=data(20))
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled.count("jit(_run)") == compiled.count("jit(_measure)") == 1


def test_a_second_run_with_the_same_optimizer_is_not_compiled_again():
    net = Serial(Dense(5), Counted("sigmoid"), Dense(3), shape=(6,))
    run(net)
    assert (16, 5) in TRACES
    TRACES.clear()
    run(net, seed=1)
    # Only the check of the data looks at shapes again, and that is of all rows at once.
    assert set(TRACES) <= {(50, 5)}


@pytest.mark.parametrize("name", NETS)
def test_networks_learn_and_are_validated(name):
    net, held_out = NETS[name], data(40, seed=1)
    fitted = run(net, m=120, epochs=15, validation=held_out)
    first, last = fitted.history[0], fitted.history[-1]
    assert last.validation_loss < 0.5 * first.validation_loss
    assert last.validation_accuracy > 0.9
    assert [record.epoch for record in fitted.history] == list(range(1, 16))
    X = jnp.asarray(data(120)[0], jnp.float32)
    net, params = with_population_statistics(net, fitted.params, X, batch_size=16)
    evaluation = evaluate(net, CROSS_ENTROPY, params, *held_out, batch_size=7)
    np.testing.assert_allclose(evaluation, last[4:6], rtol=1e-5)


def test_regression_has_no_accuracy():
    X, _ = data(40)
    net = mlp((6, 8, 1), "tanh")
    params, _ = net.init(jax.random.key(0))
    Y = X[:, :1] ** 2
    fitted = fit(net, HalfSquaredError(), params, (X, Y), optimizer=ADAM, epochs=20, batch_size=8)
    assert losses(fitted)[-1] < 0.5 * losses(fitted)[0]
    assert fitted.history[-1].accuracy is None
    assert evaluate(net, HalfSquaredError(), fitted.params, X, Y).accuracy is None


def test_parameters_keep_their_dtype_and_the_callers_stay_alive():
    net = NETS["plain"]
    params = cast(net.init(jax.random.key(0))[0], "bfloat16")
    on_disk = jax.tree.map(np.asarray, params)
    fitted = fit(net, CROSS_ENTROPY, params, data(50), optimizer=MOMENTUM, epochs=2, batch_size=16)
    chex.assert_trees_all_equal_shapes_and_dtypes(fitted.params, params)
    chex.assert_trees_all_equal(params, on_disk)
    chex.assert_trees_all_equal(
        fitted.params, fit(net, CROSS_ENTROPY, on_disk, data(50), optimizer=MOMENTUM, epochs=2, batch_size=16).params
    )


def test_callbacks_see_every_epoch_and_may_stop():
    seen: list[Epoch] = []
    fitted = run(callbacks=[lambda epoch, state: seen.append(epoch)])
    assert tuple(seen) == fitted.history.epochs
    stopped = run(callbacks=[lambda epoch, state: epoch.epoch == 2])
    assert (len(stopped.history), stopped.stopped) == (2, "callback")
    assert all(record.seconds > 0 for record in seen)
    assert seen[0].examples_per_second == pytest.approx(50 / seen[0].seconds)


def test_divergence_keeps_what_was_reached():
    net = mlp(WIDTHS, "relu")
    params, _ = net.init(jax.random.key(1))
    seen: list[Epoch] = []
    # The step doubles at each update, so that the run begins well.
    rising = optax.sgd(optax.exponential_decay(0.01, 1, 4.0))
    note = lambda epoch, state: seen.append(epoch)
    with pytest.raises(Diverged, match=r"got .* with infinite or NaN values in step \d+; use a") as caught:
        fit(net, CROSS_ENTROPY, params, data(64), optimizer=rising, epochs=99, batch_size=16, callbacks=[note])
    fitted = caught.value.fitted
    assert len(fitted.history) > 1
    assert fitted.history.epochs == tuple(seen)
    assert all(math.isfinite(record.loss) for record in fitted.history)
    chex.assert_tree_all_finite(fitted.params)


def with_data(X=None, Y=None, **options):
    params, _ = NETS["plain"].init(jax.random.key(1))
    good_X, good_Y = data(50)
    X, Y = good_X if X is None else X, good_Y if Y is None else Y
    settings = {"epochs": 1, "batch_size": 16} | options
    return fit(NETS["plain"], CROSS_ENTROPY, params, (X, Y), optimizer=optimizer("sgd", 0.1), **settings)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"X": np.where(np.arange(300).reshape(50, 6) == 13, np.nan, 0.5)}, "X must be finite.*row 2, column 1"),
        ({"X": np.ones((50, 6), np.int32)}, "X must be floating point, got int32; convert it"),
        ({"X": np.ones((50, 5))}, r"must have the shape \(..., 6\).*got \(50, 5\)"),
        ({"X": np.ones(50)}, "rows of features"),
        ({"X": [["a"]]}, "real numbers"),
        ({"Y": np.arange(49) % 3}, "one row per example"),
        ({"Y": np.full(50, 3)}, r"Y must be in 0\.\.2, got 3 at row 0"),
        ({"Y": np.full(50, -1)}, r"Y must be in 0\.\.2, got -1"),
        ({"Y": np.ones((50, 2))}, "one row of probabilities per example"),
        ({"Y": np.ones(50)}, "integer labels"),
        ({"validation": (np.ones((4, 6)), np.full(4, 7))}, r"Y must be in 0\.\.2"),
        ({"epochs": 0}, "epochs must be a positive integer, got 0"),
        ({"epochs": 10**12}, "epochs must be of fewer than 2147483647 steps in all"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"batch_size": 2.5}, "got 2.5"),
        ({"seed": -1}, "seed must be an integer in 0"),
        ({"gradient": "manuel"}, "unknown gradient 'manuel': did you mean 'manual'"),
    ],
)
def test_mistakes_are_named(mistake, message):
    with pytest.raises(FbpError, match=message) as caught:
        with_data(**mistake)
    assert "\n" not in str(caught.value)


def test_evaluation_refuses_statistics_of_a_batch():
    net = NETS["batch norm and dropout"]
    params, _ = net.init(jax.random.key(0))
    with pytest.raises(FbpError, match="with_population_statistics"):
        evaluate(net, CROSS_ENTROPY, params, *data(10))
    with pytest.raises(FbpError, match="batch_size must be"):
        evaluate(NETS["plain"], CROSS_ENTROPY, NETS["plain"].init(jax.random.key(0))[0], *data(10), batch_size=-1)


def test_batches_without_a_variance_are_refused_before_training():
    with pytest.raises(FbpError, match="at least two examples"):
        run(NETS["batch norm and dropout"], batch_size=1, validation=data(10), callbacks=[pytest.fail])


@pytest.mark.parametrize(
    ("net", "dtype"),
    [(mlp(WIDTHS, "gelu", norm="batch", dropout=0.2), "float32"), (mlp((6, *(16,) * 33, 3), repeat=True), "bfloat16")],
    ids=["batch norm and dropout", "repeat of depth 32 in bfloat16"],
)
def test_the_step_is_exported_for_every_platform(net, dtype):
    params = cast(net.init(jax.random.key(0))[0], dtype)
    step = train_step(net, CROSS_ENTROPY, MOMENTUM)
    X, Y = data(8)
    arguments = initial_state(params, MOMENTUM), jnp.asarray(X, dtype), jnp.asarray(Y, jnp.int32)
    exported = jax.export.export(jax.jit(step), platforms=PLATFORMS)(*arguments)
    assert list(exported.platforms) == PLATFORMS
    state, metrics = exported.call(*arguments)
    assert int(state.step) == 1
    assert math.isfinite(metrics.loss)


@pytest.mark.parametrize("name", ["plain", "batch norm and dropout"])
def test_a_batch_may_be_sharded(name):
    assert jax.device_count() == 8
    examples = NamedSharding(Mesh(np.array(jax.devices()), ("examples",)), PartitionSpec("examples"))
    with jax.enable_x64(True):
        net = NETS[name]
        params, _ = net.init(jax.random.key(0))
        # With the learning rate 1 the step of plain descent is the gradient itself.
        step = jax.jit(train_step(net, CROSS_ENTROPY, SGD))
        batch = tuple(map(jnp.asarray, (*data(32), np.arange(32) % 4 * 0.5)))
        state = initial_state(params, SGD)
        whole = step(state, *batch)
        sharded = step(state, *jax.device_put(batch, examples))
        chex.assert_trees_all_close(sharded[0].params, whole[0].params, rtol=1e-12, atol=1e-14)
        chex.assert_trees_all_close(sharded[1], whole[1], rtol=1e-12)


def test_fit_takes_sharded_data():
    examples = NamedSharding(Mesh(np.array(jax.devices()), ("examples",)), PartitionSpec("examples"))
    net, (X, Y) = NETS["plain"], data(64)
    params, _ = net.init(jax.random.key(1))
    batch = jax.device_put((jnp.asarray(X), jnp.asarray(Y)), examples)
    sharded = fit(net, CROSS_ENTROPY, params, batch, optimizer=ADAM, epochs=3, batch_size=16)
    np.testing.assert_allclose(losses(sharded), losses(run(m=64)), rtol=1e-5)


RECORD = Epoch(10, 1410, 0.012345, 0.98765, 0.12345, 0.95432, 0.5, 24_000.4)
LINE = "epoch 10  loss 0.01235  accuracy 98.77%  validation 0.1235  95.43%  24,000/s"
MOMENT = Moment(3, 1234, 1875, 0.2345, 0.9876, 123_456.7)


def test_a_terminal_of_80_columns_shows_all(monkeypatch, capsys):
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    with show_progress(500) as shown:
        shown.on_steps(MOMENT)
        shown.on_epoch(RECORD, None)
    seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert LINE in seen
    assert "step 1234/1875" in seen
    assert "loss 0.234  98.8%  123,457/s" in seen
    assert max(map(len, seen.splitlines())) <= 80


def test_a_log_gets_one_line_an_epoch(capsys):
    with show_progress(3) as shown:
        shown.on_epoch(RECORD, None)
        shown.on_epoch(Epoch(11, 1551, 0.2, None, None, None, 2.0, 24_000.4), None)
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.splitlines() == [LINE, "epoch 11  loss 0.2  24,000/s"]


def test_programs_get_lines_of_json(capsys):
    with show_progress(3, json=True) as shown:
        shown.on_epoch(RECORD._replace(loss=math.nan), None)
    seen = capsys.readouterr()
    assert seen.err == ""
    assert json.loads(seen.out)["loss"] == "NaN"


def test_nothing_is_shown_where_quiet_is_asked_for(capsys):
    with show_progress(3, quiet=True) as shown:
        shown.on_epoch(RECORD, None)
    assert capsys.readouterr() == ("", "")
