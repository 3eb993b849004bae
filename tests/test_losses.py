"""The losses: value and dZ against autodiff, logits of any size, padding, labels that do not exist, messages."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp import HalfSquaredError, SigmoidBinaryCrossEntropy, SoftmaxCrossEntropy

M, N = 5, 4

CASES = {
    "softmax, labels": (SoftmaxCrossEntropy, np.array([0, 3, 1, 1, 2])),
    "softmax, one-hot": (SoftmaxCrossEntropy, np.eye(N)[[0, 3, 1, 1, 2]]),
    "softmax, integer rows": (SoftmaxCrossEntropy, np.eye(N, dtype=int)[[0, 3, 1, 1, 2]]),
    "softmax, soft": (SoftmaxCrossEntropy, np.random.default_rng(1).uniform(size=(M, N))),
    "binary": (SigmoidBinaryCrossEntropy, np.array([[0, 1, 1, 0]] * M, float)),
    "binary, booleans": (SigmoidBinaryCrossEntropy, np.array([[False, True, True, False]] * M)),
    "half squared": (HalfSquaredError, np.random.default_rng(2).normal(size=(M, N))),
    **{
        f"half squared, {name}": (partial(HalfSquaredError, activation=name), np.full((M, N), 0.3))
        for name in ("sigmoid", "tanh", "relu", "gelu", "softmax")
    },
}
WEIGHTS = {"no weights": None, "weights": np.array([1.0, 0.0, 2.0, 0.5, 0.0]), "zero weights": np.zeros(M)}

each_loss = pytest.mark.parametrize(("make", "Y"), CASES.values(), ids=CASES)


def logits(dtype=np.float64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=(M, N)), dtype)


@each_loss
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_value_and_dZ_are_those_of_autodiff(make, Y, reduction, x64):
    loss = make(reduction=reduction)
    for weights in WEIGHTS.values():
        value, dZ = loss.value_and_dZ(logits(), jnp.asarray(Y), weights)
        expected, d_expected = jax.value_and_grad(loss.value)(logits(), jnp.asarray(Y), weights)
        np.testing.assert_allclose(value, expected, rtol=1e-15)
        np.testing.assert_allclose(dZ, d_expected, rtol=1e-12, atol=1e-15)


@each_loss
def test_mean_is_the_sum_over_the_weights(make, Y, x64):
    weights = jnp.asarray(WEIGHTS["weights"])
    mean, total = (make(reduction=r).value(logits(), jnp.asarray(Y), weights) for r in ("mean", "sum"))
    np.testing.assert_allclose(mean, total / weights.sum(), rtol=1e-15)


@each_loss
def test_all_weights_zero_give_zero(make, Y):
    value, dZ = make().value_and_dZ(logits(np.float32), jnp.asarray(Y), jnp.zeros(M))
    assert value == 0
    assert not dZ.any()


@each_loss
@pytest.mark.parametrize("filler", [0.0, 1e30, np.nan])
def test_padding_changes_no_gradient(make, Y, filler):
    """Bit for bit, whatever stands in the padded rows."""
    Z, Y = logits(np.float32), jnp.asarray(Y)
    padded = jnp.concatenate([Z, jnp.full((3, N), filler)])
    weights = jnp.asarray([1.0] * M + [0.0] * 3)
    value, dZ = make().value_and_dZ(Z, Y, jnp.ones(M))
    padded_value, dZ_padded = make().value_and_dZ(padded, jnp.concatenate([Y, Y[:3]]), weights)
    np.testing.assert_array_equal(dZ_padded, jnp.concatenate([dZ, jnp.zeros((3, N))]))
    np.testing.assert_allclose(padded_value, value, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e4), ("float16", 1e4), ("float16", 6e4), ("bfloat16", 1e4)])
@pytest.mark.parametrize("name", [name for name in CASES if "soft" in name or "binary" in name or "sigmoid" in name])
def test_logits_of_any_size(name, dtype, size):
    make, Y = CASES[name]
    Z = jnp.asarray(size * np.sign(np.random.default_rng(0).normal(size=(M, N))), dtype)
    value, dZ = make().value_and_dZ(Z, jnp.asarray(Y, dtype) if Y.dtype == float else jnp.asarray(Y))
    assert value.dtype == jnp.float32
    assert dZ.dtype == jnp.dtype(dtype)
    assert jnp.isfinite(value)
    assert jnp.isfinite(dZ).all()


def test_large_logits_keep_their_loss():
    """The loss of a confident mistake is the margin, where log(softmax) would be minus infinity."""
    Z = jnp.asarray([[1e4, 0.0]])
    np.testing.assert_allclose(SoftmaxCrossEntropy().value(Z, jnp.asarray([1])), 1e4)
    np.testing.assert_allclose(SigmoidBinaryCrossEntropy().value(Z, jnp.asarray([[0.0, 1.0]])), 1e4, rtol=1e-4)


@pytest.mark.parametrize("label", [-1, N, 99, -N])
def test_a_label_that_does_not_exist_gives_nan(label):
    Y = jnp.asarray([0, 1, 2, 3, label])
    assert jnp.isnan(SoftmaxCrossEntropy().value(logits(np.float32), Y))
    assert jnp.isnan(jax.jit(SoftmaxCrossEntropy().value_and_dZ)(logits(np.float32), Y)[0])
    assert jnp.isfinite(SoftmaxCrossEntropy().value(logits(np.float32), Y, jnp.asarray([1.0, 1, 1, 1, 0])))


@each_loss
def test_value_is_the_textbook_formula_of_the_output(make, Y):
    loss, Z = make(), logits(np.float32)
    A, targets = np.asarray(loss.output(Z), np.float64), np.eye(N)[Y] if Y.ndim == 1 else Y.astype(float)
    formula = {
        SoftmaxCrossEntropy: lambda: -(targets * np.log(A)).sum(axis=1),
        SigmoidBinaryCrossEntropy: lambda: -(targets * np.log(A) + (1 - targets) * np.log(1 - A)).sum(axis=1),
        HalfSquaredError: lambda: 0.5 * np.square(A - targets).sum(axis=1),
    }[type(loss)]
    np.testing.assert_allclose(loss.value(Z, jnp.asarray(Y)), formula().mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "Y", "weights", "said"),
    [
        (
            SoftmaxCrossEntropy(),
            np.zeros(M + 1, int),
            None,
            "labels (5,) or probabilities (5, 4), got int64 (6,)",
        ),
        (SoftmaxCrossEntropy(), np.zeros(M, np.float32), None, "got float32 (5,)"),
        (SoftmaxCrossEntropy(), np.zeros((M, N + 1)), None, "got float64 (5, 5)"),
        (SigmoidBinaryCrossEntropy(), np.zeros(M), None, "must have the shape of the output, (5, 4), got (5,)"),
        (HalfSquaredError(), np.zeros((M, 1)), None, "must have the shape of the output, (5, 4), got (5, 1)"),
        (SoftmaxCrossEntropy(), np.zeros(M, int), np.ones(M - 1), "weights must have the shape (5,), got (4,)"),
        (SoftmaxCrossEntropy(), np.zeros(M, int), np.ones((M, 1)), "weights must have the shape (5,), got (5, 1)"),
    ],
)
def test_shapes_that_do_not_fit(loss, Y, weights, said):
    for function in (loss.value, loss.value_and_dZ):
        with pytest.raises(fbp.FbpError) as error:
            function(logits(np.float32), Y, weights)
        assert said in str(error.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SoftmaxCrossEntropy("average"), "'mean' or 'sum'"),
        (lambda: HalfSquaredError(activation="rleu"), "did you mean 'relu'"),
        (lambda: fbp.losses.loss("softmax"), "did you mean 'softmax_cross_entropy'"),
    ],
)
def test_refused(make, said):
    with pytest.raises(fbp.FbpError, match=said):
        make()
