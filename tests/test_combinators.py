"""Combinators and whole networks inside JAX: transformations, checkpoints, memory, caches, probes."""

import itertools
from dataclasses import dataclass
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp import Activation, Checkpoint, Dense, Dropout, Repeat, Residual, Serial
from fbp.cotangent import log10_norm
from fbp.tree import roll_blocks, unstack

LOSS = fbp.SoftmaxCrossEntropy()
NET = fbp.mlp((5, 6, 6, 6, 4), "gelu", dropout=0.3, repeat=True)


@pytest.fixture(scope="module")
def batch():
    """(params, X, Y, key) for a network of 5 inputs and 4 outputs."""
    draw = np.random.default_rng(0)
    X = draw.standard_normal((8, 5), np.float32)
    return NET.init(jax.random.key(0))[0], X, np.arange(8) % 4, jax.random.key(1)


def task(function, params, X, Y, key=None):
    """The network as a part of ordinary JAX code, on both sides of it."""
    Z = function(params, jnp.sin(X), key)
    return jnp.mean(jnp.square(Z - jax.nn.one_hot(Y, 4))) + 0.1 * jnp.sum(jnp.square(params[0]["W"]))


def plain(params, A, key=None):
    return NET.forward(params, A, key)[0]


by_hand, by_autodiff = fbp.as_function(NET), plain


def gradients(function):
    """Of the task under each transformation: (name -> gradient) of params, X, Y, key."""
    loss = partial(task, function)
    gradient = jax.grad(loss, argnums=(0, 1))

    def compute(params, X, Y, key):
        def descend(params, _):
            return jax.tree.map(lambda p, d: p - 0.1 * d, params, jax.grad(loss)(params, X, Y, key)), None

        return {
            "grad": gradient(params, X, Y, key),
            "vmap": jax.vmap(lambda x, y: gradient(params, x[None], y[None]))(X, Y),
            "scan over steps": jax.lax.scan(descend, params, length=3)[0],
            "remat": jax.grad(jax.checkpoint(loss), argnums=(0, 1))(params, X, Y, key),
        }

    return jax.jit(compute)


@pytest.fixture(scope="module")
def both_gradients(batch):
    with jax.enable_x64(True):
        params, X, Y, key = batch
        wide = fbp.cast((params, jnp.asarray(X)), jnp.float64)
        return [jax.device_get(gradients(function)(*wide, Y, key)) for function in (by_hand, by_autodiff)]


@pytest.mark.parametrize("name", ["grad", "vmap", "scan over steps", "remat"])
def test_as_function_under(name, both_gradients):
    found, expected = (each[name] for each in both_gradients)
    chex.assert_trees_all_close(found, expected, rtol=1e-11, atol=1e-14)


def test_as_function_takes_the_hand_written_backward(batch):
    class Doubled(Dense):
        def backward(self, params, cache, dA_out):
            d_params, dA_in = super().backward(params, cache, dA_out)
            return d_params, 2 * dA_in

    params, _ = Doubled(3).init(jax.random.key(0), (5,))
    slopes = [
        jax.grad(lambda X, f=f: f(params, X).sum())(batch[1])
        for f in (fbp.as_function(Doubled(3)), fbp.as_function(Dense(3)))
    ]
    np.testing.assert_allclose(slopes[0], 2 * slopes[1])


def test_as_function_refuses_forward_mode(batch):
    params, X, _, _ = batch
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda X: by_hand(params, X), (X,), (X,))


def test_as_function_sharded_over_eight_devices(batch):
    params, X, Y, _ = batch
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    by_example = jax.NamedSharding(mesh, jax.P("data"))
    step = jax.jit(jax.grad(partial(task, by_hand)))
    found = step(jax.device_put(params, jax.NamedSharding(mesh, jax.P())), *jax.device_put((X, Y), by_example))
    chex.assert_trees_all_close(jax.device_get(found), step(params, X, Y), rtol=1e-5, atol=1e-6)


def test_compiled_once_for_all_parameters_and_batches(batch):
    params, X, Y, key = batch
    step = jax.jit(chex.assert_max_traces(fbp.value_and_grad(NET, LOSS), n=1))
    for factor in (1.0, 2.0, 3.0):
        step(jax.tree.map(lambda p, c=factor: np.float32(c) * p, params), factor * X, Y, None, key)


