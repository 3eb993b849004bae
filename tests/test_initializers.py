"""Initial parameters: moments of every rule, the networks of `mlp`, LSUV and population statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp import Activation, BatchNorm, Dense, Dropout, LayerNorm, Repeat, Residual, Serial
from fbp.initializers import Initializer, constant, initializer, lecun_normal, mean_field, normal, orthogonal
from fbp.networks import REPEAT_FROM

FANS = (120, 80)

VARIANCES = {
    "he_normal": 2 / 120,
    "he_uniform": 2 / 120,
    "glorot_normal": 2 / 200,
    "glorot_uniform": 2 / 200,
    "lecun_normal": 1 / 120,
    "lecun_uniform": 1 / 120,
    "inverse_sqrt_normal": 1 / 120,
    "inverse_sqrt_uniform": 1 / 360,
    "normal": 0.01**2,
    "normal(0.5)": 0.25,
    "mean_field": 1 / 120,
    "mean_field(1.5, 0.3)": 2.25 / 120,
    Initializer(3.0, "fan_out", "truncated_normal"): 3 / 80,
    Initializer(3.0, "none", "uniform"): 3.0,
}
CONSTANTS = {"zeros": 0.0, "constant": 0.0, "constant(0.25)": 0.25, "constant(-2)": -2.0}


def weight(rule, shape=FANS, seed=0) -> np.ndarray:
    return np.asarray(initializer(rule).weight(jax.random.key(seed), shape))


@pytest.mark.parametrize(("rule", "variance"), VARIANCES.items(), ids=str)
def test_mean_and_variance(rule, variance):
    """Within five standard errors; a normal's fourth moment is the largest of the three shapes."""
    W = weight(rule)
    assert abs(W.mean()) <= 5 * (variance / W.size) ** 0.5
    assert abs(W.var() / variance - 1) <= 5 * (2 / W.size) ** 0.5
    assert initializer(rule).stddev(*FANS) == pytest.approx(variance**0.5)


@pytest.mark.parametrize(("rule", "value"), CONSTANTS.items())
def test_constants(rule, value):
    np.testing.assert_array_equal(weight(rule, (3, 2)), np.full((3, 2), value, np.float32))
    assert initializer(rule).stddev(3, 2) == 0


def test_every_name_is_tested():
    tested = {str(rule).partition("(")[0] for rule in (*VARIANCES, *CONSTANTS)} | {"orthogonal"}
    assert set(initializer) <= tested


@pytest.mark.parametrize(("rule", "bound"), [("he_uniform", (6 / 120) ** 0.5), ("inverse_sqrt_uniform", 120**-0.5)])
def test_uniform_rules_fill_their_interval(rule, bound):
    assert 0.99 * bound < np.abs(weight(rule)).max() <= bound


def test_truncated_normal_is_cut_at_two_deviations():
    W = weight(Initializer(1.0, "none", "truncated_normal"))
    assert 2.2 < np.abs(W).max() <= 2 / 0.87962


@pytest.mark.parametrize("gain", [1.0, 1.5])
@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (7, 7)])
def test_orthogonal(gain, shape):
    W = weight(f"orthogonal({gain})", shape)
    gram = W.T @ W if shape[0] >= shape[1] else W @ W.T
    np.testing.assert_allclose(gram, gain**2 * np.eye(min(shape)), atol=1e-5)
    assert orthogonal(gain).stddev(*shape) == pytest.approx(np.mean(np.square(W)) ** 0.5, rel=1e-5)


def test_biases_have_their_deviation():
    b = np.asarray(mean_field(1.0, 0.3).bias(jax.random.key(0), 10_000))
    assert abs(b.std() / 0.3 - 1) <= 5 * (1 / (2 * b.size)) ** 0.5
    assert not lecun_normal.bias(jax.random.key(0), 7).any()


