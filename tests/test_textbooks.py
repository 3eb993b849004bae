"""The textbooks' own cases: their formulas in plain numpy, their conventions, their digits; all in float64.

Where a test says "columns", examples are columns: Z = W A + b with W of shape (n_l, n_{l-1}), the transpose of ours.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fbp.backprop import loss_value, value_and_grad
from fbp.combinators import Serial
from fbp.data import load
from fbp.layers import Activation, Dense
from fbp.losses import HalfSquaredError, SigmoidBinaryCrossEntropy, SoftmaxCrossEntropy
from fbp.networks import mlp

pytestmark = pytest.mark.usefixtures("x64")


def sigmoid(Z):
    return 1 / (1 + np.exp(-Z))


def softmax_of_columns(Z):
    E = np.exp(Z - Z.max(axis=0))
    return E / E.sum(axis=0)


def dense_params(W_columns, b):
    """Our parameters from a textbook's W, (n_l, n_{l-1}), and b."""
    return {"W": jnp.asarray(W_columns, float).T, "b": jnp.asarray(b, float).ravel()}


def as_columns(tree):
    """(W, b) of every dense layer of a chain of dense and activation layers, in columns."""
    return [(np.asarray(layer["W"]).T, np.asarray(layer["b"])[:, None]) for layer in tree if layer]


def descended(params, d_params, rate):
    return jax.tree.map(lambda p, d: p - rate * d, params, d_params)


def assert_columns(tree, expected, rtol=1e-12, atol=1e-15):
    ours = as_columns(tree)
    assert len(ours) == len(expected)
    for (W, b), (W_expected, b_expected) in zip(ours, expected, strict=True):
        np.testing.assert_allclose(W, W_expected, rtol, atol)
        np.testing.assert_allclose(b.ravel(), np.ravel(b_expected), rtol, atol)


# One neuron, y = sigmoid(w x + b), error (y - t)^2 / 2.

NEURON, HALF_SQUARED_SIGMOID = Serial(Dense(1)), HalfSquaredError(activation="sigmoid")


def neuron(w, b, x, t):
    params = (dense_params([[w]], [b]),)
    value, (d,) = value_and_grad(NEURON, HALF_SQUARED_SIGMOID)(params, jnp.array([[float(x)]]), jnp.array([[float(t)]]))
    return float(value), float(d["W"][0, 0]), float(d["b"][0])


def test_neuron_with_an_output_of_three_quarters():
    # w x + b = ln 3, so y = 3 / (3 + 1) = 3/4. With t = 1/4: error (1/2)^2 / 2 = 1/8,
    # dz = (y - t) y (1 - y) = 1/2 * 3/16 = 3/32, dw = dz x = 3/16, db = dz.
    value, dw, db = neuron(w=math.log(3) / 2, b=0, x=2, t=0.25)
    np.testing.assert_allclose((value, dw, db), (1 / 8, 3 / 16, 3 / 32), rtol=1e-14)


def test_neuron_of_nielsens_third_chapter():
    # Nielsen (2015): w = 0.6, b = 0.9, x = 1, t = 0. With e^-1.5 = 0.22313016014842982893,
    # y = 1 / 1.22313016014842982893 = 0.81757447619364365961, the error is y^2 / 2, and dw = db = y^2 (1 - y).
    value, dw, db = neuron(w=0.6, b=0.9, x=1, t=0)
    np.testing.assert_allclose(value, 0.3342140120616554, rtol=1e-14)
    np.testing.assert_allclose((dw, db), 0.1219383324275427651, rtol=1e-14)


@pytest.mark.parametrize(("w", "b", "before", "after"), [(0.6, 0.9, "0.82", "0.09"), (2.0, 2.0, "0.98", "0.20")])
def test_neuron_learns_as_slowly_as_nielsen_shows(w, b, before, after):
    # The printed outputs before and after 300 steps at learning rate 0.15; the saturated neuron starts slowly.
    X, T, params = jnp.ones((1, 1)), jnp.zeros((1, 1)), (dense_params([[w]], [b]),)
    outputs = [HALF_SQUARED_SIGMOID.output(NEURON.forward(params, X)[0]).item()]
    step = jax.jit(lambda p: descended(p, value_and_grad(NEURON, HALF_SQUARED_SIGMOID)(p, X, T)[1], 0.15))
    for _ in range(300):
        params = step(params)
    outputs.append(HALF_SQUARED_SIGMOID.output(NEURON.forward(params, X)[0]).item())
    assert [f"{y:.2f}" for y in outputs] == [before, after]


