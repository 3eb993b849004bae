"""Training: bits that do not depend on where it was cut, limits, failures, run folders."""

import importlib
import signal
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbp
from fbp.data.arrays import split_rows
from fbp.training import feed as feeds
from fbp.training.checkpoints import list_checkpoints

# The package has a function of that name.
fitting = importlib.import_module("fbp.training.fit")
NET, LOSS = fbp.mlp((12, 16, 16, 4), "tanh", dropout=0.2), fbp.SoftmaxCrossEntropy()
DRAW = np.random.default_rng(0)
X, Y = DRAW.standard_normal((203, 12), np.float32), DRAW.integers(0, 4, 203)


@pytest.fixture(scope="module")
def params():
    return NET.init(jax.random.key(0))[0]


def train(params, data=(X, Y), net=NET, **options):
    given = {"optimizer": OPTIMIZER, "epochs": 3, "batch_size": 16, "seed": 5} | options
    return fbp.training.fit(net, LOSS, params, data, **given)


OPTIMIZER = optax.adam(1e-2)


def held_rows(fraction):
    return split_rows(len(Y), fraction=fraction, seed=5)[1]


def assert_same_bits(a, b):
    chex.assert_trees_all_equal(jax.device_get(a.params), jax.device_get(b.params))
    timed = ("seconds", "examples_per_second")
    for one, other in zip(a.history, b.history, strict=True):
        assert one._replace(**dict.fromkeys(timed)) == other._replace(**dict.fromkeys(timed))


@pytest.mark.parametrize("seconds", [1e-9, 1e-4, 10.0])
def test_where_chunks_end_changes_no_bit(params, monkeypatch, seconds):
    whole = train(params, monitor="full", validation_split=0.2)
    monkeypatch.setattr(fitting, "CHUNK_SECONDS", seconds)
    monkeypatch.setattr(feeds, "LONGEST", 4)
    assert_same_bits(train(params, monitor="full", validation_split=0.2), whole)


def test_measuring_changes_no_bit(params):
    plain = train(params)
    watched = train(params, monitor="full")
    chex.assert_trees_all_equal(plain.params, watched.params)
    assert any(name.startswith("gradient_norm/") for name in watched.history[0].readings)


def test_data_on_the_disk_give_the_same_bits(params, monkeypatch, tmp_path):
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    whole = train(params, validation_split=0.1)
    monkeypatch.setattr(feeds, "BLOCK_BYTES", 2000)
    monkeypatch.setattr("fbp.training.inputs.RESIDENT_BYTES", 100)
    assert_same_bits(train(params, (mapped, Y), validation_split=0.1), whole)


@pytest.mark.parametrize("options", [{}, {"monitor": "full", "patience": 5, "validation_split": 0.2}])
@pytest.mark.parametrize("after", [1, 7, 13, 30])
def test_an_interrupted_run_goes_on_with_the_same_bits(params, tmp_path, monkeypatch, options, after):
    monkeypatch.setattr(fitting, "CHUNK_SECONDS", 1e-9)
    whole = train(params, **options)
    seen = []

    def press(moment):
        seen.append(moment)
        if len(seen) == after:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="saved"):
        train(params, out=tmp_path / "run", on_steps=press, **options)
    resumed = train(params, out=tmp_path / "run", resume=True, **options)
    assert_same_bits(resumed, whole)
    # What is finished stays as it is.
    assert_same_bits(train(params, out=tmp_path / "run", resume=True, **options), whole)


def test_the_newest_checkpoint_is_damaged(params, tmp_path):
    whole = train(params, epochs=4)
    train(params, epochs=2, out=tmp_path / "run")
    (newest,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    older = newest.with_name("step-000000000001.safetensors")
    newest.rename(older)
    newest.write_bytes(older.read_bytes()[:-3])
    with pytest.warns(UserWarning, match="going on from step-000000000001"):
        assert_same_bits(train(params, epochs=4, out=tmp_path / "run", resume=True), whole)
    for path in list_checkpoints(tmp_path / "run" / "checkpoints"):
        path.write_bytes(b"")
    with pytest.raises(fbp.FbpError, match="one of the checkpoints must be whole, got 2 damaged"):
        train(params, epochs=4, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 6}, "seed 5 there and 6 here"),
        ({"batch_size": 8}, "batch_size 16 there and 8 here"),
        ({"data": (X[:100], Y[:100])}, "examples 203 there and 100 here"),
        ({"data": (X + 1, Y)}, "data "),
        ({"net": fbp.mlp((12, 16, 16, 4), "relu", dropout=0.2)}, "layers.1..function: "),
        ({"optimizer": optax.sgd(0.1, momentum=0.9)}, "saved arrays must be those of this network and optimizer"),
        ({"gradient": "autodiff"}, "gradient 'manual' there and 'autodiff' here"),
    ],
)
def test_another_training_is_not_resumed(params, tmp_path, change, message):
    train(params, epochs=1, out=tmp_path / "run")
    with pytest.raises(fbp.FbpError, match=message):
        train(params, epochs=2, out=tmp_path / "run", resume=True, **change)