def test_weight_and_bias_are_drawn_apart():
    params, _ = Dense(7, mean_field(1.0, 1.0)).init(jax.random.key(0), (1,))
    assert not np.isclose(np.abs(params["W"].ravel()), np.abs(params["b"])).any()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: initializer("he_nromal"), "did you mean 'he_normal'"),
        (lambda: initializer("he_normal(2)"), "write 'he_normal' alone"),
        (lambda: initializer("normal(a)"), "write 'normal' alone"),
        (lambda: initializer("mean_field(-1)"), "sigma_w must be finite and at least 0, got -1"),
        (lambda: mean_field(1.0, -0.1), "sigma_b must be finite and at least 0, got -0.1"),
        (lambda: Initializer(scale=-1.0), "at least 0, got scale=-1"),
        (lambda: Initializer(bias_stddev=-1.0), "bias_stddev=-1"),
        (lambda: initializer("orthogonal(-1)"), "gain must be finite and at least 0, got -1"),
        (lambda: initializer(2.0), "must be a name or of type Initializer, got 2.0"),
        (lambda: Dense(True), "must be a positive integer, got True"),
        (lambda: fbp.LayerNorm(float("nan")), "finite and at least 0, got nan"),
        (lambda: fbp.mlp((3, 4, 2), activation=[None]), "must be a name or of type Nonlinearity, got None"),
        (lambda: Dense(3, "xavier"), "unknown initializer 'xavier'"),
    ],
)
def test_refused(make, said):
    with pytest.raises(fbp.FbpError) as error:
        make()
    assert said in str(error.value)


def test_names_are_the_functions():
    assert initializer("normal(0.5)") == normal(0.5)
    assert initializer("constant(2)") == constant(2.0)
    assert initializer("orthogonal(2)") == orthogonal(2.0)


D3, D4, TANH, RELU = Dense(3), Dense(4), Activation("tanh"), Activation("relu")
ARCHITECTURES = {
    "linear": (fbp.mlp((2, 4)), (D4,)),
    "plain": (fbp.mlp((2, 3, 3, 4)), (D3, RELU, D3, RELU, D4)),
    "activation a layer": (fbp.mlp((2, 3, 3, 4), ("tanh", "relu")), (D3, TANH, D3, RELU, D4)),
    "initializer": (fbp.mlp((2, 3, 4), init="orthogonal"), (Dense(3, "orthogonal"), RELU, Dense(4, "orthogonal"))),
    "norm and dropout": (
        fbp.mlp((2, 3, 4), "tanh", norm="layer", dropout=0.1),
        (D3, LayerNorm(), TANH, Dropout(0.1), D4),
    ),
    "norm as a layer": (fbp.mlp((2, 3, 4), norm=BatchNorm(1e-3)), (D3, BatchNorm(1e-3), RELU, D4)),
    "no norm": (fbp.mlp((2, 3, 4), norm="none"), (D3, RELU, D4)),
    "residual": (fbp.mlp((2, 3, 3, 4), residual=0.5), (D3, Residual(Serial(RELU, D3), 0.5), RELU, D4)),
    "repeat": (fbp.mlp((2, 3, 3, 3, 4), repeat=True), (D3, Repeat(Serial(RELU, D3), 2), RELU, D4)),
    "repeat, checkpoint": (
        fbp.mlp((2, 3, 3, 3, 4), repeat=True, checkpoint=2),
        (D3, Repeat(Serial(RELU, D3), 2, checkpoint=2), RELU, D4),
    ),
    "repeat, residual": (
        fbp.mlp((2, 3, 3, 3, 4), residual=True, repeat=True),
        (D3, Repeat(Residual(Serial(RELU, D3)), 2), RELU, D4),
    ),
    "repeat from many blocks on": (
        fbp.mlp((2, *(3,) * (REPEAT_FROM + 1), 4)),
        (D3, Repeat(Serial(RELU, D3), REPEAT_FROM), RELU, D4),
    ),
    "no repeat below": (fbp.mlp((2, *(3,) * REPEAT_FROM, 4)), (D3, *(RELU, D3) * (REPEAT_FROM - 1), RELU, D4)),
    "repeat where checkpointed": (
        fbp.mlp((2, 3, 3, 3, 4), checkpoint=2),
        (D3, Repeat(Serial(RELU, D3), 2, checkpoint=2), RELU, D4),
    ),
}


