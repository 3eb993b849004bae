"""Mean-field theory against published numbers, other quadrature, closed forms and sampled networks."""

import math
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

from fbp.activations import Nonlinearity, activation
from fbp.errors import FbpError
from fbp.theory import (
    edge_of_chaos,
    jacobian_variance,
    kappa,
    length_map,
    linear_second_moment,
    mean_field,
    propagation,
    relu_log_norm,
    second_moment,
    slope_moment,
    softmax_head,
    tailored_leaky_slope,
)
from fbp.theory.batch_norm import batch_norm_moments
from fbp.theory.maps import secant
from fbp.theory.quadrature import derivative_of, elementwise, function_of

NAMES = [name for name in activation if name != "softmax"] + ["leaky_relu(0.2)", "elu(0.5)", "scaled_tanh(1,3)"]
each_activation = pytest.mark.parametrize("name", NAMES)
HE = math.sqrt(2)


def tanh_on_edge():
    return mean_field("tanh", edge_of_chaos("tanh", math.sqrt(0.05)), math.sqrt(0.05))


class TestPublished:
    """Every number of the table of published ones that needs no sampling, to the digits that are given there."""

    def test_glorot_third(self):
        small = propagation("tanh", math.sqrt(1 / 3), depth=20, q_0=1e-8)
        assert small.backward == pytest.approx(1 / 3, rel=1e-7)
        # Activations shrink as much as gradients grow towards the output: weight gradients are alike in all layers.
        assert 10**small.log10_dW == pytest.approx(1.0, rel=1e-6)

    def test_lecun_tanh(self):
        field = mean_field("scaled_tanh", 1.0)
        assert (round(field.q_star, 4), round(field.chi_1, 4), field.phase) == (0.3824, 1.0192, "chaotic")

    @pytest.mark.parametrize(("variance", "rate"), [(2, 1.0), (1, 0.5)])
    def test_he_factor_2(self, variance, rate):
        assert propagation("relu", math.sqrt(variance), depth=50).backward == pytest.approx(rate, rel=1e-13)

    @pytest.mark.parametrize("slope", [0, 0.01, 0.2, 1])
    def test_he_leaky(self, slope):
        sigma_w = math.sqrt(2 / (1 + slope**2))
        field = mean_field(f"leaky_relu({slope})", sigma_w)
        assert field.chi_1 == pytest.approx(1, abs=1e-13)
        assert field.phase == "critical"
        assert field.critical_sigma_w == pytest.approx(sigma_w, rel=1e-14)

    def test_sigmoid_chi(self):
        assert round(mean_field("sigmoid", 1.0).chi_1, 4) == 0.0557

    @pytest.mark.parametrize(
        ("variance", "chi", "q", "phase"),
        [
            (1, 0.7590, 0.1936, "ordered"),
            (1.3, 0.8802, 0.3153, "ordered"),
            (2.5, 1.1335, 1.0640, "chaotic"),
            (4, 1.3424, 2.1955, "chaotic"),
        ],
    )
    def test_mf_tanh(self, variance, chi, q, phase):
        field = mean_field("tanh", math.sqrt(variance), math.sqrt(0.05))
        assert (round(field.chi_1, 4), round(field.q_star, 4), field.phase) == (chi, q, phase)

    def test_edge_of_chaos(self):
        edge = edge_of_chaos("tanh", np.sqrt([2.01e-5, 0.01, 0.05, 0.1, 0.2, 0.5])) ** 2
        np.testing.assert_array_equal(np.round(edge, 4), [1.05, 1.4242, 1.761, 1.9861, 2.2852, 2.8432])
        assert round(edge[2], 5) == 1.76095  # 1.760955, printed as 1.76096

    def test_edge_erf(self):
        edge = edge_of_chaos("erf", np.sqrt([0.05, 0.1])) ** 2
        np.testing.assert_array_equal(np.round(edge, 5), [1.37584, 1.55212])

    def test_pennington_var(self):
        tanh = tanh_on_edge()
        cases = [("relu", 1.0, "gaussian"), ("relu", 1.0, "orthogonal")]
        cases += [("tanh", tanh.q_star, "gaussian"), ("tanh", tanh.q_star, "orthogonal")]
        found = [round(jacobian_variance(name, q, 10, weights), 2) for name, q, weights in cases]
        assert found == [20, 10, 13.42, 3.42]

    def test_saxe_moment(self):
        assert 1 + jacobian_variance("linear", 1.0, 10) == pytest.approx(11, rel=1e-12)
        assert jacobian_variance("linear", 1.0, 100, "orthogonal") == pytest.approx(0, abs=1e-10)
        assert linear_second_moment(10, 400) == pytest.approx(11.1406, abs=1e-4)
        assert linear_second_moment(10, 10**9) == pytest.approx(11, rel=1e-7)

    def test_bn_relu(self):
        assert round(batch_norm_moments(elementwise("relu"), 64).backward, 4) == 1.4931
        limit = propagation("relu", 1.0, norm="batch").backward[0]
        assert limit == pytest.approx(math.pi / (math.pi - 1), rel=1e-12)
        assert (round(limit, 5), round(math.sqrt(limit), 4)) == (1.46694, 1.2112)

    def test_hanin_var(self):
        exact = relu_log_norm([100] * 20)
        assert 20 / 100 * kappa("relu", 1.0) == pytest.approx(1.0)
        assert round(exact.variance, 2) == 1.04
        assert exact.mean == pytest.approx(-0.508, abs=5e-4)

    def test_res_double(self):
        block = propagation("relu", HE, depth=10, residual=True)
        assert block.forward == pytest.approx(2, rel=1e-12)
        assert block.backward == pytest.approx(2, rel=1e-12)
        skip = propagation("relu", HE, depth=10, residual=0.0)
        assert set(skip.forward) == set(skip.backward) == {1.0}

    def test_res_scaled(self):
        block = propagation("relu", HE, depth=100, residual=0.1)
        assert round(block.q[-1], 3) == 2.705
        assert round(10 ** block.log10_dZ[0], 3) == 2.705

    @pytest.mark.parametrize("norm", ["layer", "rms"])
    def test_preln_relu(self, norm):
        block = propagation("relu", HE, depth=2000, residual=True, norm=norm)
        exponent = (block.log10_dZ[200] - block.log10_dZ[2000]) / math.log10(block.q[2000] / block.q[200])
        assert exponent == pytest.approx(1, rel=1e-10)
        assert round((block.log10_dZ[200] - block.log10_dZ[2000]) / math.log10(10), 2) == 1.00

    @pytest.mark.parametrize(("depth", "slope"), [(50, 0.43052), (100, 0.57044)])
    def test_tat_leaky(self, depth, slope):
        assert round(tailored_leaky_slope(depth), 5) == slope

    def test_hayou_maps(self):
        relu = mean_field("relu", HE).distances(1000, 0.0)
        assert round(1000**2 * relu[-1], 2) == 43.13
        tanh = tanh_on_edge()
        # The table says 6.207. From orthogonal inputs it is 6.2063 with the first length at q*, 6.2075 with it at 1.
        assert 3000 * tanh.distances(3000, 0.0)[-1] == pytest.approx(6.20627, abs=1e-5)
        assert 3000 * tanh.distances(3000, 0.0, q_0=1.0)[-1] == pytest.approx(6.20751, abs=1e-5)

    def test_ce_init(self):
        head = softmax_head(10)
        assert head.loss == pytest.approx(math.log(10), rel=1e-13)
        assert math.sqrt(head.dZ_mean_square) == pytest.approx(0.948683, abs=5e-7)

    def test_he_head(self):
        # The table says 3.111 and 1.0758, as sampling would; the integrals give these.
        head = softmax_head(10, 2.0)
        assert head.loss == pytest.approx(3.110432, abs=1e-6)
        assert head.dZ_mean_square == pytest.approx(1.075863, abs=1e-6)