def test_equal_networks_share_their_compilation():
    @partial(jax.jit, static_argnums=0)
    @partial(chex.assert_max_traces, n=1)
    def width(net, x):
        return x

    for _ in range(2):
        width(fbp.mlp((5, 6, 6, 4), "leaky_relu(0.2)", "mean_field(1.5)", norm="layer", repeat=True), 1.0)


BLOCK = Serial(Activation("gelu"), Dropout(0.3), Dense(6))
CHECKPOINTED = {
    "segments of 2": Repeat(BLOCK, 5, checkpoint=2),
    "segments of 1": Repeat(BLOCK, 5, checkpoint=1),
    "one segment": Repeat(BLOCK, 5, checkpoint=5),
    "longer than the depth": Repeat(BLOCK, 5, checkpoint=8),
    "each block": Repeat(Checkpoint(BLOCK), 5),
    "around": Checkpoint(Repeat(BLOCK, 5)),
}


@cache
def checkpointed(name):
    """Value and cotangents of the same network under a way to checkpoint it."""
    net = CHECKPOINTED.get(name, Repeat(BLOCK, 5))
    with jax.enable_x64(True):
        draw = np.random.default_rng(0)
        params = ((), (), {"W": draw.normal(size=(5, 6, 6)) / 6**0.5, "b": draw.normal(size=(5, 6))})

        def run(params, A, key):
            out, cache = net.forward(params, A, key)
            return out, net.backward(params, cache, jnp.cos(out))

        return jax.device_get(jax.jit(run)(params, draw.normal(size=(8, 6)), jax.random.key(1)))


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_checkpoint_changes_neither_value_nor_gradient(name):
    chex.assert_trees_all_close(checkpointed(name), checkpointed("plain"), rtol=1e-13, atol=1e-15)


def test_no_key_no_dropout():
    net = Serial(Dropout(0.5), Checkpoint(Dropout(0.5)), Repeat(Dropout(0.5), 2))
    params, _ = net.init(jax.random.key(0), (3,))
    np.testing.assert_array_equal(net.forward(params, jnp.ones((2, 3)))[0], 1.0)


@pytest.mark.parametrize("x64", [False, True])
def test_dropout_keeps_its_share_and_its_mean(x64):
    with jax.enable_x64(x64):
        out = np.asarray(Dropout(0.25).forward((), jnp.ones((200, 200)), jax.random.key(0))[0])
    np.testing.assert_allclose(np.unique(out), [0, 1 / 0.75], rtol=1e-6)
    assert abs((out == 0).mean() - 0.25) < 5 * (0.25 * 0.75 / out.size) ** 0.5


def test_dropout_draws_the_same_mask_in_every_precision():
    """The float64 judge of a float32 gradient must see the same network."""
    masks = []
    for x64 in (False, True):
        with jax.enable_x64(x64):
            out, _ = Dropout(0.5).forward((), jnp.ones((4, 5), jnp.float32), jax.random.key(0))
            masks.append(np.asarray(out) > 0)
    np.testing.assert_array_equal(*masks)


def test_copies_of_repeat_draw_different_masks():
    net = Repeat(Dropout(0.5), 3)
    _out, cache = net.forward((), jnp.ones((4, 5)), jax.random.key(0))
    (masks,) = net.split_cache((), cache)
    assert len({mask.tobytes() for mask in np.asarray(masks)}) == 3


CACHES = {
    "relu": (Serial(Activation("relu"), Dense(6)), 1),
    "gelu": (Serial(Activation("gelu"), Dense(6)), 1),
    "rms norm, gelu, recomputed from the input and its r": (Serial(fbp.RMSNorm(), Activation("gelu"), Dense(6)), 2),
    "residual": (Residual(Serial(Activation("tanh"), Dense(6))), 1),
    "dropout": (Serial(Activation("relu"), Dropout(0.5), Dense(6)), 3),
    "affine": (Serial(fbp.Affine(), Activation("tanh"), Dense(6)), 2),
}


@pytest.mark.parametrize(("block", "arrays"), CACHES.values(), ids=CACHES)
def test_each_array_is_cached_once(block, arrays):
    """Activation and dense: one array a layer. What stands in the cache twice a scan would store twice."""

    def cache_of(key):
        net = Repeat(block, 3)
        params, _ = net.init(key, (6,))
        return net.forward(params, jnp.ones((8, 6)), key)[1]

    cache = jax.eval_shape(cache_of, jax.random.key(0))
    assert len(jax.tree.leaves(cache)) == arrays
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(cache))