@pytest.mark.parametrize(("net", "layers"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_mlp_has_the_layers(net, layers):
    assert net == Serial(*layers, shape=(2,))
    params = jax.eval_shape(lambda key: net.init(key)[0], jax.random.key(0))
    assert jax.eval_shape(net.forward, params, jnp.zeros((5, 2)))[0].shape == (5, 4)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: fbp.mlp((3,)), "at least two positive integers"),
        (lambda: fbp.mlp((3, 0, 2)), "got (3, 0, 2)"),
        (lambda: fbp.mlp((3, 2.5, 2)), "got (3, 2.5, 2)"),
        (lambda: fbp.mlp((3, 4, 4, 2), ("tanh",)), "one for each of the 2 hidden layers, got 1"),
        (lambda: fbp.mlp((3, 4, 2), "rleu"), "did you mean 'relu'"),
        (lambda: fbp.mlp((3, 4, 2), norm="bacth"), "did you mean 'batch'"),
        (lambda: fbp.mlp((3, 4, 2), dropout=1.0), "[0, 1), got 1.0"),
        (lambda: fbp.mlp((3, 4, 2), dropout=-0.1), "[0, 1), got -0.1"),
        (lambda: fbp.mlp((3, 4, 2)).init(jax.random.key(0), (4,)), "must have the shape (3,), got (4,)"),
        (lambda: Serial(D3).init(jax.random.key(0)), "the shape of one example must be known"),
        (lambda: Serial(D3, "relu"), "arguments of Serial must be layers, got 'relu'"),
        (lambda: Residual(D3).init(jax.random.key(0), (2,)), "must keep the shape of its input, got (2,) -> (3,)"),
        (lambda: Repeat(D3, 2).init(jax.random.key(0), (2,)), "must keep the shape of its input, got (2,) -> (3,)"),
        (lambda: Repeat(D3, 0), "depth of Repeat must be a positive integer, got 0"),
        (lambda: Repeat(D3, 2, checkpoint=0), "checkpoint of Repeat"),
        (lambda: Dense(0), "width of Dense must be a positive integer, got 0"),
    ],
)
def test_networks_refused(make, said):
    with pytest.raises(fbp.FbpError) as error:
        make()
    assert said in str(error.value)


def test_copies_of_repeat_are_drawn_apart():
    params, _ = Repeat(Serial(TANH, D3), 4).init(jax.random.key(0), (3,))
    assert len(np.unique(params[1]["W"])) == 4 * 9


def data(m=64, n=5) -> jax.Array:
    return jnp.asarray(1.0 + 2.0 * np.random.default_rng(0).normal(size=(m, n)), np.float32)


@pytest.mark.parametrize(
    "net",
    [
        fbp.mlp((5, 6, 6, 6, 3), "tanh", "orthogonal", repeat=False),
        fbp.mlp((5, 6, 6, 6, 3), "relu", "orthogonal", repeat=True),
        fbp.mlp((5, 6, 6, 6, 3), "gelu", residual=0.5, repeat=True, checkpoint=2),
        Serial(Dense(6), Residual(Serial(TANH, fbp.Checkpoint(Dense(6)))), shape=(5,)),
    ],
    ids=["serial", "repeat", "residual in repeat", "residual"],
)
def test_lsuv_gives_every_dense_output_variance_one(net):
    params, _ = net.init(jax.random.key(0))
    scaled = fbp.lsuv(net, params, data())
    trace = fbp.trace(net, fbp.SoftmaxCrossEntropy(), scaled, data(), jnp.zeros(64, int))
    np.testing.assert_allclose([Z.var() for Z in trace.Z.values()], 1.0, rtol=1e-4)
    assert not any(b.any() for b in trace.b.values())
    assert jax.tree.structure(scaled) == jax.tree.structure(params)


