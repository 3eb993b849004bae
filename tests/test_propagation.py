"""Steps of theory against quadrature of others, networks sampled in float64, and what `fbp.flow` measures."""

import math
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import fbp
from fbp.errors import FbpError
from fbp.flow import confidence_interval, measure
from fbp.theory import propagation, slope_correlation
from fbp.theory.quadrature import derivative_of, elementwise, function_of

HE = math.sqrt(2)
SURE = 0.999


class TestSlopeCorrelation:
    @pytest.mark.parametrize("c", [-1.0, -0.6, 0.0, 0.3, 0.99, 1.0])
    def test_of_relu_is_closed(self, c):
        assert slope_correlation("relu", 3.0, c) == pytest.approx(1 - math.acos(c) / math.pi, abs=1e-12)

    @pytest.mark.parametrize(("name", "c"), [("tanh", 0.5), ("tanh", -0.7), ("gelu", 0.2), ("sigmoid", 0.95)])
    def test_against_scipy(self, name, c):
        q, d = 2.0, derivative_of(elementwise(name))
        density = lambda x, y: math.exp(-(x * x + y * y) / 2) / (2 * math.pi)
        slope = lambda z: float(d(np.array([z]))[0])
        one, two = lambda x: math.sqrt(q) * x, lambda x, y: math.sqrt(q) * (c * x + math.sqrt(1 - c * c) * y)
        grid = np.linspace(-8, 8, 401)
        x, y = np.meshgrid(grid, grid, indexing="ij")
        # The trapezoidal rule converges exponentially for smooth functions that vanish at the ends.
        weight = np.exp(-(x**2 + y**2) / 2)
        product = np.sum(weight * d(one(x)) * d(two(x, y))) / np.sum(weight)
        square = integrate.quad(lambda x: density(x, 0) * math.sqrt(2 * math.pi) * slope(one(x)) ** 2, -8, 8)[0]
        assert slope_correlation(name, q, c) == pytest.approx(product / square, rel=1e-7)

    def test_of_hard_tanh(self):
        """A derivative with jumps: the probability of a box, over that of an interval."""
        q, c = 1.5, 0.6
        s = 1 / math.sqrt(q)
        norm = 2 * math.pi * math.sqrt(1 - c * c)
        density = lambda y, x: math.exp(-(x * x - 2 * c * x * y + y * y) / (2 * (1 - c * c))) / norm
        box = integrate.dblquad(density, -s, s, -s, s)[0]
        assert slope_correlation("hard_tanh", q, c) == pytest.approx(box / math.erf(s / math.sqrt(2)), rel=1e-8)

    def test_what_is_refused(self):
        with pytest.raises(FbpError, match="from -1 to 1"):
            slope_correlation("relu", 1.0, 1.5)


def sample(name, sigma_w, widths, networks, examples, *, alpha=None, batch_norm=False, seed=0):
    """Networks in float64 with a common cotangent: per network the mean over examples of ||dZ_0i||^2 / ||dZ_L||^2, and
    over pairs of dZ_0i . dZ_0j / ||dZ_L||^2, (networks, 2). Examples of Z_0 are independent."""
    random, a = np.random.default_rng(seed), elementwise(name)
    g, d = function_of(a), derivative_of(a)
    found = []
    for _ in range(networks):
        Z, kept = random.normal(size=(examples, widths[0])), []
        for n, after in pairwise(widths):
            W = sigma_w / math.sqrt(n) * random.normal(size=(n, after))
            spread = Z.std(0) if batch_norm else 1.0
            Y = (Z - Z.mean(0)) / spread if batch_norm else Z
            kept.append((Y, spread, W))
            out = g(Y) @ W
            Z = out if alpha is None else Z + alpha * out
        dZ = np.broadcast_to(random.normal(size=widths[-1]), Z.shape)
        first = np.sum(dZ[0] ** 2)
        for Y, spread, W in reversed(kept):
            own = (dZ if alpha is None else alpha * dZ) @ W.T * d(Y)
            if batch_norm:
                own = (own - own.mean(0) - Y * (own * Y).mean(0)) / spread
            dZ = own if alpha is None else dZ + own
        products = dZ @ dZ.T / first
        square = np.trace(products) / examples
        found.append((square, (products.sum() - examples * square) / (examples * (examples - 1))))
    return np.array(found)