WIDTH, DEPTH = 64, 256


def temporary_bytes(function, *arguments) -> int:
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def autodiff_over_scan(name):
    """What a user of JAX would write: `jax.grad` over `lax.scan`."""

    def loss(params, X, Y):
        layer = lambda A, p: (activation_in_jax[name](A) @ p["W"] + p["b"][None], None)
        Z, _ = jax.lax.scan(layer, X, params)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(Z), Y[:, None], axis=1))

    return jax.value_and_grad(loss)


activation_in_jax = {"tanh": jnp.tanh, "gelu": partial(jax.nn.gelu, approximate=False)}


MEMORY = [("tanh", None, 0.55), ("gelu", None, 0.30), ("tanh", 16, 0.15), ("gelu", 16, 0.15)]


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(("name", "checkpoint", "share"), MEMORY)
def test_memory_of_the_backward_pass(name, checkpoint, share):
    block = Serial(Activation(name), Dense(WIDTH))
    net = Repeat(block, DEPTH, checkpoint=checkpoint)
    f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    X, Y = f32(WIDTH, WIDTH), jax.ShapeDtypeStruct((WIDTH,), jnp.int32)
    weights = {"W": f32(DEPTH, WIDTH, WIDTH), "b": f32(DEPTH, WIDTH)}
    ours = temporary_bytes(fbp.value_and_grad(net, LOSS), ((), weights), X, Y)
    assert ours <= share * temporary_bytes(autodiff_over_scan(name), weights, X, Y)


def norms(visit):
    return None if not isinstance(visit.layer, Dense) else log10_norm(visit.d_params["W"])


PROBED = {
    "repeat": Serial(Dense(6), Repeat(Serial(Activation("tanh"), Dense(6)), 3), Dense(4)),
    "checkpoint": Serial(Dense(6), Repeat(Serial(Activation("tanh"), Dense(6)), 3, checkpoint=2), Dense(4)),
    "residual": Serial(Dense(6), Repeat(Residual(Serial(Activation("tanh"), Dense(6)), 0.5), 3), Dense(4)),
    "checkpoint of residual": Serial(
        Dense(6), Repeat(Checkpoint(Residual(Serial(Activation("gelu"), Dense(6)))), 3), Dense(4)
    ),
}


@pytest.mark.parametrize("net", PROBED.values(), ids=PROBED)
def test_readings_of_a_probe_have_the_shape_of_the_network(net, batch):
    _, X, Y, _ = batch
    params, _ = net.init(jax.random.key(0), (5,))
    probed = jax.jit(fbp.value_and_grad(net, LOSS, probe=norms))
    (value, readings), d_params = probed(params, X, Y)
    first, (none, hidden), last = readings
    assert none is None
    assert (first.shape, hidden.shape, last.shape) == ((), (3,), ())
    trace = fbp.trace(net, LOSS, params, X, Y)
    found = 10 ** np.concatenate([first[None], hidden, last[None]])
    np.testing.assert_allclose(found, [np.linalg.norm(dW) for dW in trace.dW.values()], rtol=1e-5)
    chex.assert_trees_all_close((value, d_params), (trace.value, trace.d_params), rtol=1e-6)


def test_a_probe_sees_each_layer_with_its_cotangents(batch):
    """The dA_in of a layer is the dA_out of the one before it."""
    _, X, Y, _ = batch
    net = Serial(Dense(6), Activation("tanh"), Dense(4))
    params, _ = net.init(jax.random.key(0), (5,))
    see = lambda visit: (visit.dA_out, visit.dA_in)
    (_, readings), _ = fbp.value_and_grad(net, LOSS, probe=see)(params, X, Y)
    for before, after in itertools.pairwise(readings):
        np.testing.assert_array_equal(before[0], after[1])