class TestQuadrature:
    @each_activation
    @pytest.mark.parametrize("q", [0.7, 300.0])
    def test_against_scipy(self, name, q):
        """One-dimensional averages, with the kinks told to an adaptive rule."""
        g, d = function_of(elementwise(name)), derivative_of(elementwise(name))
        cuts = [-30, *sorted(np.clip(np.array([-3, -1, -0.1, 0, 0.1, 1, 3]) / math.sqrt(q), -29, 29)), 30]

        def average(f):
            integrand = lambda x: (
                float(f(np.array(math.sqrt(q) * x)) ** 2) * math.exp(-x * x / 2) / math.sqrt(2 * math.pi)
            )
            parts = [integrate.quad(integrand, a, b, epsabs=1e-13) for a, b in pairwise(cuts) if a < b]
            return sum(value for value, _ in parts)

        assert second_moment(name, q) == pytest.approx(average(g), rel=1e-9, abs=1e-12)
        assert slope_moment(name, q) == pytest.approx(average(d), rel=1e-9, abs=1e-12)

    @pytest.mark.parametrize("q", [1e-6, 1.0, 1e6])
    def test_closed_forms(self, q):
        erf = 2 / math.pi * math.asin(2 * q / (1 + 2 * q))
        assert second_moment("erf", q) == pytest.approx(erf, rel=1e-12)
        assert slope_moment("erf", q) == pytest.approx(4 / math.pi / math.sqrt(1 + 4 * q), rel=1e-12)
        inside = special.erf(1 / math.sqrt(2 * q))
        assert slope_moment("hard_tanh", q) == pytest.approx(inside, rel=1e-12)
        assert slope_moment("relu", q, 3) == pytest.approx(0.5, rel=1e-13)

    @pytest.mark.parametrize("q", [0.01, 1.0, 50.0])
    @pytest.mark.parametrize("c", [-0.9, 0.0, 0.4, 0.999, 1 - 1e-9])
    def test_correlations_of_erf(self, q, c):
        """Williams (1997)."""
        kernel = lambda c: 2 / math.pi * math.asin(2 * q * c / (1 + 2 * q))
        expected = (1.69 * kernel(c) + 0.04) / (1.69 * kernel(1) + 0.04)
        assert mean_field("erf", 1.3, 0.2).correlations(1, c, q)[1] == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("theta", [1e-4, 0.01, 0.011, 0.5, 2.0, 3.1])
    def test_correlations_of_leaky_relu(self, theta):
        """The closed form against the quadrature: one more name for the same function."""
        leaky = elementwise("leaky_relu(0.2)")
        alias = Nonlinearity("alias", leaky.function, leaky.derivative, arguments=leaky.arguments, kinks=leaky.kinks)
        assert secant(leaky, 1.0, theta) == pytest.approx(secant(alias, 1.0, theta), rel=1e-11)

    @pytest.mark.parametrize("batch", [4, 5, 8, 16, 64, 500])
    @pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
    def test_batch_norm_in_closed_form(self, batch, slope):
        B, rho = batch, -1 / (batch - 1)
        kernel = lambda r: (math.sqrt(1 - r * r) + r * (math.pi - math.acos(r))) / (2 * math.pi)
        both = 0.25 + math.asin(rho) / (2 * math.pi)
        square, product = (1 + slope**2) / 2, (1 + slope**2) * kernel(rho) - 2 * slope * kernel(-rho)
        slopes = both * (1 + slope**2) + (1 - 2 * both) * slope
        trace = (1 - 1 / B) * ((B - 1) * square + slopes - square + product)
        expected = B / ((B - 1) * (B - 3)) * trace / (square - product)
        assert batch_norm_moments(elementwise(f"leaky_relu({slope})"), B).backward == pytest.approx(expected, rel=1e-8)
        if slope == 1:
            assert expected == pytest.approx((B - 2) / (B - 3), rel=1e-12)

    @pytest.mark.parametrize("variance", [0.5, 2.0, 50.0, 100.0])
    def test_head_of_two_classes(self, variance):
        """log(e^a + e^b) - a is the softplus of b - a, of twice the variance."""
        head, nodes = softmax_head(2, variance), np.linspace(-12, 12, 20001)
        weight = np.exp(-(nodes**2) / 2) / math.sqrt(2 * math.pi) * (nodes[1] - nodes[0])
        x = math.sqrt(2 * variance) * nodes
        assert head.loss == pytest.approx(weight @ np.logaddexp(0, x), rel=1e-8)
        assert head.dZ_mean_square == pytest.approx(weight @ (2 * special.expit(x) ** 2), rel=1e-8)