def covers(samples, expected, most):
    """Whether the interval over networks covers the expectation, and is narrow enough to say so."""
    low, mean, high = confidence_interval(samples, SURE)
    assert low < expected < high, (low, expected, high)
    assert high - low < most * abs(mean)


class TestGradientsOfTwoExamples:
    @pytest.mark.parametrize(("name", "alpha"), [("relu", None), ("tanh", None), ("relu", 1.0), ("gelu", 0.5)])
    def test_sampled(self, name, alpha):
        found = sample(name, HE, [300] * 6, 40, 6, alpha=alpha)
        expected = propagation(name, HE, depth=5, residual=False if alpha is None else alpha, c_0=0.0)
        gain = 10 ** expected.log10_dZ[0]
        covers(found[:, 0], gain, 0.3)
        covers(found[:, 1], gain * expected.dZ_correlation[0], 0.6)

    def test_four_relu_layers(self):
        """Balduzzi et al. (2017) say 1/2 a layer; examples become alike on the way, so that less is lost."""
        found = propagation("relu", HE, depth=4, c_0=0.0)
        assert found.dZ_correlation[0] == pytest.approx(0.1416, abs=5e-5)
        kernel = lambda c: (math.sqrt(1 - c * c) + c * (math.pi - math.acos(c))) / math.pi
        c, product = 0.0, 1.0
        for l in range(4):
            assert found.correlation[l] == pytest.approx(c, abs=1e-12)
            c, product = kernel(c), product * (1 - math.acos(c) / math.pi)
        assert found.dZ_correlation[0] == pytest.approx(product, rel=1e-12)

    @pytest.mark.parametrize("alpha", [None, 0.7])
    def test_through_batch_norm(self, alpha):
        batch = 8
        found = sample("relu", HE, [400] * 5, 24, batch, alpha=alpha, batch_norm=True)
        residual = False if alpha is None else alpha
        options = {"norm": "batch", "batch": batch, "residual": residual, "c_0": 0.0, "dZ_correlation": 1.0}
        expected = propagation("relu", HE, depth=4, **options)
        gain = 10 ** expected.log10_dZ[0]
        covers(found[:, 0], gain, 0.4)
        covers(found[:, 1], gain * expected.dZ_correlation[0], 0.5)
        assert alpha is not None or expected.dZ_correlation[0] == pytest.approx(-1 / 7)

    def test_scaled_residual_networks_do_not_shatter(self):
        """Others do, unscaled residual ones later and then as far."""
        left = lambda depth, residual: propagation("relu", HE, depth=depth, residual=residual, c_0=0.0).dZ_correlation[
            0
        ]
        assert left(4, False) < 0.5 * left(4, True)
        assert left(50, True) < 0.02
        assert left(50, 50**-0.5) == pytest.approx(left(200, 200**-0.5), abs=0.02)
        assert left(50, 50**-0.5) > 0.3


class TestGradientAlongZ:
    def test_decides_softplus(self):
        """Sampled networks decay at the rate of the gradient along Z, not at the slope's."""
        width, depth = 150, 14
        gains = sample("softplus", HE, [width] * (depth + 1), 600, 2)[:, 0]
        found = 10 ** propagation("softplus", HE, depth=depth, width=width).log10_dZ[0]
        limit = 10 ** propagation("softplus", HE, depth=depth).log10_dZ[0]
        low, _, high = confidence_interval(gains, SURE)
        assert 1.5 * limit < low < found < high

    def test_is_first_order_in_one_over_n(self):
        wide, wider = (propagation("softplus", HE, depth=3, width=n).log10_dZ[0] for n in (10**4, 10**5))
        limit = propagation("softplus", HE, depth=3).log10_dZ[0]
        assert (wide - limit) / (wider - limit) == pytest.approx(10, rel=1e-3)

    def test_is_nothing_for_homogeneous_functions(self):
        for name in ("relu", "linear", "leaky_relu(0.3)"):
            found = propagation(name, 1.3, depth=6, width=10)
            np.testing.assert_allclose(found.backward, propagation(name, 1.3, depth=6).backward, rtol=1e-12)