# Small networks with all their numbers.


def test_two_layers_of_relu_in_whole_numbers():
    # Rows: x = (1, 2). z1 = (1 + 2 - 1, -2 - 2 + 1) = (2, -3), a1 = (2, 0), z2 = 3*2 + 5*0 - 1 = 5, t = 2.
    # dz2 = 3, dW2 = a1 dz2 = (6, 0), db2 = 3, da1 = dz2 (3, 5) = (9, 15), dz1 = (9, 0), dW1 = x^T dz1.
    net = mlp((2, 2, 1), "relu")
    params = (
        {"W": jnp.array([[1.0, -2.0], [1.0, -1.0]]), "b": jnp.array([-1.0, 1.0])},
        (),
        {"W": jnp.array([[3.0], [5.0]]), "b": jnp.array([-1.0])},
    )
    value, d = value_and_grad(net, HalfSquaredError())(params, jnp.array([[1.0, 2.0]]), jnp.array([[2.0]]))
    assert value == 4.5
    np.testing.assert_array_equal(d[0]["W"], [[9, 0], [18, 0]])
    np.testing.assert_array_equal(d[0]["b"], [9, 0])
    np.testing.assert_array_equal(d[2]["W"], [[6], [0]])
    np.testing.assert_array_equal(d[2]["b"], [3])


# Mazur (2015), "A step by step backpropagation example": columns, learning rate 0.5, the biases stay as they are.

MAZUR, MAZUR_DATA = mlp((2, 2, 2), "sigmoid"), (np.array([[0.05, 0.10]]), np.array([[0.01, 0.99]]))
MAZUR_LAYERS = (([[0.15, 0.20], [0.25, 0.30]], [0.35, 0.35]), ([[0.40, 0.45], [0.50, 0.55]], [0.60, 0.60]))


def mazur_params():
    first, second = (dense_params(W, b) for W, b in MAZUR_LAYERS)
    return first, (), second


def mazur_step(params, d):
    return tuple({"W": p["W"] - 0.5 * d_p["W"], "b": p["b"]} if p else () for p, d_p in zip(params, d, strict=True))


def test_the_worked_example_of_mazur():
    value, d = value_and_grad(MAZUR, HALF_SQUARED_SIGMOID)(mazur_params(), *MAZUR_DATA)
    np.testing.assert_allclose(value, 0.298371109, rtol=0, atol=5e-10)
    np.testing.assert_allclose((d[0]["W"][0, 0], d[2]["W"][0, 0]), (0.000438568, 0.082167041), rtol=0, atol=5e-10)
    (W1, _), (W2, _) = as_columns(mazur_step(mazur_params(), d))
    np.testing.assert_allclose(W1, [[0.149780716, 0.19956143], [0.24975114, 0.29950229]], rtol=0, atol=5e-9)
    np.testing.assert_allclose(W2, [[0.35891648, 0.408666186], [0.511301270, 0.561370121]], rtol=0, atol=5e-9)


def test_the_loss_that_mazur_prints_after_the_step_takes_the_updated_output_weights_too_soon():
    # With all gradients at the old weights, as the text derives them, the loss becomes 0.291027774. The printed
    # 0.291027924 appears when dA_1 = dZ_2 W_2^T meets the W_2 that has been updated already.
    params, (X, Y) = mazur_params(), MAZUR_DATA
    _, d = value_and_grad(MAZUR, HALF_SQUARED_SIGMOID)(params, X, Y)
    stepped = mazur_step(params, d)
    np.testing.assert_allclose(loss_value(MAZUR, HALF_SQUARED_SIGMOID, stepped, X, Y), 0.291027774, rtol=0, atol=5e-10)
    Z, cache = MAZUR.forward(params, X)
    mixed, _ = MAZUR.backward((params[0], (), stepped[2]), cache, HALF_SQUARED_SIGMOID.value_and_dZ(Z, Y)[1])
    too_soon = mazur_step(params, mixed)
    np.testing.assert_allclose(loss_value(MAZUR, HALF_SQUARED_SIGMOID, too_soon, X, Y), 0.291027924, rtol=0, atol=5e-10)


