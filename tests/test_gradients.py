"""The case table x the properties of a backward pass.

Compiling is what these tests cost, so that all that is asked of a case in float64 is one program, run once a worker;
each property is then a test of its own that reads the result.
"""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, Case, M

import fbp
from fbp.tree import list_layers
from fbp.verify import differences

WEIGHTS = np.linspace(0.0, 2.0, M)


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request) -> Case:
    return request.param


def of_cases(cases):
    """A test of some rows only."""
    return pytest.mark.parametrize("case", cases, ids=str, indirect=True)


def manual(case: Case):
    return fbp.value_and_grad(case.net, case.loss)


def autodiff(case: Case, argnums=0):
    return jax.value_and_grad(partial(fbp.loss_value, case.net, case.loss), argnums)


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


def stack(trees):
    return jax.tree.map(lambda *xs: jnp.stack(xs), *trees)


def slopes_by_finite_differences(function, point, gradient):
    """Along the gradient of each leaf by itself, where the slope is the leaf's norm."""
    leaves, treedef = jax.tree.flatten(gradient)
    h = 1e-5
    unit = [leaf / jnp.maximum(jnp.linalg.norm(leaf.ravel()), 1e-30) for leaf in leaves]
    steps = [
        jnp.stack([(i == j) * sign * h * leaf for sign in (1, -1) for j in range(len(leaves))])
        for i, leaf in enumerate(unit)
    ]
    values = jax.vmap(lambda d: function(*jax.tree.map(jnp.add, point, d)))(jax.tree.unflatten(treedef, steps))
    ahead, behind = jnp.split(values, 2)
    return (ahead - behind) / (2 * h)


def program(case: Case):
    """One function (params, other parameters, X, Y, key) -> everything that is compared in float64."""
    net = case.net

    def compute(params, other, X, Y, key):
        loss_of = lambda params, X: fbp.loss_value(net, case.loss, params, X, Y, WEIGHTS, key)
        step = lambda params: manual(case)(params, X, Y, WEIGHTS, key)
        out, cache = net.forward(params, X, key)
        value, d_params = step(params)
        gradient = (d_params, net.backward(params, cache, case.loss.value_and_dZ(out, Y, WEIGHTS)[1])[1])

        u, v = wave((params, X)), wave(out)
        backward = net.backward(params, cache, v)
        function = lambda params, X: net.forward(params, X, key)[0]
        return {
            "step": (value, d_params),
            "gradient": gradient,
            "autodiff": autodiff(case, (0, 1))(params, X, Y, WEIGHTS, key),
            "backward": backward,
            "vjp": jax.vjp(function, params, X)[1](v),
            "adjoint": (inner(u, backward), inner(jax.jvp(function, (params, X), u)[1], v)),
            "slopes": slopes_by_finite_differences(loss_of, (params, X), gradient),
            "norms": jnp.stack([jnp.linalg.norm(leaf.ravel()) for leaf in jax.tree.leaves(gradient)]),
            "vmapped": jax.vmap(step)(stack([params, other])) if jax.tree.leaves(params) else None,
            "halves": _halves(net, params, X, v),
        }

    return jax.jit(compute)


def _halves(net, params, X, v):
    """Each half of the batch by itself, without a key."""
    halved = lambda x: x.reshape(2, -1, *x.shape[1:])
    backward = lambda X, dA: net.backward(params, net.forward(params, X)[1], dA)
    return jax.vmap(backward)(halved(X), halved(v))


@pytest.fixture(scope="module")
def in_float64(case):
    """The program's results at the case's parameters, and those of the step at others."""
    with jax.enable_x64(True):
        params, *batch = case.batch(jnp.float64)
        other = jax.tree.map(lambda p: np.asarray(p) + 0.1, params)
        run = program(case)
        found = jax.device_get(run(params, other, *batch))
        elsewhere = jax.device_get(run(other, params, *batch))
    return SimpleNamespace(**found, elsewhere=elsewhere["step"])


def test_equals_autodiff_in_float64(in_float64):
    value, expected = in_float64.autodiff
    assert abs(in_float64.step[0] - value) <= 1e-14 * abs(value)
    assert_leaves_close(in_float64.gradient, expected, 1e-12)


def test_equals_autodiff_for_any_cotangent(in_float64):
    assert_leaves_close(in_float64.backward, in_float64.vjp, 1e-12)


def test_adjoint_identity(in_float64):
    backward_side, forward_side = in_float64.adjoint
    np.testing.assert_allclose(backward_side, forward_side, rtol=1e-11, atol=1e-13)


def test_finite_differences(in_float64):
    np.testing.assert_allclose(in_float64.slopes, in_float64.norms, rtol=1e-6, atol=1e-8)


@of_cases([case for case in CASES if list_layers(case.net)])
def test_vmap_over_parameters(in_float64):
    expected = jax.tree.map(lambda *xs: np.stack(xs), in_float64.step, in_float64.elsewhere)
    assert len(jax.tree.leaves(expected)) > 1, "a value and at least one parameter"
    assert_leaves_close(in_float64.vmapped, expected, 1e-12)


@of_cases([case for case in CASES if not case.keyed and not case.mixes_examples])
def test_batch_split(in_float64):
    """Gradients of parameters add over a split of the batch, gradients of inputs stand side by side."""
    (whole, dA_in), (halves, dA_halves) = in_float64.backward, in_float64.halves
    assert_leaves_close(jax.tree.map(lambda x: x.sum(axis=0), halves), whole, 1e-12)
    np.testing.assert_allclose(dA_halves.reshape(dA_in.shape), dA_in, rtol=1e-12, atol=1e-14)


@of_cases([case for case in CASES if case.mixes_examples])
def test_batch_statistics_tie_examples_together(in_float64):
    (_, dA_in), (_, dA_halves) = in_float64.backward, in_float64.halves
    assert np.max(np.abs(dA_halves.reshape(dA_in.shape) - dA_in)) > 1e-3


def test_equals_autodiff_in_float32(case, in_float64):
    """Within 1e-5, or closer to float64 than autodiff is; a leaf that is zero by symmetry, within rounding of all."""
    both = jax.jit(lambda *batch: (manual(case)(*batch)[1], autodiff(case)(*batch)[1]))
    params, X, Y, key = case.batch(jnp.float32)
    found, expected = both(params, X, Y, WEIGHTS.astype(np.float32), key)
    exact, _ = in_float64.gradient
    whole = scale(exact)
    rows = (differences(found, expected), differences(found, exact), differences(expected, exact))
    for leaf, ours, autodiffs in zip(*rows, strict=True):
        zero = ours.norm_ref <= 1e-12 * whole and ours.error <= 1e-6 * whole
        assert leaf.error <= 1e-5 * leaf.norm_ref or ours.error <= autodiffs.error or zero, (leaf, ours, autodiffs)


@of_cases(CASES[::8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_compare_passes(case, dtype):
    params, X, Y, key = case.batch(dtype)
    comparison = fbp.compare(case.net, case.loss, params, X, Y, key=key, cost_seconds=0)
    assert comparison.verdict == "PASS", f"\n{comparison}"


@of_cases(CASES[2::5])
def test_sharded_over_eight_devices(case):
    assert jax.device_count() == 8
    params, X, Y, key = case.batch(jnp.float32)
    X, Y = (np.concatenate([x, x, x, x]) for x in (X, Y))
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


def test_structure_and_dtypes_are_those_of_autodiff(case):
    params, X, Y, key = case.batch("bfloat16")
    found = jax.eval_shape(manual(case), params, X, Y, None, key)
    expected = jax.eval_shape(autodiff(case), params, X, Y, None, key)
    assert found == expected
