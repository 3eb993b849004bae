"""Training: bits that do not depend on where it was cut, limits, failures, run folders."""

import importlib
import signal
import threading

import chex
import jax
import numpy as np
import optax
import pytest

import fbp
from fbp.training import feed as feeds

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