# 2-3-2-1: tanh, relu, sigmoid. Columns, one example at a time.

MIXED_EXAMPLES = [([1.0, 0.5], 1.0), ([-0.7, 0.9], 0.0), ([-1.0, -0.6], 1.0)]
MIXED_LAYERS = [
    (np.array([[0.5, -0.4], [0.3, 0.8], [-0.6, 0.1]]), np.array([0.1, -0.2, 0.3])),
    (np.array([[0.7, -0.5, 0.2], [-0.3, 0.9, 0.4]]), np.array([0.05, -0.1])),
    (np.array([[0.6, -0.8]]), np.array([0.2])),
]


def mixed_by_the_chain_rule(dz3_of):
    """The mean over examples of each dW and db, and Z2 of every example."""
    (W1, b1), (W2, b2), (W3, b3) = MIXED_LAYERS
    d = [(np.zeros_like(W), np.zeros_like(b)) for W, b in MIXED_LAYERS]
    Z2 = []
    for x, y in MIXED_EXAMPLES:
        a1 = np.tanh(W1 @ x + b1)
        z2 = W2 @ a1 + b2
        a2 = np.maximum(z2, 0)
        a3 = sigmoid(W3 @ a2 + b3)
        dz3 = dz3_of(a3, y)
        dz2 = (W3.T @ dz3) * (z2 > 0)
        dz1 = (W2.T @ dz2) * (1 - a1**2)
        for (dW, db), dz, a in zip(d, (dz1, dz2, dz3), (np.array(x), a1, a2), strict=True):
            dW += np.outer(dz, a) / len(MIXED_EXAMPLES)
            db += dz / len(MIXED_EXAMPLES)
        Z2.append(z2)
    return d, np.array(Z2)


@pytest.mark.parametrize(
    ("loss", "dz3_of"),
    [
        (HALF_SQUARED_SIGMOID, lambda a3, y: (a3 - y) * a3 * (1 - a3)),
        (SigmoidBinaryCrossEntropy(), lambda a3, y: a3 - y),
    ],
    ids=["half squared error", "binary cross-entropy"],
)
def test_a_different_activation_in_each_layer(loss, dz3_of):
    expected, Z2 = mixed_by_the_chain_rule(dz3_of)
    assert ((Z2 > 0).any(axis=0) & (Z2 < 0).any(axis=0)).all(), "both relu units are on for some examples only"
    W1, W2, W3 = (dense_params(W, b) for W, b in MIXED_LAYERS)
    X, Y = jnp.array([x for x, _ in MIXED_EXAMPLES]), jnp.array([[y] for _, y in MIXED_EXAMPLES])
    _, d = value_and_grad(mlp((2, 3, 2, 1), ["tanh", "relu"]), loss)((W1, (), W2, (), W3), X, Y)
    assert_columns(d, expected)


# 3-2-1, example by example. Columns.


def test_update_example_by_example():
    rate = 0.8
    inputs = np.array([[0.0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1], [0.5, 0.25, 1]])
    targets = np.array([0.0, 1, 1, 0, 1])
    W1, b1 = np.array([[0.4, -0.7, 0.2], [-0.3, 0.9, 0.1]]), np.array([0.05, -0.15])
    W2, b2 = np.array([[1.1, -0.6]]), np.array([0.3])
    net, loss = mlp((3, 2, 1), "sigmoid"), HalfSquaredError("sum", activation="sigmoid")
    params = (dense_params(W1, b1), (), dense_params(W2, b2))
    for X, Y in zip(inputs, targets, strict=True):
        _, d = value_and_grad(net, loss)(params, jnp.array([X]), jnp.array([[Y]]))
        params = descended(params, d, rate)

        Z1 = W1 @ X + b1
        Y1 = sigmoid(Z1)
        Z2 = W2 @ Y1 + b2
        Yhat = sigmoid(Z2)
        to_Z2 = (Y - Yhat) * sigmoid(Z2) * (1 - sigmoid(Z2))
        to_Z1 = to_Z2 * W2[0] * sigmoid(Z1) * (1 - sigmoid(Z1))
        W2, b2 = W2 + rate * to_Z2 * Y1, b2 + rate * to_Z2
        W1, b1 = W1 + rate * np.outer(to_Z1, X), b1 + rate * to_Z1
    assert_columns(params, [(W1, b1), (W2, b2)], rtol=0, atol=1e-12)


