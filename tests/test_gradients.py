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
from cases import CASES, Case

import fbp
from fbp.combinators import Combinator
from fbp.cotangent import Cotangent
from fbp.partition import combine, partition
from fbp.tree import list_layers
from fbp.verify import differences
from fbp.verify.structure import by_path


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request) -> Case:
    return request.param


def of_cases(cases):
    """A test of some rows only."""
    return pytest.mark.parametrize("case", cases, ids=str, indirect=True)


def shares(net) -> bool:
    """Whether a parameter has two uses, so that its gradient is no sum of one pair."""
    return isinstance(net, Combinator) and (net.shares_params or any(map(shares, net.children)))


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


def split_inputs(X):
    """The inputs that have a gradient, and the others: tokens and masks."""
    return partition(X, lambda x: jnp.issubdtype(x.dtype, jnp.floating))


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
    net, weights = case.net, case.item_weights

    def compute(params, other, X, Y, key):
        inputs, others = split_inputs(X)
        loss_of = lambda params, inputs: fbp.loss_value(
            net, case.loss, params, combine(inputs, others), Y, weights, key
        )
        step = lambda params: manual(case)(params, X, Y, weights, key)
        out, cache = net.forward(params, X, key)
        value, d_params = step(params)
        gradient = (d_params, net.backward(params, cache, case.loss.value_and_dZ(out, Y, weights)[1])[1])

        u, v = wave((params, inputs)), wave(out)
        *backward, pairs = net.sweep(params, cache, Cotangent(v), compare_pairs)
        backward = backward[0], backward[1].value
        function = lambda params, inputs: net.forward(params, combine(inputs, others), key)[0]
        return {
            "step": (value, d_params),
            "gradient": gradient,
            "autodiff": jax.value_and_grad(loss_of, (0, 1))(params, inputs),
            "backward": backward,
            "vjp": jax.vjp(function, params, inputs)[1](v),
            "adjoint": (inner(u, backward), inner(jax.jvp(function, (params, inputs), u)[1], v)),
            "slopes": slopes_by_finite_differences(loss_of, (params, inputs), gradient),
            "norms": jnp.stack([jnp.linalg.norm(leaf.ravel()) for leaf in jax.tree.leaves(gradient)]),
            "vmapped": jax.vmap(step)(stack([params, other])) if jax.tree.leaves(params) else None,
            "singles": _singles(net, params, X, v),
            "pairs": pairs,
        }

    return jax.jit(compute)


def compare_pairs(visit):
    """Of each parameter the sum of its pair, its gradient, and the squared norms of the gradients of examples."""
    if not visit.d_params:
        return None
    pairs = visit.layer.linear(visit.params, visit.cache, visit.dA_out)
    assert set(pairs) == set(visit.d_params)
    return {name: (pair.sum(), visit.d_params[name], pair.squared_norms()) for name, pair in pairs.items()}


def _singles(net, params, X, v):
    """Each example of the batch by itself, without a key."""
    alone = lambda tree: jax.tree.map(lambda x: x[:, None], tree)
    backward = lambda X, dA: net.backward(params, net.forward(params, X)[1], dA)
    return jax.vmap(backward)(alone(X), alone(v))


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


def side_by_side(tree):
    """The cotangents of inputs of batches of one, as one batch."""
    return jax.tree.map(lambda x: x[:, 0], tree)


@of_cases([case for case in CASES if not case.keyed and not case.mixes_examples])
def test_batch_split(in_float64):
    """Gradients of parameters add over batches of one, gradients of inputs stand side by side."""
    (whole, dA_in), (singles, dA_singles) = in_float64.backward, in_float64.singles
    assert_leaves_close(jax.tree.map(lambda x: x.sum(axis=0), singles), whole, 1e-12)
    assert_leaves_close(side_by_side(dA_singles), dA_in, 1e-12)


@of_cases([case for case in CASES if case.mixes_examples])
def test_batch_statistics_tie_examples_together(in_float64):
    (_, dA_in), (_, dA_singles) = in_float64.backward, in_float64.singles
    assert differs(side_by_side(dA_singles), dA_in)


def differs(found, wanted):
    return max(float(np.max(np.abs(a - b))) for a, b in zip(*map(jax.tree.leaves, (found, wanted)), strict=True)) > 1e-3


def test_pairs_sum_to_the_gradient(in_float64):
    found = [leaf for leaf in jax.tree.leaves(in_float64.pairs, is_leaf=is_reading) if is_reading(leaf)]
    assert_leaves_close([total for total, _, _ in found], [d for _, d, _ in found], 1e-12)


def is_reading(x) -> bool:
    return isinstance(x, tuple) and len(x) == 3 and all(hasattr(part, "shape") for part in x)


@of_cases([case for case in CASES if not case.keyed and not case.mixes_examples and not shares(case.net)])
def test_norms_of_pairs_are_those_of_each_example(in_float64):
    singles = by_path(in_float64.singles[0])
    readings = by_path(jax.tree.map(lambda r: r[2], in_float64.pairs, is_leaf=is_reading))
    for path, found in readings.items():
        if found is not None:
            # The axes of loops stand before that of the examples here, and after it there.
            of_parameter = tuple(range(found.ndim, singles[path].ndim))
            expected = np.moveaxis(np.sum(np.square(singles[path]), axis=of_parameter), 0, -1)
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_equals_autodiff_in_float32(case, in_float64):
    """Within 1e-5, or closer to float64 than autodiff is; a leaf that is zero by symmetry, within rounding of all."""
    both = jax.jit(lambda *batch: (manual(case)(*batch)[1], autodiff(case)(*batch)[1]))
    weights = case.item_weights.astype(np.float32)
    params, X, Y, key = case.batch(jnp.float32)
    found, expected = both(params, X, Y, weights, key)
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
    X, Y = jax.tree.map(lambda x: np.concatenate([x, x, x, x]), (X, Y))
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