def test_a_run_is_not_overwritten_and_not_shared(params, tmp_path):
    train(params, epochs=1, out=tmp_path / "run")
    with pytest.raises(fbp.FbpError, match="a new run must have a new folder"):
        train(params, epochs=1, out=tmp_path / "run")

    def again(epoch, state):
        train(params, epochs=1, out=tmp_path / "other")

    with pytest.raises(fbp.FbpError, match="must be used by one program at a time"):
        train(params, epochs=1, out=tmp_path / "other", callbacks=[again])


def test_a_disk_that_takes_no_more_is_one_line(params, tmp_path, monkeypatch):
    def full(path, *args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("fbp.training.checkpoints.save_tensors", full)
        with pytest.raises(fbp.FbpError, match="must be kept on a disk that takes it, got No space left on device"):
            train(params, out=tmp_path / "run")
    assert_same_bits(train(params, out=tmp_path / "run", resume=True), train(params))


def test_an_error_of_a_callback_loses_nothing(params, tmp_path):
    def breaks(epoch, state):
        if epoch.epoch == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(params, out=tmp_path / "run", callbacks=[breaks])
    assert_same_bits(train(params, out=tmp_path / "run", resume=True), train(params))


@pytest.mark.parametrize(
    ("options", "stopped", "epochs"),
    [
        ({"epochs": None, "steps": 20}, "steps", 1),
        ({"epochs": 50, "target_loss": 1.3}, "target_loss", None),
        ({"epochs": None, "max_seconds": 1e-6}, "max_seconds", 0),
        ({"epochs": 60, "patience": 2, "validation_split": 0.3}, "patience", None),
    ],
)
def test_training_ends_at_a_limit(params, options, stopped, epochs):
    fitted = train(params, **options)
    assert fitted.stopped == stopped
    assert epochs is None or len(fitted.history) == epochs
    assert int(fitted.state.step) == options.get("steps", int(fitted.state.step))
    if stopped == "patience":
        assert fitted.history.best.epoch == len(fitted.history) - 2
        X_val, Y_val = (values[held_rows(0.3)] for values in (X, Y))
        evaluated = fbp.training.evaluate(NET, LOSS, fitted.params, X_val, Y_val)
        assert evaluated.loss == pytest.approx(fitted.history.best.validation_loss, rel=1e-6)


def test_named_parts_are_trained_and_the_rest_keeps_its_bits(params):
    fitted = train(params, trained=["6.*"])
    chex.assert_trees_all_equal(fitted.params[:6], params[:6])
    assert not np.array_equal(fitted.params[6]["W"], params[6]["W"])
    assert len(jax.tree.leaves(fitted.state.opt_state)) < len(jax.tree.leaves(OPTIMIZER.init(params)))


def test_half_precision_passes_keep_float32_parameters(params):
    fitted, exact = train(params, compute="bfloat16"), train(params)
    assert {x.dtype.name for x in jax.tree.leaves(fitted.params)} == {"float32"}
    assert fitted.history[-1].loss == pytest.approx(exact.history[-1].loss, rel=0.02)
    assert fitted.history[-1].loss != exact.history[-1].loss


def test_examples_are_clipped(params):
    net = fbp.mlp((12, 16, 16, 4), "tanh")
    data = X[:16], Y[:16]
    fitted = train(params_of(net), data, net, optimizer=optax.sgd(1.0), epochs=1, clip_examples=0.1)
    order = feeds.draw_order(16, 5, 1)
    step = fbp.clipped_grad(net, LOSS, 0.1)(params_of(net), jnp.asarray(X[order]), jnp.asarray(Y[order]))
    moved = jax.tree.map(lambda p, d: p - d, params_of(net), step)
    chex.assert_trees_all_close(fitted.params, moved, rtol=1e-5, atol=1e-7)


def params_of(net):
    return net.init(jax.random.key(0))[0]


def test_a_function_makes_the_batches(params, tmp_path, monkeypatch):
    def batches(epoch):
        draw = np.random.default_rng(epoch)
        for _ in range(5):
            yield draw.standard_normal((8, 12), np.float32), draw.integers(0, 4, 8)

    options = {"data": batches, "steps_per_epoch": 5, "epochs": 3}
    whole = train(params, **options)
    assert [epoch.step for epoch in whole.history] == [5, 10, 15]
    train(params, **options | {"epochs": None, "steps": 7}, out=tmp_path / "run")
    assert_same_bits(train(params, **options, out=tmp_path / "run", resume=True), whole)
    with pytest.raises(fbp.FbpError, match="data must give 9 batches in every epoch, got fewer in epoch 1"):
        train(params, **options | {"steps_per_epoch": 9})
    with pytest.raises(fbp.FbpError, match="steps_per_epoch must come with a function"):
        train(params, steps_per_epoch=3)


def test_both_gradients_are_compared(params):
    chex.assert_trees_all_equal(train(params, gradient="both").params, train(params).params)


def test_a_wrong_gradient_stops_the_training(tmp_path):
    net = fbp.Serial(Halved(16), fbp.Activation("tanh"), fbp.Dense(4), shape=(12,))
    with pytest.raises(fbp.training.Disagreed, match=r"got a relative difference of .* in step 1") as caught:
        train(params_of(net), net=net, gradient="both", out=tmp_path / "run")
    assert caught.value.exit_status == 1
    replay = fbp.training.load_replay(caught.value.replay, net=net)
    assert replay.step == 1
    assert fbp.compare(*replay.problem, cost_seconds=0).verdict == "FAIL"
    with pytest.raises(fbp.FbpError, match="a network of your own must be given"):
        fbp.training.load_replay(caught.value.replay)


class Halved(fbp.Dense):
    """A dense layer whose db is wrong."""

    def backward(self, params, cache, dA_out):
        d_params, dA = super().backward(params, cache, dA_out)
        return d_params | {"b": d_params["b"] / 2}, dA


@pytest.mark.parametrize("chunk", [1e-9, 10.0])
@pytest.mark.parametrize(
    ("net", "optimizer", "where"),
    [
        (fbp.mlp((12, 16, 4), "relu"), optax.sgd(1e30), r"the output of \[\d\] \((Dense|Activation)\)"),
        (fbp.Serial(fbp.Dense(4), fbp.Activation("linear"), shape=(12,)), optax.scale(1e38), "the output of|the loss"),
    ],
)
def test_a_failure_is_found_where_it_begins(tmp_path, monkeypatch, chunk, net, optimizer, where):
    monkeypatch.setattr(fitting, "CHUNK_SECONDS", chunk)
    with pytest.raises(fbp.training.Diverged, match=where) as caught:
        train(params_of(net), net=net, optimizer=optimizer, epochs=9, out=tmp_path / "run")
    error = caught.value
    chex.assert_tree_all_finite(error.fitted.params)
    assert f"in step {int(error.state.step) + 1} " in str(error)
    replay = fbp.training.load_replay(error.replay)
    assert fbp.training.find_nonfinite(replay.problem) in str(error)
    assert replay.step == int(error.state.step) + 1


def test_the_backward_pass_may_be_where_it_begins():
    net = fbp.Serial(fbp.Dense(8), Overflowing("tanh"), fbp.Dense(4), shape=(12,))
    with pytest.raises(fbp.training.Diverged, match=r"got dA of \[1\] \(Overflowing\)"):
        train(params_of(net), net=net)


class Overflowing(fbp.Activation):
    """An activation whose derivative is too large for its dtype."""

    def backward(self, params, cache, dA_out):
        return (), super().backward(params, cache, dA_out)[1] * 1e30 * 1e30


def test_a_history_is_shown_and_written(params):
    history = train(params, validation_split=0.2, monitor="economy").history
    rows = history.to_csv().splitlines()
    assert len(rows) == 4
    assert rows[0].startswith("epoch,step,loss,accuracy,validation_loss,validation_accuracy,seconds")
    assert float(rows[1].split(",")[2]) == history[0].loss
    assert history._repr_html_().count("<tr>") == 4
    assert len(history.plot("loss").axes[0].lines) >= 2
    with pytest.raises(fbp.FbpError, match="unknown column of the history 'los'"):
        history.plot("los")
    assert len(history[1:]) == 2


def test_own_layers_are_loaded_with_their_network(tmp_path):
    net = fbp.Serial(Halved(16), fbp.Activation("tanh"), fbp.Dense(4), shape=(12,))
    fitted = train(params_of(net), net=net, out=tmp_path / "run", epochs=1)
    with pytest.raises(fbp.FbpError, match="a network with layers of your own must be given"):
        fbp.load(tmp_path / "run")
    chex.assert_trees_all_equal(fbp.load(tmp_path / "run", net=net)[1], fitted.params)
    with pytest.raises(fbp.FbpError, match="saved arrays must be those of this network"):
        fbp.load(tmp_path / "run", net=fbp.mlp((12, 5, 4)))


def test_batch_normalization_is_loaded_for_use(tmp_path):
    net = fbp.mlp((12, 16, 4), norm="batch")
    fitted = train(params_of(net), net=net, out=tmp_path / "run", epochs=2, validation_split=0.2)
    loaded, params = fbp.load(tmp_path / "run")
    assert loaded == fbp.with_population_statistics(net, fitted.params, jnp.asarray(X), batch_size=16)[0]
    held = X[held_rows(0.2)], Y[held_rows(0.2)]
    assert fbp.training.evaluate(loaded, LOSS, params, *held).loss == pytest.approx(
        fitted.history[-1].validation_loss, rel=1e-6
    )