# 784-128-10 on the bundled digits, N(0, 0.01^2) weights, plain gradient descent at 0.01 in batches of 32. Columns.

RATE, BATCH = 0.01, 32
HIDDEN = {
    "sigmoid": (sigmoid, lambda Z: sigmoid(Z) * (1 - sigmoid(Z))),
    "relu": (lambda Z: np.maximum(Z, 0), lambda Z: Z > 0),
}


def column_step(params, X, Y, g, d_g):
    """(loss, parameters after one update): X is (784, m), Y one-hot (10, m)."""
    (W1, b1), (W2, b2) = params
    m = X.shape[1]
    Z1 = W1 @ X + b1
    A1 = g(Z1)
    A2 = softmax_of_columns(W2 @ A1 + b2)
    dZ2 = A2 - Y
    dW2, db2 = dZ2 @ A1.T / m, dZ2.sum(axis=1, keepdims=True) / m
    dZ1 = W2.T @ dZ2 * d_g(Z1)
    dW1, db1 = dZ1 @ X.T / m, dZ1.sum(axis=1, keepdims=True) / m
    loss = -np.log(A2[Y == 1]).sum() / m
    return loss, [(W1 - RATE * dW1, b1 - RATE * db1), (W2 - RATE * dW2, b2 - RATE * db2)]


@pytest.fixture(scope="module")
def digits():
    data = load()
    return data.train_X[:1000].astype(np.float64), data.train_Y[:1000]


@pytest.fixture(params=HIDDEN)
def classifier(request):
    net = mlp((784, 128, 10), request.param, init="normal(0.01)")
    return request.param, net, net.init(jax.random.key(0))[0]


def our_step(net):
    @jax.jit
    def step(params, X, Y):
        value, d = value_and_grad(net, SoftmaxCrossEntropy())(params, X, Y)
        return value, descended(params, d, RATE)

    return step


def test_digits_start_at_the_loss_of_a_guess(classifier, digits):
    # ||x|| is about 9, so Z1 has standard deviation 0.09. The logits then have 0.01 sqrt(128 mean A1^2): 0.06 with
    # A1 near 1/2, 0.008 with a relu. The loss differs from ln 10 by half their variance and by the mean over ten
    # classes of a logit's deviation, at most about that deviation over sqrt(10).
    hidden, net, params = classifier
    start = loss_value(net, SoftmaxCrossEntropy(), params, *digits)
    assert abs(start - math.log(10)) < {"sigmoid": 0.06, "relu": 0.008}[hidden] / math.sqrt(10)


def test_ten_updates_on_digits_equal_numpy_in_columns(classifier, digits):
    hidden, net, params = classifier
    X, Y = digits
    theirs, step = as_columns(params), our_step(net)
    for i in range(10):
        now = slice(i * BATCH, (i + 1) * BATCH)
        value, params = step(params, X[now], Y[now])
        expected, theirs = column_step(theirs, X[now].T, np.eye(10)[:, Y[now]], *HIDDEN[hidden])
        np.testing.assert_allclose(value, expected, rtol=1e-10)
        assert_columns(params, theirs, rtol=0, atol=1e-10)


def test_an_epoch_on_digits_lowers_the_loss(classifier, digits):
    _, net, params = classifier
    X, Y = digits
    before, step = loss_value(net, SoftmaxCrossEntropy(), params, X, Y), our_step(net)
    for start in range(0, len(X), BATCH):
        _, params = step(params, X[start : start + BATCH], Y[start : start + BATCH])
    assert loss_value(net, SoftmaxCrossEntropy(), params, X, Y) < before - 1e-3