N, DEPTH = 256, 8
# Wide, as theory leaves out what is one part in the width a layer.
SQUARE = (N,) * (DEPTH + 1)
BLOCK = fbp.Residual(fbp.Serial(fbp.Activation("tanh"), fbp.Dense(N, "lecun_normal")), 0.5)
NETWORKS = {
    "residual": fbp.mlp(SQUARE, "relu", "he_normal", residual=True),
    "scaled residual": fbp.mlp(SQUARE, "gelu", "mean_field(1.5, 0.3)", residual=0.3),
    "layer norm": fbp.mlp(SQUARE, "tanh", "he_normal", norm="layer"),
    "rms norm, residual": fbp.mlp(SQUARE, "relu", "he_normal", norm="rms", residual=True),
    "batch norm": fbp.mlp(SQUARE, "relu", "glorot_normal", norm="batch"),
    "batch norm, residual": fbp.mlp(SQUARE, "tanh", "he_normal", norm="batch", residual=0.5),
    "post norm": fbp.Serial(fbp.Dense(N), *[BLOCK, fbp.LayerNorm()] * 6, fbp.Dense(N, "lecun_normal"), shape=(N,)),
    "unequal widths": fbp.mlp((N, 150, 300, 400, 200, 200, 250, 120), "tanh", "glorot_normal"),
    "orthogonal, unequal": fbp.mlp((N, 150, 300, 400, 250, 150), "relu", "orthogonal"),
    "softplus": fbp.mlp(SQUARE, "softplus", "he_normal"),
    "blocks alone": fbp.Serial(*[BLOCK] * 6, shape=(N,)),
    "lines": fbp.Serial(
        fbp.Dense(N),
        *[
            fbp.Network(
                norm=fbp.LayerNorm(),
                up=fbp.Dense(N, "he_normal"),
                act=fbp.Activation("relu"),
                down=fbp.Dense(N, "lecun_normal"),
                end=fbp.Add().of("input", "down"),
            )
        ]
        * 4,
        shape=(N,),
    ),
    "branch of two layers": fbp.Serial(
        fbp.Dense(N),
        *[
            fbp.Residual(
                fbp.Serial(fbp.LayerNorm(), fbp.Dense(150), fbp.Activation("gelu"), fbp.Dense(N, "lecun_normal")), 0.7
            )
        ]
        * 5,
        shape=(N,),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_expected_is_what_is_measured(name):
    """Lengths, gradients and their correlations in the stream, and gradients inside of branches, by one batch of 8."""
    X = jnp.asarray(np.random.default_rng(1).normal(size=(8, N)), jnp.float32)
    flow = measure(NETWORKS[name], X=X, seeds=30, common_cotangent="batch" not in name)
    relative = lambda x: 10 ** (2 * (x - x[..., -1:]))
    for quantity in ("stream_log10_dZ", "dZ"):
        line, measured = flow.expected(0, quantity), np.asarray(flow.values(quantity)[0], np.float64)
        first = 0
        if quantity == "dZ":  # relative to the stream, as the last layer may stand in a branch
            assert len(line) == len(flow.layers)
            # Theory begins behind a first residual block.
            first = int(name == "blocks alone")
            assert np.isnan(line).sum() == first
        for l in (first, len(line) // 2):
            covers(relative(measured)[:, l], relative(line)[l], 1.0)
    # A batch at a time: examples of one network are not independent, networks are.
    for quantity in ("stream_log10_mean_square", "log10_mean_square"):
        line, measured = flow.expected(0, quantity), 10 ** np.asarray(flow.values(quantity)[0], np.float64)
        for l in (len(line) // 2, len(line) - 1):
            covers(measured[:, l], 10 ** line[l], 0.7)
    for quantity in ("stream_correlation", "stream_dZ_cosine"):
        line, measured = flow.expected(0, quantity), np.asarray(flow.values(quantity)[0], np.float64)
        for l in (0, len(line) // 2):
            low, _, high = confidence_interval(measured[:, l], SURE)
            # The cosine of a sum is not the quotient of means: one part in the width.
            assert low - 3 / N < line[l] < high + 3 / N, quantity
    found = flow.diagnosis()
    assert found.theory == pytest.approx(found.rate, rel=0.06)


def test_a_scaled_residual_network_keeps_its_gradients():
    """Read in the stream: by 1 + 1/L a block."""
    flow = measure(fbp.mlp((64,) * 102, "relu", "he_normal", residual=0.1), seeds=10)
    found = flow.diagnosis()
    assert found.rate == pytest.approx(1.01, abs=0.004)
    assert found.theory == pytest.approx(1.01, abs=1e-3)
    # Branch readings beside it: 1/100 of what the stream has.
    inside = 2 * (flow.log10.dZ - flow.stream.log10_dZ)
    assert np.all(np.abs(inside[..., 1:] + 2) < 1e-3)


def test_lengths_beyond_float64_leave_the_rate():
    flow = measure(fbp.mlp((16,) * 201, "relu", "mean_field(100)", repeat=True), seeds=2)
    assert flow.diagnosis().theory == pytest.approx(5000, rel=1e-6)


def test_where_no_theory_holds():
    for net, reason in {
        fbp.mlp((8,) * 4, "tanh", "constant(0.1)"): "constant weights",
        fbp.Serial(fbp.Dense(8), fbp.Activation("relu"), BLOCK_OF_8, shape=(8,)): "in front of a residual block",
        fbp.Network(
            a=fbp.Dense(8), b=fbp.Dense(8), c=fbp.Dense(8).of("a"), end=fbp.Add().of("a", "b", "c"), shape=(8,)
        ): "branches other than residual blocks",
        fbp.Serial(
            fbp.Dense(8), fbp.Residual(fbp.Serial(fbp.Dense(8), fbp.Activation("relu"))), shape=(8,)
        ): "a branch",
    }.items():
        flow = measure(net, seeds=2)
        assert reason in flow.stack
        assert np.isnan(flow.expected()).all()
    sequences = fbp.Serial(
        fbp.Dense(8), fbp.BatchNorm(), fbp.Activation("relu"), fbp.Dense(8), fbp.Dense(8), shape=(5, 8)
    )
    assert "positions of sequences" in measure(sequences, seeds=2).stack
    random, equal = jnp.arange(32.0).reshape(4, 8) ** 0.5 % 1, jnp.ones((4, 8))
    for X, reason in ((random[:2], "at least 4 examples"), (equal, "the correlation 1"), (0 * equal, "mean square 0")):
        flow = measure(fbp.mlp((8,) * 5, "relu", norm="batch"), X=X, seeds=2)
        assert reason in flow.diagnosis().note
        assert np.isnan(flow.expected()).all()
    with pytest.raises(FbpError, match="quantity of theory"):
        measure(fbp.mlp((8,) * 4), seeds=2).expected(0, "dW")
    with pytest.raises(FbpError, match="common cotangent"):
        measure(fbp.mlp((8,) * 4), fbp.HalfSquaredError(), jnp.ones((2, 8)), jnp.ones((2, 8)), common_cotangent=True)


BLOCK_OF_8 = fbp.Residual(fbp.Serial(fbp.Activation("tanh"), fbp.Dense(8)))