class TestMeanField:
    @each_activation
    @pytest.mark.parametrize(("sigma_w", "sigma_b"), [(0.6, 0.3), (1.1, 0.0), (1.2, 0.2)])
    def test_every_activation(self, name, sigma_w, sigma_b):
        field = mean_field(name, sigma_w, sigma_b)
        if math.isfinite(field.q_star) and field.q_star > 0:
            assert length_map(name, sigma_w, sigma_b, field.q_star) == pytest.approx(field.q_star, rel=1e-10)
        assert {"ordered": -1, "critical": 0, "chaotic": 1}[field.phase] == (
            0 if abs(field.chi_1 - 1) < 1e-5 else math.copysign(1, field.chi_1 - 1)
        )
        if field.phase == "ordered":
            assert field.c_star in (1.0, None)
        assert field.xi_c >= 0
        assert field.xi_q >= 0
        for attribute in ("q_star", "c_star", "xi_q", "xi_c", "critical_sigma_w"):
            value = getattr(field, attribute)
            assert (value is not None and math.isfinite(value)) or attribute in field.reasons

    @each_activation
    def test_maps_rise(self, name):
        lengths = length_map(name, 1.3, 0.1, np.logspace(-6, 6, 60))
        assert np.all(np.diff(lengths) > 0)
        field = mean_field(name, 1.3, 0.1)
        correlations = [field.correlations(1, c, 0.8)[1] for c in np.linspace(0, 1, 6)]
        assert np.all(np.diff(correlations) > 0)
        assert correlations[-1] == 1

    @each_activation
    def test_edge(self, name):
        """On the edge chi_1 is 1; where there is none, it says why."""
        for sigma_b in (0.0, 0.3):
            edge = edge_of_chaos(name, sigma_b)
            if math.isnan(edge):
                assert mean_field(name, 1.0, sigma_b).reasons["critical_sigma_w"]
            else:
                assert mean_field(name, edge, sigma_b).chi_1 == pytest.approx(1, abs=1e-6)

    def test_chaos(self):
        field = mean_field("tanh", 2.0, 0.1)
        assert 0 < field.c_star < 1 < field.chi_1
        assert field.correlations(1, field.c_star)[1] == pytest.approx(field.c_star, abs=1e-12)
        step = 1e-5
        up, down = (field.correlations(1, field.c_star + h)[1] for h in (step, -step))
        assert (up - down) / (2 * step) == pytest.approx(field.chi_c, rel=1e-8)
        assert mean_field("tanh", 2.0).c_star == 0

    @pytest.mark.parametrize("name", ["tanh", "hard_tanh", "gelu"])
    def test_depth_scales(self, name):
        """At finite depth the recursion approaches the fixed point at the rate that xi says."""
        field = mean_field(name, 0.9, 0.4)
        lengths = np.abs(field.lengths(25, field.q_star * 1.01) - field.q_star)
        assert lengths[-1] < 1e-2 * lengths[0]
        assert lengths[10] / lengths[5] == pytest.approx(math.exp(-5 / field.xi_q), rel=2e-2)
        distances = field.distances(50, 0.9)
        assert distances[-1] < 1e-2 * distances[0]
        assert distances[50] / distances[45] == pytest.approx(math.exp(-5 / field.xi_c), rel=1e-2)
        assert field.gradients(200, 2.0)[-1] == pytest.approx(field.chi_1, rel=1e-6)

    def test_interpolated_map_is_the_map(self):
        field = mean_field("elu", 1.2, 0.3)
        np.testing.assert_allclose(field.distances(80, 0.0)[:31], field.distances(30, 0.0), rtol=1e-11)

    def test_lengths_of_homogeneous_activations(self):
        assert mean_field("relu", HE, q_0=3.0).q_star == 3
        assert mean_field("relu", HE).fixed_points is None
        assert mean_field("relu", 1.0, 0.5).q_star == pytest.approx(0.5)
        assert mean_field("relu", HE, 0.1).q_star == math.inf
        assert mean_field("relu", 1.3).q_star == 0
        assert mean_field("linear", 1.0).c_star is None
        assert mean_field("relu", 2.0).phase == "chaotic"
        assert mean_field("relu", 2.0).c_star == 1

    def test_several_fixed_points(self):
        """gelu between sigma_w^2 = 2 and 4: short inputs vanish, long ones grow without bound."""
        low, high = (mean_field("gelu", math.sqrt(3), q_0=q) for q in (0.1, 1.0))
        assert low.fixed_points == high.fixed_points
        assert (low.q_star, high.q_star) == (0, math.inf)
        assert "q_star" in high.reasons
        assert low.lengths(200, 0.1)[-1] < 1e-6
        assert high.lengths(20, 1.0)[-1] > 1e3

    def test_selu_normalizes_itself(self):
        """Klambauer et al. (2017): mean 0 and variance 1 are a fixed point with sigma_w = 1."""
        assert mean_field("selu", 1.0).q_star == pytest.approx(1, rel=1e-9)

    def test_lengths_of_a_map_that_falls(self):
        spike = Nonlinearity(
            "spike", lambda Z: 3 * (abs(Z) < 1).astype(Z.dtype), lambda Z: 0 * Z, saves="input", kinks=(-1.0, 1.0)
        )
        field = mean_field(spike, 3.0)
        assert length_map(spike, 3.0, 0.0, field.q_star) == pytest.approx(field.q_star, rel=1e-9)
        assert field.critical_sigma_w is None

    @pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "selu", "hard_tanh"])
    @pytest.mark.parametrize(("sigma_w", "sigma_b"), [(1e5, 0), (1e3, 1e3), (1e-6, 0), (1e-6, 1e3), (0, 0)])
    def test_extremes(self, name, sigma_w, sigma_b):
        for q_0 in (1e-12, 1e12):
            field = mean_field(name, sigma_w, sigma_b, q_0)
            if 0 < field.q_star < math.inf:
                assert length_map(name, sigma_w, sigma_b, field.q_star) == pytest.approx(field.q_star, rel=1e-9)

    def test_kappa(self):
        assert kappa("linear", 1.0) == pytest.approx(2)
        assert kappa("relu", 1.0) == pytest.approx(5)
        assert tanh_on_edge().kappa == pytest.approx(3, abs=0.05)
        assert kappa("relu", np.ones((2, 3))).shape == (2, 3)

    @pytest.mark.parametrize(("name", "sigma_w", "kappa"), [("linear", 1.0, 2.0), ("relu", HE, 5.0)])
    def test_lengths_that_fluctuate_do_not_matter_where_slopes_ignore_them(self, name, sigma_w, kappa):
        field = mean_field(name, sigma_w)
        assert field.log_variance(12) == pytest.approx(kappa) == pytest.approx(field.kappa)

    def test_log_variance_sampled(self):
        """Random tanh networks: with lengths held fixed the variance would be a fifth too small."""
        field, rng = tanh_on_edge(), np.random.default_rng(0)
        n, depth, networks = 100, 8, 2500
        z = rng.standard_normal((networks, n)) * math.sqrt(field.q_star)
        tangent, log = rng.standard_normal((networks, n)), np.zeros(networks)
        for _ in range(depth):
            W = rng.standard_normal((networks, n, n), np.float32) * np.float32(field.sigma_w / n**0.5)
            before = np.sum(tangent**2, axis=1)
            tangent = np.einsum("sij,sj->si", W, (1 - np.tanh(z) ** 2) * tangent)
            log += np.log(np.sum(tangent**2, axis=1) / before)
            z = np.einsum("sij,sj->si", W, np.tanh(z)) + math.sqrt(0.05) * rng.standard_normal((networks, n))
        # Four standard errors of a variance.
        assert n / depth * np.var(log) == pytest.approx(field.log_variance(depth), rel=4 * (2 / networks) ** 0.5)
        assert field.log_variance(depth) > 1.2 * field.kappa


