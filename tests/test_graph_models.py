"""Reverse mode by local rules in whole models: ours, Flax's and Equinox's; and what it costs beside `jax.grad`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from jax import lax

import fbp

pytestmark = pytest.mark.usefixtures("standard_promotion")

OURS = (
    *("one activation a layer", "leaky relu 0.3", "low rank", "label smoothing", "rms norm", "residual of residual"),
    *("dropout in repeat", "batch norm in repeat", "repeat, keeps input", "repeat, checkpoint 2 of 5"),
    *("attention", "attention, lean, blocks", "cross attention", "repeat with a memory, checkpoint", "gpt2"),
)


def assert_same_gradient(loss, params, *data, rounding=1e-12):
    both = jax.jit(lambda *a: (fbp.graph.value_and_grad(loss)(*a), jax.value_and_grad(loss)(*a)))
    (value, ours), (expected, theirs) = both(params, *data)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert abs(value - expected) <= rounding * max(1.0, abs(expected))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), path
        assert np.max(np.abs(a - b), initial=0) <= rounding * np.max(np.abs(b), initial=1.0), path


def modern_gpt():
    return fbp.gpt(7, 5, width=8, depth=2, heads=2, style="modern", key_value_heads=1)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in OURS], ids=str)
def test_networks_of_ours(case, x64):
    params, X, Y, key = case.batch(jnp.float64)
    loss = lambda params, X, Y: fbp.loss_value(case.net, case.loss, params, X, Y, None, key)
    assert_same_gradient(loss, params, X, Y)


def test_a_modern_transformer_of_ours(x64):
    net = modern_gpt()
    params = fbp.cast(net.init(jax.random.key(0))[0], jnp.float64)
    tokens = np.arange(15, dtype=np.int32).reshape(3, 5) % 7
    loss = lambda params: fbp.loss_value(net, fbp.SoftmaxCrossEntropy(), params, tokens, np.roll(tokens, -1, 1))
    assert_same_gradient(loss, params)


def test_functions_with_rules_of_ours(x64):
    """A hand-written backward pass stays the derivative of its function."""
    F = fbp.functional
    x, W, b = (jnp.asarray(np.random.default_rng(i).normal(size=s)) for i, s in enumerate([(6, 4), (4, 4), (4,)]))
    loss = lambda W: jnp.sum(F.layer_norm(F.dense(x, W, b, "gelu"), b, b) ** 2)
    assert_same_gradient(loss, W)


def flax_models():
    nn = pytest.importorskip("flax.linen", reason="flax of the extra 'peers' is not installed")

    class Convolutional(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.max_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))
            x = nn.avg_pool(nn.gelu(nn.Conv(6, (3, 3), strides=2, feature_group_count=2)(x)), (2, 2))
            return nn.Dense(3)(nn.LayerNorm()(x.reshape(x.shape[0], -1)))

    class Transformer(nn.Module):
        @nn.compact
        def __call__(self, x):
            mask = nn.make_causal_mask(x[..., 0])
            x = x + nn.MultiHeadDotProductAttention(2)(nn.RMSNorm()(x), mask=mask)
            return x + nn.remat(nn.Dense)(x.shape[-1])(nn.silu(nn.Dense(12)(nn.LayerNorm()(x))))

    class Recurrent(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(
                nn.RNN(nn.OptimizedLSTMCell(5, param_dtype=jnp.float64))(x)
                + nn.RNN(nn.GRUCell(5, param_dtype=jnp.float64), reverse=True)(x)
            )

    return [(Convolutional(), (2, 8, 8, 2)), (Transformer(), (2, 5, 8)), (Recurrent(), (2, 6, 3))]


@pytest.mark.parametrize("place", range(3))
def test_models_of_flax(place, x64):
    model, shape = flax_models()[place]
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    params = fbp.cast(jax.jit(model.init)(jax.random.key(0), x), jnp.float64)
    assert_same_gradient(lambda params: jnp.sum(jnp.sin(model.apply(params, x))), params)


@pytest.mark.parametrize("name", ["convolutional", "transformer", "recurrent"])
def test_models_of_equinox(name, x64):
    eqx = pytest.importorskip("equinox", reason="equinox of the extra 'peers' is not installed")
    keys = jax.random.split(jax.random.key(0), 4)
    normal = lambda *shape: jnp.asarray(np.random.default_rng(0).normal(size=shape))
    if name == "convolutional":
        layers = [
            eqx.nn.Conv2d(2, 4, 3, key=keys[0]),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.ConvTranspose2d(4, 3, 2, key=keys[1]),
        ]
        model, x = eqx.nn.Sequential([*layers, eqx.nn.Lambda(jax.nn.gelu), eqx.nn.GroupNorm(3, 3)]), normal(2, 2, 9, 9)
        apply = lambda model, x: jax.vmap(model)(x)
    elif name == "transformer":
        model = (eqx.nn.MultiheadAttention(2, 6, key=keys[0]), eqx.nn.LayerNorm(6), eqx.nn.MLP(6, 6, 8, 2, key=keys[1]))
        x = normal(5, 6)

        def apply(model, x):
            attention, norm, mlp = model
            h = jax.vmap(norm)(x)
            return jax.vmap(mlp)(x + attention(h, h, h, mask=jnp.tril(jnp.ones((5, 5), bool))))

    else:
        model, x = eqx.nn.GRUCell(3, 4, key=keys[0]), normal(7, 3)
        apply = lambda cell, x: lax.scan(lambda h, v: (cell(v, h), h), jnp.zeros(4), x)[1]
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    arrays = fbp.cast(arrays, jnp.float64)
    assert_same_gradient(lambda arrays: jnp.sum(apply(eqx.combine(arrays, static), x) ** 2), arrays)


def scan_of(cell):
    def loss(W, x):
        return jnp.sum(lax.scan(lambda h, W: (cell(h, W), h), x, W)[1] ** 2)

    return loss, (jax.ShapeDtypeStruct((20, 32, 32), "float32"), jax.ShapeDtypeStruct((64, 32), "float32"))


def recurrent(W, U, x):
    step = lambda h, v: (jnp.tanh(h @ W + v @ U),) * 2
    return jnp.sum(lax.scan(step, jnp.zeros((16, 32)), x)[1] ** 2)


def convolutional(filters, head, x):
    for w in filters:
        x = jax.nn.relu(lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return jnp.sum(jax.nn.logsumexp(x.reshape(x.shape[0], -1) @ head, axis=-1))


def branching(W, x, which):
    cells = [lambda x, W: jnp.tanh(x @ W), lambda x, W: jax.nn.gelu(x @ W), lambda x, W: x]
    return jnp.sum(lax.scan(lambda h, at: (lax.switch(at[1], cells, h, at[0]), None), x, (W, which))[0])


def of_ours(net, *shape):
    params = jax.eval_shape(lambda: net.init(jax.random.key(0))[0])
    loss = lambda params, X, Y: fbp.loss_value(net, fbp.SoftmaxCrossEntropy(), params, X, Y)
    return loss, (params, *shape)


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, "float32")


def whole(*shape):
    return jax.ShapeDtypeStruct(shape, "int32")


COSTS = {
    "mlp": lambda: of_ours(fbp.mlp((20, 64, 64, 64, 10), activation="gelu"), floats(64, 20), whole(64)),
    "gpt": lambda: of_ours(fbp.gpt(32, 16, 16, 1, 2), whole(4, 16), whole(4, 16)),
    "gpt, modern": lambda: of_ours(fbp.gpt(32, 16, 16, 1, 2, style="modern"), whole(4, 16), whole(4, 16)),
    "recurrent": lambda: (recurrent, (floats(32, 32), floats(8, 32), floats(30, 16, 8))),
    "convolutional": lambda: (
        convolutional,
        ([floats(3, 3, 1, 8), floats(3, 3, 8, 8)], floats(392, 10), floats(8, 28, 28, 1)),
    ),
    "branching": lambda: (branching, (floats(20, 32, 32), floats(64, 32), whole(20))),
    "tanh in a scan": lambda: scan_of(lambda h, W: jnp.tanh(h @ W)),
    "gelu in a scan": lambda: scan_of(lambda h, W: jax.nn.gelu(h @ W)),
    "remat in a scan": lambda: scan_of(jax.checkpoint(lambda h, W: jnp.tanh(jax.nn.silu(h @ W) @ W.T))),
}


@pytest.mark.parametrize("name", COSTS)
def test_costs_no_more_than_autodiff(name, optimized):
    loss, shapes = COSTS[name]()
    argnums = tuple(i for i, x in enumerate(shapes) if all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(x)))
    ours = fbp.cost.compile(fbp.graph.value_and_grad(loss, argnums), shapes)
    theirs = fbp.cost.compile(jax.value_and_grad(loss, argnums), shapes)
    assert ours.flops <= 1.01 * theirs.flops
    assert ours.temporary_bytes <= 1.01 * theirs.temporary_bytes
