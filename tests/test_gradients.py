"""The case table x the properties of a backward pass."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, Case, M

import fbp
from fbp.verify import differences

each_case = pytest.mark.parametrize("case", CASES, ids=str)


def manual(case: Case):
    return fbp.value_and_grad(case.net, case.loss)


def autodiff(case: Case):
    return jax.value_and_grad(partial(fbp.loss_value, case.net, case.loss))


def scale(tree) -> float:
    """The norm of a whole gradient."""
    return float(np.sqrt(sum(np.sum(np.square(np.asarray(x, np.float64))) for x in jax.tree.leaves(tree))))


def assert_leaves_close(found, wanted, relative: float):
    """Every leaf within a relative norm error, or within rounding of the whole where it is zero by symmetry."""
    floor = 1e-3 * relative * scale(wanted)
    for leaf in differences(found, wanted):
        assert leaf.error <= relative * leaf.norm_ref + floor, leaf


def wave(tree):
    """A fixed direction of the structure of a tree."""
    return jax.tree.map(lambda x: jnp.cos(1 + jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), tree)


def inner(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@each_case
def test_equals_autodiff_in_float64(case, x64):
    params, X, Y, key = case.batch(jnp.float64)
    weights = jnp.linspace(0.0, 2.0, M)
    both = jax.jit(lambda *batch: (manual(case)(*batch), autodiff(case)(*batch)))
    (value, found), (expected_value, expected) = both(params, X, Y, weights, key)
    assert abs(value - expected_value) <= 1e-14 * abs(expected_value)
    assert_leaves_close(found, expected, 1e-12)


@each_case
def test_input_gradient_and_adjoint_identity(case, x64):
    params, X, _, key = case.batch(jnp.float64)

    @jax.jit
    def sides(params, X):
        function = lambda params, X: case.net.forward(params, X, key)[0]
        out, cache = case.net.forward(params, X, key)
        u, v = wave((params, X)), wave(out)
        return (
            case.net.backward(params, cache, v),
            jax.vjp(function, params, X)[1](v),
            inner(jax.jvp(function, (params, X), u)[1], v),
            u,
        )

    found, expected, forward_side, u = sides(params, X)
    assert_leaves_close(found, expected, 1e-12)
    np.testing.assert_allclose(inner(u, found), forward_side, rtol=1e-11, atol=1e-13)


@each_case
def test_finite_differences(case, x64):
    params, X, Y, key = case.batch(jnp.float64)

    @jax.jit
    def slopes(params, X, Y):
        """Along the gradient of each leaf by itself, where the slope is the leaf's norm."""
        _, found = manual(case)(params, X, Y, None, key)
        leaves, treedef = jax.tree.flatten(found)
        norms = [jnp.linalg.norm(leaf.ravel()) for leaf in leaves]
        steps = [
            jnp.stack([leaf / jnp.maximum(norm, 1e-30) if i == j else jnp.zeros_like(leaf) for j in range(len(leaves))])
            for i, (leaf, norm) in enumerate(zip(leaves, norms, strict=True))
        ]

        def along(h, direction):
            return fbp.loss_value(case.net, case.loss, jax.tree.map(lambda p, d: p + h * d, params, direction), X, Y, None, key)

        h = 1e-5
        ahead, behind = (jax.vmap(lambda d, h=h: along(h, d))(jax.tree.unflatten(treedef, steps)) for h in (h, -h))
        return (ahead - behind) / (2 * h), jnp.stack(norms)

    if jax.tree.leaves(params):
        found, expected = slopes(params, X, Y)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@each_case
def test_compare_passes_in_float32(case):
    params, X, Y, key = case.batch(jnp.float32)
    comparison = fbp.compare(case.net, case.loss, params, X, Y, key=key, cost_seconds=0)
    assert comparison.verdict == "PASS", f"\n{comparison}"


@pytest.mark.parametrize("case", CASES[::4], ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_compare_passes_in_half_precision(case, dtype):
    params, X, Y, key = case.batch(dtype)
    comparison = fbp.compare(case.net, case.loss, params, X, Y, key=key, cost_seconds=0)
    assert comparison.verdict == "PASS", f"\n{comparison}"


@each_case
def test_vmap_over_parameters(case, x64):
    params, X, Y, key = case.batch(jnp.float64)
    others = [params, jax.tree.map(lambda p: p + 0.1, params)]
    step = lambda p: manual(case)(p, X, Y, None, key)[1]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *others)
    if jax.tree.leaves(params):
        found, *expected = jax.jit(lambda stacked, *others: (jax.vmap(step)(stacked), *map(step, others)))(stacked, *others)
        assert_leaves_close(found, jax.tree.map(lambda *xs: jnp.stack(xs), *expected), 1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if not case.keyed and not case.mixes_examples], ids=str)
def test_batch_split(case, x64):
    """Gradients of parameters add over a split of the batch, gradients of inputs stand side by side."""
    params, X, _, _ = case.batch(jnp.float64)
    backward = lambda X, dA: case.net.backward(params, case.net.forward(params, X)[1], dA)
    halved = lambda x: x.reshape(2, -1, *x.shape[1:])

    @jax.jit
    def whole_and_halves(X):
        dA = wave(case.net.forward(params, X)[0])
        return backward(X, dA), jax.vmap(backward)(halved(X), halved(dA))

    (whole, dA_in), (halves, dA_halves) = whole_and_halves(X)
    assert_leaves_close(jax.tree.map(lambda x: x.sum(axis=0), halves), whole, 1e-12)
    np.testing.assert_allclose(dA_halves.reshape(dA_in.shape), dA_in, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", [case for case in CASES if case.mixes_examples], ids=str)
def test_batch_statistics_tie_examples_together(case, x64):
    params, X, _, _ = case.batch(jnp.float64)
    forward = jax.jit(lambda X: case.net.forward(params, X)[0])
    assert jnp.max(jnp.abs(forward(X)[: M // 2] - forward(X[: M // 2]))) > 1e-3


@pytest.mark.parametrize("case", CASES[2::5], ids=str)
def test_sharded_over_eight_devices(case):
    assert jax.device_count() == 8
    params, X, Y, key = case.batch(jnp.float32)
    X, Y = (jnp.concatenate([x, x, x, x]) for x in (X, Y))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    by_example, everywhere = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in (("data",), ()))
    step = jax.jit(manual(case))
    value, found = step(
        jax.device_put(params, everywhere), jax.device_put(X, by_example), jax.device_put(Y, by_example), None, key
    )
    expected_value, expected = step(params, X, Y, None, key)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    for leaf in differences(found, expected):
        assert leaf.error <= 1e-5 * leaf.norm_ref + 1e-6 * scale(expected), leaf


@each_case
def test_structure_and_dtypes_are_those_of_autodiff(case):
    params, X, Y, key = case.batch("bfloat16")
    found = jax.eval_shape(manual(case), params, X, Y, None, key)
    expected = jax.eval_shape(autodiff(case), params, X, Y, None, key)
    assert found == expected