class TestArchitectures:
    @each_activation
    def test_every_activation(self, name):
        for options in ({}, {"norm": "layer"}, {"residual": 0.5}, {"residual": True, "norm": "rms"}, {"norm": "batch"}):
            found = propagation(name, 1.0, 0.1, depth=3, **options)
            assert found.q.shape == (4,)
            assert found.log10_dZ.shape == (4,)
            assert found.backward.shape == found.forward.shape == found.log10_dW.shape == (3,)
            assert np.all(np.isfinite(found.log10_dW))

    def test_plain_is_the_mean_field(self):
        field, found = mean_field("tanh", 1.5, 0.2), propagation("tanh", 1.5, 0.2, depth=30)
        np.testing.assert_allclose(found.q, field.lengths(30, 1.0), rtol=1e-13)
        np.testing.assert_allclose(found.backward, field.gradients(30, 1.0), rtol=1e-13)

    def test_post_norm_of_relu_preserves(self):
        found = propagation("relu", 1.7, depth=5, residual=0.8, norm="layer", post_norm=True)
        assert found.q == pytest.approx(1)
        assert found.backward == pytest.approx(1)

    def test_branch_of_two_layers(self):
        once = propagation("relu", HE, depth=4, residual=True)
        twice = propagation("relu", HE, depth=4, residual=True, branch_depth=2)
        np.testing.assert_allclose(once.backward, twice.backward)

    @pytest.mark.parametrize("name", ["relu", "tanh"])
    def test_batch_norm_sampled(self, name):
        """The factor over 8 layers of sampled networks, width 300 and batches of 16."""
        random, batch, width, depth = np.random.default_rng(0), 16, 300, 14
        g, d = function_of(elementwise(name)), derivative_of(elementwise(name))
        rates = []
        for _ in range(6):
            Z, kept = random.normal(size=(batch, width)), []
            for _ in range(depth):
                spread, Y = Z.std(0), (Z - Z.mean(0)) / Z.std(0)
                W = random.normal(size=(width, width)) / math.sqrt(width)
                kept.append((Y, spread, W))
                Z = g(Y) @ W
            dZ, norms = random.normal(size=(batch, width)), []
            for Y, spread, W in reversed(kept):
                dY = dZ @ W.T * d(Y)
                dZ = (dY - dY.mean(0) - Y * (dY * Y).mean(0)) / spread
                norms.append(np.sum(dZ**2))
            rates.append((norms[-4] / norms[2]) ** (1 / (depth - 6)))
        expected = batch_norm_moments(elementwise(name), batch).backward
        assert np.mean(rates) == pytest.approx(expected, abs=4 * np.std(rates) / math.sqrt(6))
        assert np.mean(rates) == pytest.approx(expected, rel=0.03)

    def test_pre_norm_sampled(self):
        random, width, depth = np.random.default_rng(1), 600, 6
        gains, lengths = [], []
        for _ in range(10):
            Z, kept = random.normal(size=width), []
            for _ in range(depth):
                r, W = math.sqrt(np.mean(Z**2)), random.normal(size=(width, width)) / math.sqrt(width)
                kept.append((Z / r, r, W))
                Z = Z + 0.7 * np.tanh(Z / r) @ W
            dZ = random.normal(size=width)
            first = np.sum(dZ**2)
            for Y, r, W in reversed(kept):
                dY = 0.7 * (dZ @ W.T) / np.cosh(Y) ** 2
                dZ = dZ + (dY - Y * np.mean(Y * dY)) / r
            gains.append(np.sum(dZ**2) / first)
            lengths.append(np.mean(Z**2))
        found = propagation("tanh", 1.0, depth=depth, residual=0.7, norm="rms")
        assert np.mean(gains) == pytest.approx(10 ** found.log10_dZ[0], rel=0.06)
        assert np.mean(lengths) == pytest.approx(found.q[-1], rel=0.06)