def test_lsuv_leaves_a_constant_layer_alone():
    params = {"W": jnp.zeros((5, 3)), "b": jnp.ones(3)}
    scaled = fbp.lsuv(D3, params, data())
    np.testing.assert_array_equal(scaled["W"], params["W"])


def algorithm_2(gamma, beta, batches, eps):
    """Ioffe & Szegedy (2015), Algorithm 2, steps 8 to 11, in numpy: (scale, shift)."""
    mean = np.mean([batch.mean(axis=0) for batch in batches], axis=0)
    m = len(batches[0])
    variance = m / (m - 1) * np.mean([batch.var(axis=0) for batch in batches], axis=0)
    scale = gamma / np.sqrt(variance + eps)
    return scale, beta - scale * mean


@pytest.mark.parametrize(("examples", "batch_size"), [(64, 16), (70, 16), (64, 64), (10, 16)])
def test_population_statistics_are_those_of_algorithm_2(examples, batch_size):
    X, eps = data(examples), 1e-2
    params = {"gamma": jnp.asarray([1.0, -2.0, 0.5, 0.0, 3.0]), "beta": jnp.arange(5.0)}
    net, frozen = fbp.with_population_statistics(BatchNorm(eps), params, X, batch_size=batch_size)
    size = min(examples, batch_size)
    batches = np.asarray(X, np.float64)[: examples // size * size].reshape(-1, size, 5)
    scale, shift = algorithm_2(np.asarray(params["gamma"]), np.asarray(params["beta"]), batches, eps)
    assert net == fbp.Affine()
    np.testing.assert_allclose(frozen["scale"], scale, rtol=1e-5)
    np.testing.assert_allclose(frozen["shift"], shift, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("repeat", [False, True])
def test_population_statistics_of_one_batch_differ_by_the_unbiased_factor_only(repeat):
    """With scale' = sqrt(m / (m - 1)) scale put back, inference on that batch is the batch's own forward pass."""
    net = fbp.mlp((5, 6, 6, 6, 3), "tanh", norm=BatchNorm(0.0), repeat=repeat)
    params, _ = net.init(jax.random.key(1))
    X = data(32)
    frozen_net, frozen = fbp.with_population_statistics(net, params, X, batch_size=32)
    factor = (32 / 31) ** 0.5
    biased = jax.tree.map_with_path(lambda path, p: factor * p if path[-1].key in ("scale", "shift") else p, frozen)
    np.testing.assert_allclose(frozen_net.forward(biased, X)[0], net.forward(params, X)[0], rtol=1e-4, atol=1e-5)
    assert np.abs(frozen_net.forward(frozen, X)[0] - net.forward(params, X)[0]).max() > 1e-3


def test_population_statistics_need_two_examples():
    with pytest.raises(fbp.FbpError, match="at least two examples"):
        fbp.with_population_statistics(BatchNorm(), BatchNorm().init(None, (5,))[0], data(1))


def test_nothing_to_do_without_batch_normalization():
    net = fbp.mlp((5, 6, 3), norm="layer")
    params, _ = net.init(jax.random.key(0))
    assert fbp.with_population_statistics(net, params, data()) == (net, params)


@pytest.mark.parametrize(("init", "deviation"), [(None, 0.02), ("lecun_normal", 64**-0.5)])
def test_the_last_weights_of_a_branch_are_smaller(init, deviation):
    options = {} if init is None else {"init": init}
    params, _ = fbp.gpt(300, 8, 64, 8, 2, hidden=64, **options).init(jax.random.key(0))
    assert float(np.std(params["tokens"]["E"])) == pytest.approx(deviation, rel=0.02)
    blocks = params["blocks"]
    found = {name: float(np.std(blocks[name]["W"])) for name in ("q", "up", "o", "down")}
    expected = {"q": deviation, "up": deviation, "o": deviation / 4, "down": deviation / 4}
    assert found == pytest.approx(expected, rel=0.02)
