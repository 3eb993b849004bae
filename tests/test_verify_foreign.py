"""The gradient checker on what users bring: no right gradient fails, no wrong one passes, and reasons are true."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

import fbp
from fbp import verify
from fbp.verify.programs import Lifted

X = jnp.asarray(np.random.default_rng(0).standard_normal((12, 8)), jnp.float32)
Z = jnp.asarray(np.random.default_rng(1).standard_normal((5, 2)) @ np.array([1, 1j]), jnp.complex64)
KEY = jax.random.key(0)
NOISE = np.random.default_rng(2)
IDS = jnp.array([0, 3, 3, 11])
WEIGHTS = jnp.arange(8.0)[None]
MASK = jnp.where(jnp.tril(jnp.ones((12, 8))) > 0, 0.0, -jnp.inf)


def softmax_in_float32(x):
    return jnp.sum(jax.nn.softmax(x.astype(jnp.float32)).astype(x.dtype) ** 2)


def layer_norm_sum(x):
    return jnp.sum((x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5))


def decides_in_python(x):
    return jnp.sum(x**2) if float(jnp.sum(jnp.arange(3))) > 1 else jnp.sum(x)


def unrolled(x):
    return jax.lax.scan(lambda c, row: (0.9 * c + jnp.sum(jnp.tanh(row)), None), jnp.zeros((), jnp.float32), x)[0] ** 2


RIGHT = {
    "sum": (jnp.sum, X),
    "mean": (jnp.mean, X),
    "absolute values": (lambda x: jnp.sum(jnp.abs(x)), X),
    "sign": (lambda x: jnp.sum(jnp.sign(x)), X),
    "rows of a table": (lambda x: jnp.sum(x[IDS]), X),
    "softmax in float32": (softmax_in_float32, X),
    "softmax in float32, bfloat16": (softmax_in_float32, X.astype(jnp.bfloat16)),
    "float8": (lambda x: jnp.sum(jnp.tanh(x.astype(jnp.float32)) ** 2), X.astype(jnp.float8_e4m3fn)),
    "dropout": (lambda x, key: jnp.sum(jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0.0) ** 2), X, KEY),
    "noise in the dtype": (lambda x, key: jnp.sum((x + jax.random.normal(key, x.shape, x.dtype)) ** 3), X, KEY),
    "gamma": (lambda x, key: jnp.sum(jax.random.gamma(key, jnp.abs(x) + 0.5) ** 2), X[:2], KEY),
    "centred sum": (lambda x: jnp.sum(x - x.mean()), X),
    "sum of layer norm": (layer_norm_sum, X),
    "stopped gradient": (lambda x: jnp.mean((x - jax.lax.stop_gradient(jnp.tanh(x))) ** 2), X),
    "straight through": (lambda x: jnp.sum((x + jax.lax.stop_gradient(jnp.round(x) - x)) ** 2), X),
    "linear solve": (lambda x: jnp.sum(jnp.linalg.solve(x @ x.T + jnp.eye(8), x[:, 0])), X[:8]),
    "complex": (lambda z: jnp.sum(jnp.abs(z**2 + 1) ** 2), Z),
    "infinite mask": (lambda x, mask: jnp.sum(jax.nn.softmax(x + mask) ** 2), X, MASK),
    "scan in float32": (unrolled, X),
    "decisions in Python": (decides_in_python, X),
    "special function": (lambda x: jnp.sum(jax.scipy.special.log_ndtr(5 * x)), X),
    "matrix exponential": (lambda x: jnp.sum(jax.scipy.linalg.expm(x)), X[:4, :4]),
    "sort": (lambda x: jnp.sum(jnp.sort(x) * WEIGHTS), X),
    "near a pole": (lambda x: jnp.sum(1 / x), jnp.array([1e-5, 1.0, 3.0])),
    "fast oscillations": (lambda x: jnp.sum(jnp.sin(1e5 * x)), X),
    "numbers of Python": (lambda x, c, pair: c * jnp.sum(x**2) * pair[0], X, 0.1, [0.5, 2]),
    "integer, Python number": (lambda x, i, power: jnp.sum(x[i] ** power), X, jnp.array([1, 2]), 3),
}


@pytest.mark.parametrize(("loss", "args"), [(loss, args) for loss, *args in RIGHT.values()], ids=RIGHT)
def test_what_autodiff_gives_passes(loss, args):
    found = verify.gradient(jax.grad(loss), loss, *args)
    assert found.verdict == "PASS", str(found)


def test_a_zero_may_be_computed_as_zero():
    for loss in (layer_norm_sum, lambda x: jnp.sum(jax.nn.softmax(x))):
        assert verify.gradient(lambda x: jnp.zeros_like(x), loss, X).verdict == "PASS"
        assert verify.gradient(lambda x: 1e-3 * x, loss, X).verdict == "FAIL"


def in_float32(gradient):
    return lambda *args: gradient(*(x.astype(jnp.float32) for x in args)).astype(args[0].dtype)


def moved_epsilon(x):
    return jnp.sum(x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5) * WEIGHTS)


def epsilon_outside(x):
    return jnp.sum(x / (jnp.sqrt(jnp.mean(x**2, -1, keepdims=True)) + 1e-5) * WEIGHTS)


square = lambda x: jnp.sum(x**2)
tangents = lambda x: jnp.sum(jnp.tanh(x) * WEIGHTS)
modulus = lambda z: jnp.sum(jnp.abs(z**2 + 1) ** 2)
through_bfloat16 = lambda x: (2 * x.astype(jnp.bfloat16)).astype(x.dtype)
WRONG = {
    "epsilon outside of the root": (jax.grad(epsilon_outside), moved_epsilon, X, ""),
    "decay in float32 alone": (in_float32(lambda x: jax.grad(tangents)(x) + 1e-5 * x), tangents, X, "the parameter"),
    "products in bfloat16": (through_bfloat16, square, X, "a rounding of bfloat16 in each entry"),
    "conjugate": (lambda z: jnp.conj(jax.grad(modulus)(z)), modulus, Z, "the complex conjugate"),
    "None for a complex leaf": (lambda z: None, modulus, Z, ""),
    "complex for a real leaf": (lambda x: (2 * x).astype(jnp.complex64), square, X, ""),
    "text": (lambda x: "2 x", square, X, ""),
    "another one each time": (lambda x: 2 * x * (1 + 1e-3 * NOISE.normal()), square, X, ""),
    "clipped": (lambda x: jnp.clip(2 * x, -2, 2), square, X, "clipped"),
    "duplicates lost": (
        lambda x: jnp.zeros_like(x).at[IDS].set(2 * x[IDS]),
        lambda x: jnp.sum(x[IDS] ** 2),
        X,
        "one slice, index 3 of axis 0",
    ),
    "last tile": (
        lambda x: 2 * x * (jnp.arange(12) < 9).astype(x.dtype)[:, None],
        square,
        X,
        "a mask|wrong in the last 3",
    ),
    "mean left in": (
        lambda x: jax.grad(tangents)(x) + jnp.linspace(0.1, 0.2, 12)[:, None],
        tangents,
        X,
        "off by the same amount along axis 1",
    ),
}


@pytest.mark.parametrize(("my_grad", "loss", "x", "hint"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_fails(my_grad, loss, x, hint):
    import re

    found = verify.gradient(my_grad, loss, x)
    assert found.verdict == "FAIL", str(found)
    assert re.search(hint, found.leaves[0].hint), found.leaves[0].hint


def linear_in_float32(W, x):
    return jnp.mean((x @ W.astype(jnp.float32)) ** 2)


def outer_products(factor):
    def gradient(W, x):
        out = x @ W.astype(jnp.float32)
        add = lambda total, pair: (total + jnp.outer(*pair), None)
        total, _ = jax.lax.scan(add, jnp.zeros(W.shape, jnp.float32), (x, 2 * out / out.size))
        return (jnp.float32(factor) * total).astype(W.dtype)

    return gradient


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "PASS"), (1.1, "FAIL")])
def test_a_gradient_that_refuses_float64_is_lifted_from_its_own_dtypes(factor, verdict):
    W = X[:8, :3].astype(jnp.bfloat16)
    assert verify.gradient(outer_products(factor), linear_in_float32, W, X).verdict == verdict


def test_a_constant_in_float32_is_no_mistake_and_a_small_term_is():
    loss = lambda x: 0.1 * square(x)
    assert verify.gradient(lambda x: jnp.float32(0.1) * 2 * x, loss, X).verdict == "PASS"
    assert verify.gradient(lambda x: 0.2 * x + 1e-6, loss, X).verdict == "FAIL"


def test_a_tenth_is_no_rounding_of_half_precision():
    by_numpy = lambda factor: lambda x: (factor * np.asarray(x, np.float32)).astype(x.dtype)
    assert verify.gradient(by_numpy(2), square, X.astype(jnp.bfloat16)).verdict == "PASS"
    assert verify.gradient(by_numpy(2.2), square, X.astype(jnp.bfloat16)).verdict == "INCONCLUSIVE"


def test_the_values_of_an_operation_are_those_of_its_reference():
    found = verify.vjp(lambda x: 2 * x, X, reference=lambda x: 2 * x + 1)
    assert [leaf.path for leaf in found.leaves if leaf.verdict == "FAIL"] == ["(value)"]
    op = jax.custom_vjp(lambda x: x * x)
    op.defvjp(lambda x: (x * x + 1, x), lambda x, d: (2 * x * d,))
    assert verify.vjp(op, X).verdict == "FAIL"


def test_a_small_error_where_float64_cannot_tell_is_inconclusive_and_a_larger_one_is_wrong():
    # NumPy inside: the gradient function can be called, not traced.
    scaled = lambda factor: lambda x: np.asarray(2 * np.asarray(x, np.float32) * np.float32(factor))
    assert verify.gradient(scaled(1.0), square, X).verdict == "PASS"
    found = verify.gradient(scaled(1 + 1e-5), square, X)
    assert found.verdict == "INCONCLUSIVE"
    assert "times what rounding in float32 explains" in found.leaves[0].reason
    assert verify.gradient(scaled(1 + 1e-3), square, X).verdict == "FAIL"


def test_a_loss_that_cannot_be_judged_is_inconclusive_and_says_why():
    found = verify.gradient(lambda x: x, lambda x: jnp.sum(x) * jnp.nan, X)
    assert found.verdict == "INCONCLUSIVE"
    assert "the loss is nan at these arguments" in found.leaves[0].reason
    noisy = lambda x: jnp.sum(x * NOISE.normal(size=x.shape))
    found = verify.gradient(jax.grad(noisy), noisy, X)
    assert found.verdict == "INCONCLUSIVE"
    assert "two calls of the loss with the same arguments differ" in found.leaves[0].reason


def test_a_rule_inside_of_the_loss_is_blamed_where_autodiff_agrees():
    @jax.custom_jvp
    def rounded(x):
        return jnp.round(x)

    rounded.defjvp(lambda primals, tangents: (rounded(*primals), tangents[0]))
    loss = lambda x: jnp.sum(rounded(x) ** 2)
    leaf = verify.gradient(jax.grad(loss), loss, X).leaves[0]
    assert [leaf.judge(name).verdict for name in ("autodiff", "differences", "adjoint")] == ["PASS", "FAIL", "PASS"]
    assert "a rule inside of the loss (custom_jvp, custom_vjp) is wrong, or a straight-through estimator" in leaf.hint


def test_random_numbers_of_a_dtype_are_kept_in_float64():
    draw = lambda x, key: x + jax.random.normal(key, x.shape, x.dtype)
    with jax.enable_x64(True):
        lifted = Lifted.at(draw, (np.zeros(1000, np.float32), KEY), wide=False)
        numbers = lifted(np.zeros(1000), KEY)
        other = draw(jnp.zeros(1000), KEY)
    assert numbers.dtype == np.float64
    np.testing.assert_allclose(numbers, draw(jnp.zeros(1000, jnp.float32), KEY), atol=1e-4)
    assert np.max(np.abs(other - numbers)) > 1


def test_arithmetic_that_is_lifted_has_the_digits_of_float64():
    third = lambda x: (x.astype(jnp.bfloat16) / 3).astype(jnp.float32) * jnp.float32(3)
    with jax.enable_x64(True):
        value = Lifted.at(third, (np.float32(0.7),), wide=False)(np.float64(0.7)).item()
        kept = Lifted.at(third, (np.float32(0.7),), frozenset({"bfloat16"}), wide=False)(np.float64(0.7)).item()
    assert abs(value - 0.7) < 1e-15
    assert 1e-4 < abs(kept - 0.7) < 1e-2


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({}, "FAIL"),
        ({"tolerance": 1e-2}, "PASS"),
        ({"tolerance": {"['W']": 1e-2}}, "PASS"),
        ({"tolerance": {"['b']": 1e-2}}, "FAIL"),
    ],
)
def test_a_tolerance_of_ones_own(options, verdict):
    params = {"W": X, "b": X[0]}
    loss = lambda p: square(p["W"]) + square(p["b"])
    found = verify.gradient(lambda p: {"W": 2.001 * p["W"], "b": 2 * p["b"]}, loss, params, **options)
    assert found.verdict == verdict, str(found)


def test_nondeterminism_may_be_allowed():
    noise = iter(np.random.default_rng(0).standard_normal(100) * 1e-4)
    shaky = lambda x: (2 * np.asarray(x) * (1 + next(noise))).astype(x.dtype)
    found = verify.gradient(shaky, square, X)
    assert found.leaves[0].judge("repetition").verdict == "FAIL"
    found = verify.gradient(shaky, square, X, nondeterminism=1e-2, tolerance=1e-2)
    assert found.verdict == "PASS", str(found)
    assert "two calls with the same arguments differ by" in found.leaves[0].note


def test_the_value_beside_the_gradient_is_judged():
    assert verify.gradient(jax.value_and_grad(square), square, X, has_value=True).verdict == "PASS"
    for value in (square(X) / 2, "text", None, 1j):
        found = verify.gradient(lambda x, value=value: (value, 2 * x), square, X, has_value=True)
        assert [leaf.path for leaf in found.leaves if leaf.verdict == "FAIL"] == ["(value)"]


def test_batched_gradients_are_judged():
    assert verify.gradient(jax.grad(tangents), tangents, X, batched=True).leaves[0].judge("batched").verdict == "PASS"
    decides = lambda x: jax.grad(tangents)(x) if float(x[0, 0]) < 9 else jnp.zeros_like(x)
    assert verify.gradient(decides, tangents, X).verdict == "PASS"
    assert verify.gradient(decides, tangents, X, batched=True).verdict == "FAIL"


def test_forward_mode_is_judged():
    @jax.custom_jvp
    def op(x):
        return jnp.sin(x)

    # A rule that is right where it is linear, as `jax.vjp` sees it, and wrong in forward mode cannot be written; one
    # that is wrong in both is found by the reference.
    op.defjvp(lambda primals, tangents: (op(*primals), jnp.sin(primals[0]) * tangents[0]))
    found = verify.vjp(op, X, reference=jnp.sin, forward=True)
    assert found.leaves[0].judge("forward").verdict == "FAIL"
    found = verify.vjp(jnp.sin, X, reference=jnp.sin, forward=True)
    assert found.leaves[0].judge("forward").verdict == "PASS"


def test_an_operation_without_a_rule_is_not_judged_by_itself():
    leaf = verify.vjp(lambda x: jnp.sin(x), X).leaves[0]
    assert leaf.verdict == "PASS"
    assert leaf.judge("autodiff").verdict == "INCONCLUSIVE"
    assert "autodiff is what is judged" in leaf.judge("autodiff").reason


def test_no_leaf_is_judged_after_the_time_limit():
    found = verify.gradient(jax.grad(square), square, X, time_limit=1e-9)
    assert found.verdict == "INCONCLUSIVE"
    assert "the time limit is over" in found.leaves[0].reason


def multiply(x_ref, out_ref):
    out_ref[...] = jnp.tanh(x_ref[...]) * x_ref[...]


def pull_back(x_ref, d_ref, out_ref):
    t = jnp.tanh(x_ref[...])
    out_ref[...] = d_ref[...] * (t + x_ref[...] * (1 - t * t))


def kernel(factor=1.0):
    call = lambda body, x, *rest: pallas.pallas_call(
        body, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True
    )(x, *rest)
    op = jax.custom_vjp(lambda x: call(multiply, x))
    op.defvjp(lambda x: (call(multiply, x), x), lambda x, d: (factor * call(pull_back, x, d),))
    return op


@pytest.mark.parametrize("reference", [None, lambda x: jnp.tanh(x) * x], ids=["its primal", "plain JAX"])
@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "PASS"), (1.01, "FAIL")])
def test_a_kernel_of_pallas(reference, factor, verdict):
    assert verify.vjp(kernel(factor), X, reference=reference).verdict == verdict


def test_shard_map():
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    P = jax.sharding.PartitionSpec
    loss = jax.shard_map(lambda x: jax.lax.psum(jnp.sum(x**2), "i"), mesh=mesh, in_specs=P("i"), out_specs=P())
    assert verify.gradient(lambda x: 2 * x, loss, X).verdict == "PASS"
    assert verify.gradient(lambda x: x, loss, X).verdict == "FAIL"


def test_modules_of_equinox():
    eqx = pytest.importorskip("equinox", reason="equinox of the extra 'peers' is not installed")
    model = eqx.nn.MLP(8, 3, 4, 1, key=KEY)
    loss = lambda model, x: jnp.mean(jax.vmap(model)(x) ** 2)
    assert verify.gradient(eqx.filter_grad(loss), loss, model, X).verdict == "PASS"
    wrong = lambda model, x: jax.tree.map(lambda g: 1.01 * g, eqx.filter_grad(loss)(model, x))
    assert verify.gradient(wrong, loss, model, X).verdict == "FAIL"
    attention = eqx.nn.MultiheadAttention(2, 8, key=KEY)
    loss = lambda model, x: jnp.sum(model(x, x, x) ** 2)
    assert verify.gradient(eqx.filter_grad(loss), loss, attention, X).verdict == "PASS"


@pytest.mark.usefixtures("standard_promotion")
def test_a_state_of_flax_stands_for_a_module_and_a_dictionary():
    nnx = pytest.importorskip("flax.nnx", reason="flax of the extra 'peers' is not installed")
    module = nnx.Linear(8, 3, rngs=nnx.Rngs(0))
    loss = lambda module, x: jnp.mean(module(x) ** 2)
    assert verify.gradient(nnx.grad(loss), loss, module, X).verdict == "PASS"
    graph, state = nnx.split(module)
    arrays = nnx.to_pure_dict(state)
    plain = lambda p, x: jnp.mean((x @ p["kernel"] + p["bias"]) ** 2)
    by_state = lambda p, x: nnx.grad(loss)(nnx.merge(graph, state), x)
    found = verify.gradient(by_state, plain, arrays, X)
    assert found.verdict == "PASS", str(found)
    assert "a State for a dict" in found.leaves[0].note
    wrong = lambda p, x: jax.tree.map(lambda g: -g, by_state(p, x))
    assert verify.gradient(wrong, plain, arrays, X).verdict == "FAIL"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: verify.gradient(lambda p: {}, lambda p: jnp.float32(1.0), {}), "must have a floating or complex leaf"),
        (lambda: verify.gradient(jax.grad(square), square, X, argnums=5), "argnums must name arguments, 0 to 0, got 5"),
        (lambda: verify.gradient(jax.grad(square), square, X, argnums=(0, -1)), "must name each argument once"),
        (lambda: verify.gradient(jax.grad(square), square, X, tolerance=-1.0), "must be a relative error"),
        (lambda: verify.gradient(jax.grad(square), square, X, tolerance={"W": 1.0}), "known are (argument)"),
        (lambda: verify.gradient(jax.grad(square), square, X, directions=0), "directions must be a positive integer"),
        (lambda: verify.gradient(jax.grad(square), square, X, time_limit=0), "time_limit must be positive"),
        (lambda: verify.gradient(jax.grad(square), square, X, tolerance="much"), "must be a relative error"),
        (lambda: verify.gradient(jax.grad(square), square, X, key=3), "key must be a key of JAX, got 3"),
        (lambda: verify.gradient(jax.grad(square), square, X, progress=3), "progress must be a function"),
    ],
)
def test_misuse_is_one_line(call, said):
    with pytest.raises(fbp.FbpError) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_arguments_are_counted_from_the_end_too():
    loss = lambda a, b: jnp.sum(a * b**2)
    found = verify.gradient(lambda a, b: 2 * a * b, loss, X, X + 1, argnums=-1)
    assert found.verdict == "PASS", str(found)