# Facts about the loss at the start of training.


def test_zero_logits_cost_ln_10_and_push_by_the_root_of_nine_tenths(digits):
    # dZ is 1/10 in nine entries and -9/10 in one: its square norm is 9/100 + 81/100.
    X, Y = digits
    net, loss = mlp((784, 128, 10), init="zeros"), SoftmaxCrossEntropy("sum")
    Z, _ = net.forward(net.init(jax.random.key(0))[0], X)
    value, dZ = loss.value_and_dZ(Z, Y)
    np.testing.assert_allclose(value / len(X), 2.302585092994046, rtol=1e-13)
    np.testing.assert_allclose(np.linalg.norm(dZ, axis=1), 0.9486832980505138, rtol=1e-13)


def test_a_he_head_starts_above_ln_10():
    # Gaussian logits of variance 2: loss 3.111 and E ||dZ||^2 = 1.0758, within the sampling error.
    rng = np.random.default_rng(0)
    m = 200_000
    Z, Y = jnp.array(math.sqrt(2) * rng.standard_normal((m, 10))), jnp.array(rng.integers(0, 10, m))
    value, dZ = SoftmaxCrossEntropy("sum").value_and_dZ(Z, Y)
    squares = np.sum(np.square(dZ), axis=1)
    # The loss has standard deviation below 1.6 per example.
    assert abs(value / m - 3.111) < 4 * 1.6 / math.sqrt(m) + 5e-4
    assert abs(squares.mean() - 1.0758) < 4 * squares.std() / math.sqrt(m) + 5e-5


def test_columns_are_our_rows_transposed_with_the_mean_moved():
    rng = np.random.default_rng(1)
    A, W, b, Y = rng.normal(size=(5, 4)), rng.normal(size=(4, 3)), rng.normal(size=3), np.eye(3)[[0, 2, 1, 1, 0]]
    m = len(A)

    dense, params = Dense(3), {"W": jnp.array(W), "b": jnp.array(b)}
    Z, cache = dense.forward(params, jnp.array(A))
    _, dZ = SoftmaxCrossEntropy("mean").value_and_dZ(Z, jnp.array(Y))
    d, dA = dense.backward(params, cache, dZ)

    A_c, W_c, b_c, Y_c = A.T, W.T, b[:, None], Y.T
    Z_c = W_c @ A_c + b_c
    dZ_c = softmax_of_columns(Z_c) - Y_c
    dW_c = dZ_c @ A_c.T / m
    db_c = dZ_c.sum(axis=1, keepdims=True) / m
    dA_c = W_c.T @ dZ_c

    for ours, theirs in ((Z, Z_c), (dZ, dZ_c / m), (d["W"], dW_c), (d["b"][None], db_c), (dA, dA_c / m)):
        np.testing.assert_allclose(ours, theirs.T, rtol=1e-12, atol=1e-15)


def test_half_squared_error_alone_takes_the_derivative_of_the_output():
    # y = tanh(z) at z = artanh(1/2), t = 0: dz = y (1 - y^2) = 3/8; a linear output has dz = y - t = z.
    Z, Y = jnp.array([[math.atanh(0.5)]]), jnp.zeros((1, 1))
    _, through_tanh = HalfSquaredError(activation="tanh").value_and_dZ(Z, Y)
    _, through_nothing = HalfSquaredError().value_and_dZ(Z, Y)
    np.testing.assert_allclose((through_tanh.item(), through_nothing.item()), (3 / 8, math.log(3) / 2), rtol=1e-14)


def test_a_hidden_layer_alone_takes_the_derivative_of_its_activation():
    # sigmoid(ln 3) = 3/4 and sigmoid' = 3/16; tanh(ln 3 / 2) = 1/2 and tanh' = 3/4; with dA = 16 and 4.
    for name, Z, dA in (("sigmoid", math.log(3), 16.0), ("tanh", math.log(3) / 2, 4.0)):
        layer = Activation(name)
        _, cache = layer.forward((), jnp.array([[Z]]))
        np.testing.assert_allclose(layer.backward((), cache, jnp.array([[dA]]))[1], 3, rtol=1e-14)