@pytest.mark.parametrize(
    ("X", "Y", "said"),
    [
        (np.ones((8, 5), int), np.zeros(8, int), "X must be floating point, got int"),
        (np.ones(5, np.float32), np.zeros(5, int), "got X (5,)"),
        (np.ones((8, 5), np.float32), np.zeros(7, int), "got X (8, 5) and Y (7,)"),
        (np.ones((0, 5), np.float32), np.zeros(0, int), "at least one, got X (0, 5)"),
        (
            np.ones((8, 3), np.float32),
            np.zeros(8, int),
            "the shape (..., 5), because W is (5, 6), got (8, 3)",
        ),
    ],
)
def test_batches_refused(X, Y, said, batch):
    with pytest.raises(fbp.FbpError) as error:
        fbp.value_and_grad(NET, LOSS)(batch[0], X, Y)
    assert said in str(error.value)


DENSE = fbp.mlp((5, 6, 4))
GOOD = jax.eval_shape(lambda: DENSE.init(jax.random.key(0))[0])


def zeros(tree):
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        (zeros(GOOD[:1]), "got no params[2]['W'], no params[2]['b'];"),
        (zeros((*GOOD, GOOD[0])), "got an unexpected params[3]['W'], an unexpected params[3]['b'];"),
        (zeros(({"W": GOOD[0]["W"]}, *GOOD[1:])), "got no params[0]['b'];"),
        (list(zeros(GOOD)), "got other containers"),
        (
            zeros(({"W": GOOD[0]["W"], "b": GOOD[2]["b"]}, *GOOD[1:])),
            "params[0]['b'] must have the shape (6,) in Dense",
        ),
    ],
)
def test_parameters_refused(params, said):
    X, Y = np.ones((8, 5), np.float32), np.zeros(8, int)
    for call in (
        lambda: fbp.value_and_grad(DENSE, LOSS)(params, X, Y),
        lambda: fbp.log10_gradient_norms(DENSE, LOSS)(params, X, Y),
        lambda: fbp.trace(DENSE, LOSS, params, X, Y),
        lambda: fbp.loss_value(DENSE, LOSS, params, X, Y),
        lambda: fbp.as_function(DENSE)(params, X),
    ):
        with pytest.raises(fbp.FbpError) as error:
            call()
        assert said in str(error.value)
        assert "net.init" in str(error.value)


@dataclass(frozen=True)
class Halve(fbp.Layer):
    def init(self, key, shape):
        return (), (shape[0] // 2,)

    def forward(self, params, A, key=None):
        return A[..., ::2], A

    def backward(self, params, cache, dA_out):
        return (), jnp.zeros_like(cache).at[..., ::2].set(dA_out)


@pytest.mark.parametrize(
    ("net", "children"),
    [
        (fbp.mlp((5,) * 9, "tanh"), 2),
        (fbp.mlp((7, *[5] * 9, 2), "tanh", norm="layer"), 5),
        (fbp.mlp((5,) * 11, ["tanh", "relu"] * 4 + ["gelu"]), 4),
        (fbp.mlp((7, *[5] * 6, 2), "relu", norm="batch", residual=0.5), 5),
        (fbp.Serial(*[fbp.Dense(5)] * 6, fbp.Activation("tanh"), shape=(5,)), 2),
        (fbp.Serial(fbp.Residual(fbp.Serial(*[fbp.Dense(5), fbp.Activation("tanh")] * 5)), shape=(5,)), 1),
        (fbp.mlp((5,) * 9, "tanh", repeat=True), 2),
        (fbp.mlp((7, 6, 5, 4), "tanh"), 5),
        # Neighbours that are equal, but do not keep the shape.
        (fbp.Serial(fbp.Dense(8), Halve(), Halve(), fbp.Dense(4), shape=(8,)), 4),
    ],
)
def test_rolled_is_the_same_function_of_the_same_layers(net, children):
    keys = jax.random.split(jax.random.key(0), 3)
    params = jax.vmap(lambda key: net.init(key)[0])(keys)
    X = jax.random.normal(jax.random.key(1), (4, *net.shape))
    loop, loop_params = roll_blocks(net, params, X, axis=1)
    assert len(loop.children) == children
    one, loop_one = (jax.tree.map(lambda x: x[1], tree) for tree in (params, loop_params))
    np.testing.assert_allclose(loop.forward(loop_one, X)[0], net.forward(one, X)[0], rtol=1e-5, atol=1e-6)
    ours, theirs = (list(unstack(*pair)) for pair in ((net, one), (loop, loop_one)))
    assert [layer for layer, _ in ours] == [layer for layer, _ in theirs]
    jax.tree.map(np.testing.assert_array_equal, [p for _, p in ours], [p for _, p in theirs])
