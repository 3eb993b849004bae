"""A backward pass laid open: the textbook equations hold between its arrays."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp import Activation, Dense, Dropout, Repeat, Serial
from fbp.activations import activation

M = 8
LOSS = fbp.SoftmaxCrossEntropy()
NETS = {
    "serial": fbp.mlp((5, 6, 6, 6, 4), "gelu", repeat=False),
    "repeat": fbp.mlp((5, 6, 6, 6, 4), "gelu", repeat=True),
    "checkpoint": fbp.mlp((5, 6, 6, 6, 4), "gelu", repeat=True, checkpoint=2),
}


def batch():
    draw = np.random.default_rng(0)
    return draw.normal(size=(M, 5)), np.arange(M) % 4


@cache
def traced(name):
    """In float64, the equal parameters of `Serial` and `Repeat` in either's structure."""
    with jax.enable_x64(True):
        draw = np.random.default_rng(1)
        sizes = [(5, 6), (6, 6), (6, 6), (6, 4)]
        first, *middle, last = ({"W": draw.normal(size=size), "b": draw.normal(size=size[1])} for size in sizes)
        hidden = [x for p in middle for x in ((), p)]
        if name != "serial":
            hidden = [((), jax.tree.map(lambda *xs: np.stack(xs), *middle))]
        return jax.device_get(fbp.trace(NETS[name], LOSS, (first, *hidden, (), last), *batch()))


each_net = pytest.mark.parametrize("name", NETS)


@each_net
def test_shapes_and_names(name):
    trace = traced(name)
    widths = [5, 6, 6, 6, 4]
    assert {l: A.shape for l, A in trace.A.items()} == {l: (M, widths[l]) for l in range(4)}
    assert {l: Z.shape for l, Z in trace.Z.items()} == {l: (M, widths[l]) for l in range(1, 5)}
    for l in range(1, 5):
        assert trace.dW[l].shape == trace.W[l].shape == (widths[l - 1], widths[l])
        assert trace.db[l].shape == trace.b[l].shape == (widths[l],)
        assert trace.dZ[l].shape == trace.Z[l].shape
        assert trace.dA[l - 1].shape == trace.A[l - 1].shape
        assert trace[f"dW_{l}"] is trace.dW[l]


@each_net
def test_forward_equations(name):
    trace = traced(name)
    np.testing.assert_array_equal(trace.A[0], batch()[0])
    for l in range(1, 5):
        np.testing.assert_allclose(trace.Z[l], trace.A[l - 1] @ trace.W[l] + trace.b[l], rtol=1e-12)
    softmax = np.exp(trace.Z[4]) / np.exp(trace.Z[4]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(trace.output, softmax, rtol=1e-12)
    np.testing.assert_allclose(trace.value, -np.log(softmax[np.arange(M), batch()[1]]).mean(), rtol=1e-12)


@each_net
def test_backward_equations(name):
    trace = traced(name)
    np.testing.assert_allclose(trace.dZ[4], (trace.output - np.eye(4)[batch()[1]]) / M, rtol=1e-12, atol=1e-16)
    with jax.enable_x64(True):
        slope = {l: np.asarray(jax.vmap(jax.grad(activation("gelu")))(trace.Z[l].ravel())) for l in (1, 2, 3)}
    for l in range(1, 5):
        np.testing.assert_allclose(trace.dW[l], trace.A[l - 1].T @ trace.dZ[l], rtol=1e-11, atol=1e-15)
        np.testing.assert_allclose(trace.db[l], trace.dZ[l].sum(axis=0), rtol=1e-11, atol=1e-15)
        np.testing.assert_allclose(trace.dA[l - 1], trace.dZ[l] @ trace.W[l].T, rtol=1e-11, atol=1e-15)
    for l in range(1, 4):
        np.testing.assert_allclose(trace.dZ[l], trace.dA[l] * slope[l].reshape(M, -1), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", ["repeat", "checkpoint"])
def test_repeat_and_checkpoint_show_the_same_arrays(name):
    found, expected = traced(name), traced("serial")
    for symbol in ("A", "Z", "dA", "dZ", "W", "b", "dW", "db"):
        for l, array in getattr(expected, symbol).items():
            np.testing.assert_allclose(getattr(found, symbol)[l], array, rtol=1e-11, atol=1e-15)


def test_layers_stand_in_forward_order():
    kinds = [type(each.layer).__name__ for each in traced("checkpoint").layers]
    assert kinds == [kind.__name__ for kind in (Dense, *(Activation, Dense) * 3)]
    for before, after in zip(traced("repeat").layers[:-1], traced("repeat").layers[1:], strict=True):
        np.testing.assert_array_equal(before.A_out, after.A_in)


def test_d_params_have_the_structure_of_the_parameters():
    trace = traced("checkpoint")
    assert jax.tree.structure(trace.d_params) == jax.tree.structure(
        jax.eval_shape(lambda k: NETS["checkpoint"].init(k)[0], jax.random.key(0))
    )
    np.testing.assert_allclose(trace.d_params[1][1]["W"], np.stack([trace.dW[2], trace.dW[3]]), rtol=1e-13)


def small():
    net = fbp.mlp((5, 3, 4), "tanh", dropout=0.5)
    params, _ = net.init(jax.random.key(0))
    X, Y = batch()
    return net, params, X.astype(np.float32), Y


def test_under_jit_and_vmap():
    """A trace is a pytree: it may be returned, and mapped over networks."""
    net, params, X, Y = small()
    stacked = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
    many = jax.jit(jax.vmap(lambda params: fbp.trace(net, LOSS, params, X, Y)))(stacked)
    one = fbp.trace(net, LOSS, params, X, Y)
    assert many.dW[1].shape == (2, 5, 3)
    np.testing.assert_allclose(many.dW[1][0], one.dW[1], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(many.value[0], one.value, rtol=1e-6)


def test_key_and_weights_reach_the_network():
    net, params, X, Y = small()
    trace = fbp.trace(net, LOSS, params, X, Y, jnp.asarray([0.0] * 4 + [1.0] * 4), jax.random.key(0))
    dropped = next(each for each in trace.layers if isinstance(each.layer, Dropout))
    assert (dropped.A_out == 0).any()
    assert not trace.dZ[2][:4].any()
    assert trace.dZ[2][4:].all()
    np.testing.assert_allclose(trace.output, jax.nn.softmax(trace.Z[2]), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("dW1", "did you mean 'dW_1'"),
        ("delta_1", "unknown quantity of a trace 'delta_1'"),
        ("dW_5", "the index of dW must be in 1..4, got 'dW_5'"),
        ("dW_0", "the index of dW must be in 1..4"),
        ("A_4", "the index of A must be in 0..3"),
        ("dW", "the index of dW must be in 1..4, got 'dW'"),
        ("dW_-1", "got 'dW_-1'"),
    ],
)
def test_names_refused(name, said):
    with pytest.raises(fbp.FbpError) as error:
        traced("serial")[name]
    assert said in str(error.value)


def test_a_network_without_dense_layers_has_no_weights():
    trace = fbp.trace(
        Serial(Repeat(Activation("tanh"), 2)),
        fbp.HalfSquaredError(),
        (((),)),
        np.ones((2, 3), np.float32),
        np.zeros((2, 3), np.float32),
    )
    assert trace.dW == {}
    assert len(trace.layers) == 2
    with pytest.raises(fbp.FbpError, match="W"):
        trace["W_1"]