REFUSED = {
    "softmax": lambda: mean_field("softmax", 1.0),
    "did you mean 'tanh'": lambda: mean_field("tanhh", 1.0),
    "sigma_w=-1": lambda: mean_field("tanh", -1.0),
    "sigma_b=nan": lambda: mean_field("tanh", 1.0, math.nan),
    "sigma_b=-0.1": lambda: edge_of_chaos("tanh", [0.1, -0.1]),
    "finite and positive": lambda: mean_field("tanh", 1.0, q_0=0.0),
    "q_0 must be a mean square": lambda: mean_field("relu", 2.0).lengths(3),
    "q must be a mean square": lambda: second_moment("tanh", -1.0),
    "k must be at least 1": lambda: slope_moment("tanh", 1.0, 0),
    "from -1 to 1": lambda: mean_field("tanh", 1.0).correlations(3, 1.1),
    "at least 0, got -1": lambda: mean_field("tanh", 1.0).lengths(-1),
    "did you mean 'layer'": lambda: propagation("tanh", 1.0, norm="layers"),
    "at least 4 examples": lambda: propagation("tanh", 1.0, norm="batch", batch=3),
    "width must be a number": lambda: propagation("tanh", 1.0, width=0),
    "post_norm must go": lambda: propagation("tanh", 1.0, norm="layer", post_norm=True),
    "batch must go with": lambda: propagation("tanh", 1.0, batch=32),
    "count blocks": lambda: propagation("tanh", 1.0, depth=0),
    "finite scale": lambda: propagation("tanh", 1.0, residual=math.inf),
    "positive integers": lambda: relu_log_norm([100, 0]),
    "did you mean 'gaussian'": lambda: jacobian_variance("tanh", 1.0, 3, "gausian"),
    "at least 1, got 0": lambda: mean_field("tanh", 1.0).log_variance(0),
    "even relu": lambda: tailored_leaky_slope(2),
    "between 0 and 1": lambda: tailored_leaky_slope(10, 1.5),
    "classes must be at least 2": lambda: softmax_head(1),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_is_refused(says):
    with pytest.raises(FbpError, match=says):
        REFUSED[says]()


def test_kinks_anywhere_are_integrated_exactly():
    """relu6, whose kink at 6 no table of ours knows: E g^2 and E g'^2 in closed form by the normal distribution."""
    relu6 = Nonlinearity(
        "relu6",
        lambda Z: jnp.clip(Z, 0, 6),
        lambda A: ((A > 0) & (A < 6)).astype(A.dtype),
        kinks=(0.0, 6.0),
    )
    for q in (0.5, 9.0, 200.0):
        s = 6 / math.sqrt(q)
        tail, density = 0.5 * special.erfc(s / math.sqrt(2)), math.exp(-s * s / 2) / math.sqrt(2 * math.pi)
        assert slope_moment(relu6, q) == pytest.approx(0.5 - tail, rel=1e-12)
        assert second_moment(relu6, q) == pytest.approx(q * (0.5 - tail - s * density) + 36 * tail, rel=1e-12)
