"""Programs that are hard to differentiate: odd loops, branches and recomputation inside of each other, own rules."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import fbp

pytestmark = pytest.mark.usefixtures("standard_promotion")
policies = jax.checkpoint_policies


def scan(step, init, xs, **options):
    return lax.scan(step, init, xs, **options)


def recomputed(policy, x, **options):
    inner = jax.checkpoint(lambda x: jnp.sin(jnp.sin(x) @ x.T), policy=policy, **options)
    return jnp.sum(inner(x))


def choose(v, s, taken):
    return lax.cond(v[0] > 0, taken, lambda s: s * 2.0, s)


@jax.custom_gradient
def sevenfold(y):
    return y * 2, lambda g: g * 7


PROGRAMS = {
    "checkpoint, dots": partial(recomputed, policies.dots_saveable),
    "checkpoint, everything": partial(recomputed, policies.everything_saveable),
    "checkpoint, nothing": partial(recomputed, policies.nothing_saveable),
    "checkpoint, no barrier": partial(recomputed, policies.dots_with_no_batch_dims_saveable, prevent_cse=False),
    "checkpoint in jit in checkpoint": jax.checkpoint(jax.jit(lambda x: jax.checkpoint(jnp.tanh)(jnp.sin(x)) * x)),
    "no steps": lambda x: scan(lambda s, v: (s * v, s), x[0], x[:0])[0],
    "one step": lambda x: scan(lambda s, v: (s * v, s), x[0], x[:1])[1],
    "all steps unrolled": lambda x: scan(lambda s, v: (s * v, s), x[0], x, unroll=True)[1],
    "whole numbers carried": lambda x: scan(lambda s, v: ((s[0] + 1, s[1] * v + s[0]), s[0]), (0, x[0]), x)[0][1],
    "booleans carried": lambda x: scan(
        lambda s, v: ((v[0] > 0, jnp.where(s[0], s[1] * v, s[1])), None), (True, x[0]), x
    )[0][1],
    "keys carried": lambda x: scan(
        lambda s, v: ((jax.random.split(s[0])[0], s[1] + v * jax.random.normal(s[0], v.shape)), None),
        (jax.random.key(0), x[0]),
        x,
    )[0][1],
    "carries change places": lambda x: jnp.stack(scan(lambda s, v: ((s[1], s[0] * v), None), (x[0], x[1]), x)[0]),
    "a carry that is not used": lambda x: scan(lambda s, v: ((s[0] * v, jnp.sin(s[1])), None), (x[0], x[1]), x)[0][0],
    "constant outputs": lambda x: scan(lambda s, v: (s, 1.0), x[0], x)[1].sum() * x,
    "slices that are not used": lambda x: scan(lambda s, v: (s + 1.0, v * 2), x[0], x)[0],
    "weakly typed carry": lambda x: scan(lambda s, v: (s * 1.5 + v.sum(), None), 0.0, x)[0],
    "a loop in a loop": lambda x: scan(
        lambda s, v: (scan(lambda t, u: (t * jnp.tanh(x @ u).sum(), None), s, x)[0] + v, None), x[0], x
    )[0],
    "a choice in a loop": lambda x: scan(lambda s, v: (choose(v, s, lambda s: jnp.sin(s * v)), s), x[0], x)[1],
    "recomputed in a choice in a loop": lambda x: scan(
        lambda s, v: (choose(v, s, jax.checkpoint(lambda s: jnp.sin(jnp.exp(s * v)))), s), x[0], x
    )[1],
    "four branches in a loop": lambda x: scan(
        lambda s, i: (
            lax.switch(i, [jnp.sin, jnp.cos, lambda s: s**2 * x[0], lambda s: jnp.exp(s) @ x.T @ x], s),
            None,
        ),
        x[0],
        jnp.arange(4),
    )[0],
    "a choice of constants": lambda x: lax.cond(x[0, 0] > 0, lambda x: 1.0, lambda x: 2.0, x) * x,
    "a choice of each example": lambda x: jax.vmap(lambda v: lax.cond(v[0] > 0, jnp.sin, jnp.cos, v))(x),
    "a loop of each example that gets no gradient": lambda x: (
        jax.vmap(lambda n: lax.while_loop(lambda s: s < n, lambda s: s + 1.0, 0.0))(lax.stop_gradient(x[:, 0]))
        * x[:, 1]
    ),
    "steps counted by a value": lambda x: lax.fori_loop(0, jnp.int32(3), lambda i, s: s * 2, 1.0) * x,
    "slices by a counter": lambda x: lax.fori_loop(
        0, 4, lambda i, s: s + lax.dynamic_index_in_dim(x, i, 0, False) ** 2 * s.sum(), x[0]
    ),
    "written in a loop": lambda x: scan(
        lambda s, i: (s.at[i].set(s[i] * s[(i + 1) % 4].sum()), None), x, jnp.arange(4)
    )[0],
    "mapped in batches": lambda x: lax.map(lambda v: jnp.sin(v).sum(), x, batch_size=3),
    "a callback": lambda x: (jax.debug.callback(lambda v: None, x), x)[1] ** 2,
    "a callback in a loop": lambda x: scan(
        lambda s, v: ((jax.debug.callback(lambda v: None, s), s * v)[1], None), x[0], x
    )[0],
    "forward mode inside": lambda x: jax.jvp(jnp.sin, (x,), (x,))[1],
    "gradient descent in a loop": lambda x: scan(
        lambda s, v: (s - 0.1 * jax.grad(lambda w: jnp.sum((w * v - 1) ** 2))(s), None), x[0], x
    )[0],
    "gradient of a function with a rule": lambda x: jax.grad(lambda y: jax.nn.relu(y).sum() ** 2)(x),
    "a rule of its own in a loop": lambda x: scan(lambda s, v: (sevenfold(s) * v, None), x[0], x)[0],
    "complex numbers inside": lambda x: jnp.abs(jnp.linalg.det(x[:3] + 1j * x[1:4])),
    "a batch of matrices": lambda x: jnp.linalg.inv(jnp.stack([x[:3], x[1:] * 2])),
    "half precision inside": lambda x: x.astype(jnp.bfloat16).astype(jnp.float32).sum().astype(x.dtype),
    "bits": lambda x: lax.bitcast_convert_type(x, jnp.int64) % 2 * x,
    "nothing at all": lambda x: jnp.zeros(3) + x[:0].sum(),
}


@pytest.fixture
def x(x64):
    return jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))


@pytest.mark.parametrize("name", PROGRAMS)
def test_compiled_and_for_each_example(name, x):
    loss = lambda x: jnp.sum(jnp.sin(PROGRAMS[name](x)))
    ours, theirs = fbp.graph.value_and_grad(loss), jax.value_and_grad(loss)
    xs = jnp.stack([x, 0.7 * x])
    both = jax.jit(lambda x, xs: [(g(x), jax.vmap(g)(xs)) for g in (ours, theirs)])
    for a, b in zip(*map(jax.tree.leaves, both(x, xs)), strict=True):
        assert a.dtype == b.dtype
        assert np.allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", list(PROGRAMS)[::3])
def test_in_a_graph(name, x):
    loss = lambda x: jnp.sum(jnp.sin(PROGRAMS[name](x)))
    gradient = fbp.graph.trace(loss, x).backward()["x"].gradient
    assert np.allclose(0 if gradient is None else gradient, jax.grad(loss)(x), rtol=1e-12, atol=1e-12)
