"""One of each of one's own, in a module outside of fbp: whatever reads networks takes them like its own."""

import importlib.util
from functools import partial
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp import Activation, Checkpoint, Dense, Repeat, Residual, Serial
from fbp.tree import list_layers, roll_blocks

MODULE = '''
from dataclasses import dataclass

import jax
import jax.numpy as jnp

import fbp

relu6 = fbp.Nonlinearity(
    "relu6",
    function=lambda Z: jnp.where(Z <= 0, 0 * Z, jnp.where(Z >= 6, 6 + 0 * Z, Z)),
    derivative=lambda A: ((A > 0) & (A < 6)).astype(A.dtype),
    kinks=(0.0, 6.0),
)


@dataclass(frozen=True)
class Scale(fbp.Layer):
    """A -> s A with one parameter s."""

    def init(self, key, shape):
        return {"s": jnp.ones(())}, shape

    def forward(self, params, A, key=None):
        return params["s"] * A, A

    def backward(self, params, cache, dA_out):
        return {"s": jnp.sum(dA_out * cache)}, params["s"] * dA_out


@dataclass(frozen=True)
class LogCosh(fbp.Loss):
    """sum_k log cosh(Z_k - Y_k)."""

    def per_example(self, Z, Y):
        return jnp.sum(jnp.log(jnp.cosh(Z - Y.astype(Z.dtype))), axis=-1)

    def dZ_per_example(self, Z, Y):
        return jnp.tanh(Z - Y.astype(Z.dtype))


@dataclass(frozen=True)
class Sum(fbp.Combinator):
    """f(A) + g(A)."""

    f: fbp.Layer
    g: fbp.Layer

    def split(self, tree):
        return tree["f"], tree["g"]

    def join(self, trees):
        return {"f": trees[0], "g": trees[1]}

    def init(self, key, shape):
        key_f, key_g = jax.random.split(key)
        (p_f, out), (p_g, _) = self.f.init(key_f, shape), self.g.init(key_g, shape)
        return {"f": p_f, "g": p_g}, out

    def forward(self, params, A, key=None):
        keys = (None, None) if key is None else jax.random.split(key)
        out_f, cache_f = self.f.forward(params["f"], A, keys[0])
        out_g, cache_g = self.g.forward(params["g"], A, keys[1])
        return out_f + out_g, {"f": cache_f, "g": cache_g}

    def sweep(self, params, cache, dA_out, probe=None):
        d_f, dA_f, reading_f = self.f.sweep(params["f"], cache["f"], dA_out, probe)
        d_g, dA_g, reading_g = self.g.sweep(params["g"], cache["g"], dA_out, probe)
        return {"f": d_f, "g": d_g}, dA_f + dA_g, {"f": reading_f, "g": reading_g}
'''
M, N_IN, WIDTH, N_OUT = 12, 5, 7, 4


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The module, a network and a loss of its parts, parameters and data."""
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(MODULE)
    spec = importlib.util.spec_from_file_location("own", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    block = module.Sum(Serial(Activation(module.relu6), Dense(WIDTH)), Checkpoint(Dense(WIDTH)))
    net = Serial(
        Dense(WIDTH),
        module.Scale(),
        Repeat(block, 2),
        Residual(block, 0.5),
        Activation(module.relu6),
        Dense(N_OUT),
        shape=(N_IN,),
    )
    draw = np.random.default_rng(0)
    # Large enough that both kinks of relu6 are passed.
    X = jnp.asarray(6 * draw.standard_normal((M, N_IN)), jnp.float32)
    Y = jnp.asarray(draw.standard_normal((M, N_OUT)), jnp.float32)
    params = jax.tree.map(lambda p: p + 0.1, net.init(jax.random.key(0))[0])
    return SimpleNamespace(module=module, net=net, loss=module.LogCosh(), params=params, X=X, Y=Y, block=block)


def arguments(own):
    return own.net, own.loss, own.params, own.X, own.Y


def test_gradients_are_those_of_autodiff(own):
    with jax.enable_x64(True):
        params, X, Y = fbp.cast((own.params, own.X, own.Y), "float64")
        value, d_params = jax.jit(fbp.value_and_grad(own.net, own.loss))(params, X, Y)
        expected = jax.jit(jax.value_and_grad(partial(fbp.loss_value, own.net, own.loss)))(params, X, Y)
        chex.assert_trees_all_close((value, d_params), expected, rtol=1e-11, atol=1e-13)
        task = lambda f, params: jnp.sum(jnp.square(f(params, X)))
        by_hand = jax.grad(partial(task, fbp.as_function(own.net)))(params)
        by_autodiff = jax.grad(partial(task, lambda params, X: own.net.forward(params, X)[0]))(params)
        chex.assert_trees_all_close(by_hand, by_autodiff, rtol=1e-11, atol=1e-11)


def test_traces_and_norms_see_every_layer(own):
    trace = fbp.trace(*arguments(own))
    hidden = [Z for Z in trace.Z.values() if Z.shape[1] == WIDTH]
    assert len(trace.layers) == len(list_layers(own.net)) == 2 + 2 * 3 + 3 + 2
    assert min(Z.min() for Z in hidden) < 0
    assert max(Z.max() for Z in hidden) > 6
    norms = jax.jit(fbp.log10_gradient_norms(own.net, own.loss))(own.params, own.X, own.Y)
    np.testing.assert_allclose(10**norms.dW, [np.linalg.norm(dW) for dW in trace.dW.values()], rtol=1e-4)


def test_parameters_from_data_reach_every_branch(own):
    scaled = fbp.lsuv(own.net, own.params, own.X)
    trace = fbp.trace(own.net, own.loss, scaled, own.X, own.Y)
    np.testing.assert_allclose([Z.var() for Z in trace.Z.values()], 1.0, rtol=1e-4)
    net = Serial(own.module.Sum(fbp.BatchNorm(), Dense(N_IN)), shape=(N_IN,))
    frozen, _ = fbp.with_population_statistics(net, net.init(jax.random.key(0))[0], own.X)
    assert list_layers(frozen) == [fbp.Affine(), Dense(N_IN)]
    assert net.mixes_examples
    assert not frozen.mixes_examples


def test_equal_blocks_become_loops_inside_and_around(own):
    inside = own.module.Sum(Serial(*[Activation("tanh"), Dense(N_IN)] * 3), Dense(N_IN))
    net = Serial(inside, inside, shape=(N_IN,))
    params, _ = net.init(jax.random.key(0))
    loop, loop_params = roll_blocks(net, params, own.X)
    branch = Serial(Repeat(Serial(Activation("tanh"), Dense(N_IN)), 3))
    assert loop == Serial(Repeat(own.module.Sum(branch, Dense(N_IN)), 2), shape=(N_IN,))
    np.testing.assert_allclose(loop.forward(loop_params, own.X)[0], net.forward(params, own.X)[0], rtol=1e-4)


def test_verification_passes(own):
    assert fbp.compare(*arguments(own), cost_seconds=0).verdict == "PASS"
    assert fbp.verify.network(*arguments(own)).verdict == "PASS"


def test_faults_are_injected_beside_a_combinator_whose_parameters_are_a_dictionary(own):
    branches = own.module.Sum(Dense(N_IN), Dense(N_IN))
    net = Serial(branches, branches, shape=(N_IN,))
    X, Y = own.X[:4], own.X[4:8]
    report = fbp.verify.mutate(net, fbp.HalfSquaredError(), net.init(jax.random.key(0))[0], X, Y)
    assert not report.survivors
    assert {"swapped layers", "off-by-one layer"} <= {each.fault for each in report.mutants if each.state == "killed"}


def test_a_wrong_loss_a_wrong_layer_and_a_wrong_combinator_fail(own):
    class WrongLoss(own.module.LogCosh):
        def dZ_per_example(self, Z, Y):
            return 2 * super().dZ_per_example(Z, Y)

    class WrongScale(own.module.Scale):
        def backward(self, params, cache, dA_out):
            return {"s": jnp.mean(dA_out * cache)}, params["s"] * dA_out

    class WrongSum(own.module.Sum):
        def sweep(self, params, cache, dA_out, probe=None):
            d_params, _, readings = super().sweep(params, cache, dA_out, probe)
            return d_params, dA_out, readings

    net, loss, params, X, Y = arguments(own)
    wrong = WrongSum(Dense(N_IN), Dense(N_IN))
    for wrong_net, wrong_loss in (
        (net, WrongLoss()),
        (net.with_children([net.layers[0], WrongScale(), *net.layers[2:]]), loss),
        (Serial(Dense(N_IN), wrong, Dense(N_OUT), shape=(N_IN,)), loss),
    ):
        wrong_params = params if wrong_net.layers[-1] is net.layers[-1] else wrong_net.init(jax.random.key(0))[0]
        assert fbp.compare(wrong_net, wrong_loss, wrong_params, X, Y, cost_seconds=0).verdict == "FAIL"


def test_gradient_flow_is_measured(own):
    flow = fbp.flow.measure(own.net, own.loss, own.X, own.Y, seeds=2)
    assert flow.log10.dW.shape[-1] == len([layer for layer in list_layers(own.net) if isinstance(layer, Dense)])
    assert np.isfinite(flow.log10.dW).all()
    plain = fbp.mlp((WIDTH,) * 5, own.module.relu6)
    assert np.isfinite(fbp.flow.measure(plain, seeds=2).log10.dA).all()
