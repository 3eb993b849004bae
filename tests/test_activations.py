"""The rows of the activation table: the derivative, the kinks, the ends of the range, the dtypes, the names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp.activations import activation

ELEMENTWISE = [
    *(name for name in activation if name != "softmax"),
    "leaky_relu(0.2)",
    "elu(0.5)",
    "scaled_tanh(2, 0.5)",
]
DTYPES = {"float16": 6e4, "bfloat16": 1e30, "float32": 1e30}
KINKS = [
    ("relu", 0.0, 0.0),
    ("leaky_relu", 0.0, 0.01),
    ("leaky_relu(0.2)", 0.0, 0.2),
    ("elu", 0.0, 1.0),
    ("elu(0.5)", 0.0, 0.5),
    ("selu", 0.0, 1.0507009873554805 * 1.6732632423543772),
    ("hard_tanh", 1.0, 0.0),
    ("hard_tanh", -1.0, 0.0),
]

each_row = pytest.mark.parametrize("name", ELEMENTWISE)


def by_hand(name, Z):
    """g'(Z), the way the backward pass reaches it: from the array that the row keeps."""
    layer = fbp.Activation(name)
    _, cache = layer.forward((), Z)
    return layer.backward((), cache, jnp.ones_like(Z))[1]


def by_autodiff(name, Z):
    return jax.vjp(activation(name), Z)[1](jnp.ones_like(Z))[0]


@each_row
def test_derivative_is_that_of_finite_differences(name, x64):
    Z, h = np.linspace(-4, 4, 400), 1e-6
    g = jax.jit(activation(name))
    np.testing.assert_allclose(by_hand(name, jnp.asarray(Z)), (g(Z + h) - g(Z - h)) / (2 * h), rtol=1e-7, atol=1e-9)


@each_row
def test_derivative_is_that_of_autodiff(name, x64):
    Z = jnp.asarray([0.0, -0.0, 1.0, -1.0, 1e-9, -1e-9, 3.5, -3.5, 20.0, -20.0, 1e4, -1e4])
    np.testing.assert_allclose(by_hand(name, Z), by_autodiff(name, Z), rtol=1e-7, atol=1e-15)


@pytest.mark.parametrize(("name", "z", "slope"), KINKS)
@pytest.mark.parametrize("dtype", [*DTYPES, "float64"])
def test_kinks_have_the_stated_slope(name, z, slope, dtype, x64):
    Z = jnp.asarray([z], dtype)
    np.testing.assert_array_equal(by_hand(name, Z), jnp.asarray([slope], dtype))


@each_row
@pytest.mark.parametrize("dtype", DTYPES)
def test_finite_and_of_the_same_dtype_for_any_input(name, dtype):
    largest = DTYPES[dtype]
    Z = jnp.asarray([0.0, 1e-4, 1.0, 11.0, 100.0, 1e4, largest], dtype)
    for x in (Z, -Z):
        A, dZ = activation(name)(x), by_hand(name, x)
        assert A.dtype == dZ.dtype == jnp.dtype(dtype)
        assert jnp.isfinite(A).all()
        assert jnp.isfinite(dZ).all()


@each_row
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_passes_through(name, dtype):
    assert jnp.isnan(activation(name)(jnp.asarray([jnp.nan], dtype))).all()


def test_softmax_pullback_is_that_of_autodiff(x64):
    Z = jnp.asarray([[0.0, 1.0, -2.0], [1e4, -1e4, 0.0]])
    dA = jnp.asarray([[0.3, -1.0, 2.0], [1.0, 2.0, 3.0]])
    layer = fbp.Activation("softmax")
    _A, cache = layer.forward((), Z)
    np.testing.assert_allclose(
        layer.backward((), cache, dA)[1], jax.vjp(activation("softmax"), Z)[1](dA)[0], atol=1e-16
    )
    assert jnp.isnan(activation("softmax")(Z.at[0, 0].set(jnp.nan))[0]).all()


@pytest.mark.parametrize("name", list(activation))
def test_equal_rows_are_equal_and_hash_equal(name):
    assert activation(name) == activation(name)
    assert hash(activation(name)) == hash(activation(name))


def test_constants_tell_rows_apart():
    assert activation("leaky_relu(0.2)") == fbp.activations.leaky_relu(0.2)
    assert fbp.Activation("leaky_relu(0.2)") == fbp.Activation(fbp.activations.leaky_relu(0.2))
    assert activation("leaky_relu(0.2)") != activation("leaky_relu")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("rleu", "did you mean 'relu'"),
        ("Tanh", "did you mean 'tanh'"),
        ("leaky_relu(-0.1)", "at least 0, got -0.1"),
        ("elu(0)", "positive, got 0"),
        ("elu(-1)", "positive, got -1"),
        ("scaled_tanh(0, 1)", "positive, got 0"),
        ("relu(1)", "write 'relu' alone"),
        ("leaky_relu(x)", "write 'leaky_relu' alone"),
        ("leaky_relu(0.1", "unknown activation"),
        ("", "unknown activation"),
    ],
)
def test_refused(spec, said):
    with pytest.raises(fbp.FbpError) as error:
        activation(spec)
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["leaky_relu(nan)", "elu(nan)", "elu(inf)", "scaled_tanh(nan, 1)"])
def test_constants_are_numbers(name):
    with pytest.raises(fbp.FbpError, match="got"):
        activation(name)
