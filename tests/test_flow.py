"""Gradient flow: against theory with confidence intervals, against other computations of the same, and its promises."""

import csv
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp import gradient_norms
from fbp.flow import Plan, confidence_interval, diagnose, grid, measure, sample_parameters, verdict
from fbp.flow.intervals import interval_of_logs
from fbp.flow.probe import add_probes, read_network
from fbp.flow.sampling import Draw, sample_inputs, sample_normals, sample_weights, unit_gain
from fbp.studies.flow_grid import run_flow
from fbp.studies.flow_networks import PerceptronPlan, TransformerPlan

SB = math.sqrt(0.05)
TANH = {1.3: (0.8802, 0.3153), 2.5: (1.1335, 1.0640), 4.0: (1.3424, 2.1955)}
"""sigma_w^2 at sigma_b^2 = 0.05: (chi_1, q*); Poole et al. (2016), Schoenholz et al. (2017)."""
SURE = 0.999


@pytest.fixture(scope="module")
def deep():
    """Two activations under every initializer that is asked about, one compiled program."""
    jax.config.update("jax_disable_most_optimizations", False)
    inits = ("he_normal", "lecun_normal", *(f"mean_field({w2**0.5},{SB})" for w2 in TANH))
    plan = Plan((40,), ("relu", "tanh"), inits, width=200, seeds=10, examples=4)
    yield grid(plan)
    jax.config.update("jax_disable_most_optimizations", True)


def rate(flow, burn_in=10):
    """E ||dZ_l||^2 / ||dZ_{l+1}||^2 with its interval over networks."""
    curves = flow.log10.dZ[0].astype(np.float64)[:, burn_in:]
    return confidence_interval((10 ** (2 * (curves[:, :-1] - curves[:, 1:]))).mean(axis=1), SURE)


@pytest.mark.parametrize(("init", "predicted"), [("he_normal", 1.0), ("lecun_normal", 0.5)])
def test_relu_keeps_the_gradient_with_variance_2_and_halves_it_with_1(deep, init, predicted):
    low, _, high = rate(deep["relu", init, 40])
    assert low < predicted < high
    assert high - low < 0.1 * predicted


@pytest.mark.parametrize("w2", TANH)
def test_tanh_has_the_published_chi_and_length(deep, w2):
    chi, q = TANH[w2]
    flow = deep["tanh", f"mean_field({w2**0.5},{SB})", 40]
    low, _, high = rate(flow)
    assert low < chi < high
    assert high - low < 0.1 * chi
    lengths = 10 ** flow.log10_mean_square[0][:, 15:].astype(np.float64)
    low, _, high = confidence_interval(lengths.mean(axis=1), SURE)
    assert low < q < high
    assert high - low < 0.2 * q


def test_the_diagnosis_says_what_to_do(deep):
    found = deep["tanh", f"mean_field({1.3**0.5},{SB})", 40].diagnosis()
    assert found.phase == "ordered"
    assert found.low < found.theory < found.high
    assert found.trainable == pytest.approx(-6 / math.log(0.8802), rel=1e-3)
    assert str(found).startswith("gradients vanish, ‖dZ‖² ×0.8")
    assert "with depth 0.880: ordered phase), half-depth 4." in str(found)
    assert str(found).endswith("layers, trainable to about 47 layers; use σ_w² = 1.76")
    chaotic = deep["tanh", f"mean_field(2.0,{SB})", 40].diagnosis()
    assert str(chaotic).startswith("gradients explode, ‖dZ‖² ×1.3")
    assert "chaotic phase), doubling depth" in str(chaotic)


def test_the_line_of_theory_runs_through_the_medians(deep):
    for w2 in TANH:
        flow = deep["tanh", f"mean_field({w2**0.5},{SB})", 40]
        median, line = flow.quantiles("dZ")[1], flow.expected()
        assert line[-1] == median[-1]
        assert line == pytest.approx(median, abs=0.2)
        factors = 10 ** (2 * (line[:-1] - line[1:]))
        assert np.exp(np.log(factors).mean()) == pytest.approx(flow.diagnosis().theory)
        assert factors[10:] == pytest.approx(TANH[w2][0], abs=2e-3)


def test_the_line_of_theory_is_where_theory_is():
    """From the first dense layer to the last, whatever their widths."""
    flow = measure(fbp.mlp((30, 8, 8, 8, 8, 3), "relu", "he_normal"), seeds=3, scales=(1.0, 2.0))
    for scale, rate in enumerate((1.0, 4.0)):
        line = flow.expected(scale)
        assert np.diff(line) == pytest.approx(-0.5 * math.log10(rate))


def test_no_theory_no_claim():
    flow = measure(fbp.mlp((8,) * 4, "tanh", "constant(0.1)"), seeds=3)
    assert np.isnan(flow.expected()).all()
    found = flow.diagnosis()
    assert found.theory is None
    assert found.agrees is None
    assert "no theory: tanh with constant weights" in str(found)


def test_theory_without_a_phase():
    for options in ({"residual": True}, {"norm": "batch"}):
        found = measure(fbp.mlp((8,) * 4, "tanh", **options), seeds=3).diagnosis()
        assert found.theory is not None
        assert (found.phase, found.note) == (None, "")


def reference(params, X, dZ, activation):
    """log10 norms of dZ and dW of a plain network, in float64 with the scale carried by hand."""
    g, slope = {
        "tanh": (np.tanh, lambda Z: 1 - np.tanh(Z) ** 2),
        "leaky_relu": (lambda Z: np.maximum(Z, 0.2 * Z), lambda Z: np.where(Z > 0, 1, 0.2)),
    }[activation]
    inputs, outputs, scales, log = [], [], [], 0.0
    A = X.astype(np.float64)
    for W, b in params:
        Z = A @ W + b
        if activation == "leaky_relu":
            size = np.abs(Z).max()
            Z, after = Z / size, log + math.log10(size)
        else:
            after = log
        inputs.append(A)
        outputs.append(Z)
        scales.append(log)
        A, log = g(Z), after
    norms_dZ, norms_dW, up = [], [], 0.0
    dZ = dZ.astype(np.float64)
    for l in reversed(range(len(params))):
        norms_dZ.append(math.log10(np.linalg.norm(dZ)) + up)
        norms_dW.append(math.log10(np.linalg.norm(inputs[l].T @ dZ)) + up + scales[l])
        if l:
            dZ = (dZ @ params[l][0].T) * slope(outputs[l - 1])
            size = np.abs(dZ).max()
            dZ, up = dZ / size, up + math.log10(size)
    return np.array(norms_dZ[::-1]), np.array(norms_dW[::-1])


@pytest.mark.parametrize(("activation", "init"), [("tanh", "mean_field(0.9, 0.3)"), ("leaky_relu", "lecun_normal")])
def test_exact_at_depth_2000(activation, init):
    """Also where the forward pass leaves the range of float32."""
    depth, n = 2000, 10
    net = fbp.mlp((n,) * (depth + 1), "leaky_relu(0.2)" if activation == "leaky_relu" else activation, init)
    params, _ = net.init(jax.random.key(1))
    X, dZ = np.random.default_rng(0).normal(size=(2, 3, n)).astype(np.float32)
    seen = jax.jit(lambda: read_network(*add_probes(net, params, net.homogeneous), X, lambda Z: dZ))()
    first, later = params[0], params[1][1]
    pairs = [(first["W"], first["b"]), *zip(np.asarray(later["W"]), np.asarray(later["b"]), strict=True)]
    expected = reference([(np.float64(W), np.float64(b)) for W, b in pairs], X, dZ, activation)
    assert expected[0][0] < -250
    np.testing.assert_allclose(seen["dZ"], expected[0], atol=0.01)
    np.testing.assert_allclose(seen["dW"], expected[1], atol=0.01)


def test_ten_thousand_layers_have_no_zeros(optimized):
    flow = measure(fbp.mlp((8,) * 10_001, "leaky_relu(0.2)", "lecun_normal"), X=jnp.eye(2, 8), seeds=1)
    for name in ("dZ", "dA", "dW", "db", "log10_mean_square"):
        assert np.isfinite(flow.values(name)).all()
    assert flow.log10.dZ[0, 0, 0] < -1000
    assert flow.log10_mean_square[0, 0, -1] < -2000


def test_a_prefix_is_the_network_of_that_depth():
    """Every reading of a grid's cell against the reverse loop of the network with the same parameters."""
    plan = Plan((2, 5), ("gelu", "relu"), ("he_normal", "mean_field(1.2,0.3)"), width=12, seeds=2, examples=3)
    flows = grid(plan)
    X = jnp.asarray(sample_inputs(3, (12,), 0))
    W = sample_weights("normal", range(2), 5, 12, 0)
    b = sample_normals(Draw.BIASES, range(2), (5, 12), 0)
    dZ = sample_normals(Draw.COTANGENTS, range(2), (3, 12), 0)
    for cell, flow in flows.items():
        rule, depth = fbp.initializers.initializer(cell.init), cell.depth
        net = fbp.mlp((12,) * (depth + 1), cell.activation, cell.init, repeat=False)
        for s in range(2):
            dense = [
                {"W": unit_gain(rule, 12, 12) * W[l, s], "b": np.float32(rule.bias_stddev) * b[s, l]}
                for l in range(depth)
            ]
            params = tuple(p for layer in dense for p in (layer, ()))[:-1]
            params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
            probed = add_probes(net, params, net.homogeneous)
            seen = read_network(*probed, X, lambda Z, s=s: jnp.asarray(dZ[s]))
            for name in ("dZ", "dA", "dW", "db", "cosine", "noise"):
                found = flow.values(name)[0, s]
                np.testing.assert_allclose(found, seen[name], rtol=2e-3, atol=2e-4, err_msg=name)
            np.testing.assert_allclose(flow.log10_mean_square[0, s], seen["log10_mean_square"], atol=1e-4)
            np.testing.assert_allclose(flow.correlation[0, s], seen["correlation"], atol=1e-4)
            np.testing.assert_allclose(flow.dead[0, s][:-1], seen["dead"], atol=1e-5)
            np.testing.assert_allclose(flow.saturated[0, s][:-1], seen["saturated"], atol=1e-5)


def test_angles_and_noise_are_those_of_the_examples_gradients():
    """Against autodiff example by example."""
    net, loss = fbp.mlp((6, 7, 7, 3), "tanh", "mean_field(1.5, 0.1)"), fbp.SoftmaxCrossEntropy()
    X = jax.random.normal(jax.random.key(3), (5, 6))
    Y = jnp.array([0, 1, 2, 0, 1])
    flow = measure(net, loss, X, Y, seeds=1)
    params = jax.tree.map(lambda p: jnp.asarray(p[0]), sample_parameters(net, (6,), 1))
    one = lambda x, y: jax.grad(lambda p: fbp.loss_value(net, loss, p, x[None], y[None]))(params)
    each = jax.vmap(one)(X, Y)
    for l, place in enumerate((0, 2, 4)):
        g = np.asarray(each[place]["W"], np.float64).reshape(5, -1)
        unit = g / np.linalg.norm(g, axis=1, keepdims=True)
        cosine = (np.sum(unit @ unit.T) - 5) / 20
        noise = np.sum(np.var(g, axis=0, ddof=1)) / np.sum(np.mean(g, axis=0) ** 2)
        np.testing.assert_allclose(flow.cosine[0, 0, l], cosine, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(flow.noise[0, 0, l], noise, rtol=1e-3)
        np.testing.assert_allclose(flow.log10.dW[0, 0, l], np.log10(np.linalg.norm(g.mean(axis=0))), atol=1e-4)


def test_checkpoints_change_no_reading():
    one, other = (measure(fbp.mlp((6,) * 9, "tanh", repeat=True, checkpoint=c), seeds=2) for c in (None, 3))
    for name in ("dZ", "dW", "correlation", "saturated", "noise"):
        np.testing.assert_allclose(one.values(name), other.values(name), rtol=1e-4, atol=1e-5)


def test_orthogonal_linear_networks_are_isometries():
    """Saxe et al. (2013): every singular value of the Jacobian is one, at any depth; with a gain, its power."""
    net = fbp.mlp((6,) * 101, "linear", "orthogonal", repeat=True)
    flow = measure(net, seeds=2, scales=(1.0, 0.001), spectrum=True)
    np.testing.assert_allclose(flow.log10_singular[0], 0, atol=1e-3)
    np.testing.assert_allclose(flow.log10_singular[1], -300, atol=1e-2)


@pytest.mark.parametrize("distribution", ["normal", "uniform", "truncated_normal", "orthogonal"])
def test_draws_have_variance_one(distribution):
    n = 40
    W = sample_weights(distribution, range(3), 20, n, 0).astype(np.float64)
    if distribution == "orthogonal":
        np.testing.assert_allclose(np.swapaxes(W, 2, 3) @ W, np.broadcast_to(np.eye(n), W.shape), atol=1e-5)
        # Moments of the uniform distribution over the group: E tr Q = 0, E (tr Q)^2 = 1.
        traces = np.trace(W, axis1=2, axis2=3).ravel()
        assert abs(traces.mean()) < 4 / len(traces) ** 0.5
        assert abs((traces**2).mean() - 1) < 4 * (2 / len(traces)) ** 0.5
    else:
        assert abs(W.mean()) < 5 / W.size**0.5
        assert abs((W**2).mean() - 1) < 5 * (2 / W.size) ** 0.5
    alone = sample_weights(distribution, range(2, 3), 20, n, 0)
    np.testing.assert_array_equal(alone[:, 0], W[:, 2].astype(np.float32))


@pytest.mark.parametrize(
    "init",
    ["mean_field(1.3, 0.2)", "he_normal", "inverse_sqrt_uniform", "orthogonal(2)", "zeros", "glorot_uniform"],
)
@pytest.mark.parametrize("width", [40, 30])
def test_sampled_parameters_are_those_of_the_initializer(init, width):
    layer = fbp.Dense(width, init)
    drawn = sample_parameters(layer, (40,), 30)
    params = jax.vmap(lambda key: layer.init(key, (40,))[0])(jax.random.split(jax.random.key(0), 30))
    assert jax.tree.map(np.shape, drawn) == jax.tree.map(np.shape, params)
    for name in ("W", "b"):
        moments = lambda x: (np.mean(x**2), np.mean(x**4))
        assert moments(drawn[name]) == pytest.approx(moments(np.asarray(params[name])), rel=0.1)


def test_sampled_networks_do_not_depend_on_their_company():
    net = fbp.mlp((5, 6, 6, 3), "relu", "mean_field(1, 1)", norm="layer")
    all_three, last = sample_parameters(net, (5,), 3, seed=1), sample_parameters(net, (5,), range(2, 3), seed=1)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2:], b), all_three, last)
    assert jax.tree.structure(last) == jax.tree.structure(net.init(jax.random.key(0))[0])
    np.testing.assert_array_equal(last[1]["gamma"], np.ones((1, 6)))


def test_the_stream_of_a_residual_network_is_read():
    """At the first layer, at the sums of the blocks and at the last layer, against the probe of a hand-made chain."""
    block = fbp.Residual(fbp.Serial(fbp.Activation("tanh"), fbp.Dense(6)), 0.3)
    net = fbp.Serial(fbp.Dense(6), block, block, fbp.Dense(2), shape=(4,))
    X, Y = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    flow = measure(net, fbp.HalfSquaredError(), X, Y[:, :2], seeds=2)
    assert flow.log10.dZ.shape == flow.stream.log10_dZ.shape == (1, 2, 4)
    params = jax.tree.map(lambda p: jnp.asarray(p[1]), sample_parameters(net, (4,), 2))
    parts = []

    def value(shifts):
        A = X
        for layer, p, shift in zip(net.layers, params, shifts, strict=True):
            A = layer.forward(p, A)[0] + shift
            parts.append(A)
        return fbp.HalfSquaredError().value(A, Y[:, :2])

    shifts = [jnp.zeros((5, 6))] * 3 + [jnp.zeros((5, 2))]
    gradients = jax.grad(value)(shifts)
    norms = [np.log10(np.linalg.norm(g)) for g in gradients]
    np.testing.assert_allclose(flow.stream.log10_dZ[0, 1], norms, atol=1e-4)
    parts.clear()
    value(shifts)
    np.testing.assert_allclose(
        flow.stream.log10_mean_square[0, 1], [np.log10(np.mean(np.square(A))) for A in parts], atol=1e-4
    )
    d_X = jax.grad(lambda X: fbp.loss_value(net, fbp.HalfSquaredError(), params, X, Y[:, :2]))(X)
    np.testing.assert_allclose(flow.log10_dX[0, 1], np.log10(np.linalg.norm(d_X)), atol=1e-4)


@pytest.fixture
def compiled():
    """The names of the programs that XLA compiles."""
    names = []
    listen = lambda event, seconds, **details: names.append((event, details.get("fun_name")))
    jax.monitoring.register_event_duration_secs_listener(listen)
    yield lambda name: sum(e == "/jax/core/compile/backend_compile_duration" and name in str(f) for e, f in names)
    jax.monitoring.unregister_event_duration_listener(listen)


def test_a_grid_is_one_program(compiled):
    plan = Plan((2, 3, 7), ("relu", "tanh", "gelu"), ("he_normal", "he_uniform", "lecun_normal"), width=5, seeds=3)
    assert len(grid(plan)) == 27
    assert compiled("jit(read)") == 1


def test_initializers_share_the_program_of_measure(compiled):
    for init in ("he_normal", "glorot_uniform", "orthogonal"):
        measure(fbp.mlp((5,) * 9, "tanh", init, repeat=True), seeds=2, scales=(0.5, 1.0))
    assert compiled("jit(_read)") == 1


SMALL = {"depths": (3, 2), "activations": ("relu", "tanh"), "initializers": ("orthogonal", "mean_field(1.1,0.2)")}


@pytest.mark.parametrize("torn", ["", "relu,orthogonal,3,0,1,0.5", "relu,orthogonal,3,0,1,0.5\n"])
def test_a_resumed_grid_is_the_uninterrupted_one(tmp_path, torn):
    plan = Plan(**SMALL, width=6, seeds=3)
    whole = grid(plan, tmp_path)
    table = (tmp_path / "data.csv").read_bytes()

    def stop(line):
        if line.startswith("2 of 4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grid(plan, tmp_path, progress=stop)
    with (tmp_path / "data.csv").open("a") as file:
        file.write(torn)
    told = []
    resumed = grid(plan, tmp_path, resume=True, progress=told.append)
    assert told[0] == "2 of 4 groups are there"
    assert (tmp_path / "data.csv").read_bytes() == table
    for cell, flow in whole.items():
        for name in ("dZ", "dW", "correlation", "dead", "noise"):
            np.testing.assert_array_equal(resumed[cell].values(name), flow.values(name))
    with pytest.raises(fbp.FbpError, match="must hold rows of the same plan"):
        grid(Plan(**SMALL | {"activations": ("gelu", "tanh")}, width=6, seeds=3), tmp_path, resume=True)


def test_chunks_of_seeds_change_nothing(monkeypatch):
    plan = Plan(**SMALL, width=6, seeds=5)
    whole = grid(plan)
    monkeypatch.setattr("fbp.flow.grids.CHUNK", 4 * 3 * 36 * 2)
    assert plan.chunk == 2
    parts = grid(plan)
    for cell, flow in whole.items():
        np.testing.assert_allclose(parts[cell].log10.dZ, flow.log10.dZ, atol=2e-5)


def test_the_command_writes_a_folder(tmp_path):
    out = tmp_path / "flow"
    options = {"depths": (3,), "activations": ("relu",), "initializers": ("he_normal",), "width": 8, "seeds": 3}
    report = run_flow(Plan(**options), out)
    assert {path.name for path in out.iterdir()} >= {"report.html", "report.md", "figures", "data.csv", "result.json"}
    rows = (out / "data.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 3
    result = json.loads((out / "result.json").read_text())
    assert result["results"]["cells"][0]["phase"] == "critical"
    assert "data.csv</code> (9 rows)" in (out / "report.html").read_text()
    assert run_flow(Plan(**options), out, resume=True).findings == report.findings
    with pytest.raises(fbp.FbpError, match="got other width"):
        run_flow(Plan(**options | {"width": 9}), out, resume=True)


def test_the_page_says_which_networks_have_no_rate(tmp_path):
    plan = Plan((80,), ("relu",), ("mean_field(20,0.1)", "zeros"), width=8, seeds=2, examples=4)
    report = run_flow(plan, tmp_path / "flow")
    assert (
        "Some networks have no rate: relu, mean_field(20,0.1) at 80 (infinite or NaN values in 2 of 2 networks); "
        "relu, zeros at 80 (no gradient in 2 of 2 networks)."
    ) in report.findings
    row = next(line for line in (tmp_path / "flow" / "report.md").read_text().splitlines() if "| undecided |" in line)
    assert "NaN to NaN" not in row


def test_biases_of_a_plan_replace_those_of_the_initializers():
    options = {"depths": (3,), "activations": ("tanh",), "width": 8, "seeds": 2}
    own = grid(Plan(**options, initializers=("mean_field(1.2,0.3)",)))["tanh", "mean_field(1.2,0.3)", 3]
    given = grid(Plan(**options, initializers=("mean_field(1.2)",), bias=0.3))["tanh", "mean_field(1.2)", 3]
    np.testing.assert_array_equal(own.log10.dZ, given.log10.dZ)
    assert own.diagnosis().theory == given.diagnosis().theory


GRIDS = {
    "norm": PerceptronPlan(Plan((2, 3), ("relu",), ("he_normal",), width=8, seeds=3, bias=0.1), norm="layer"),
    "residual": PerceptronPlan(
        Plan((2, 3), ("relu",), ("he_normal",), width=8, seeds=3), residual=True, residual_scale="1/sqrt(depth)"
    ),
    "gpt": TransformerPlan((2, 3), ("modern",), width=8, heads=2, length=4, vocabulary=9, seeds=3),
}
"""Of networks that share no program."""


@pytest.mark.parametrize(
    ("name", "cells", "step"),
    [("norm", 2, "layer"), ("residual", 2, "part of the stream"), ("gpt", 4, "part of the stream")],
)
def test_networks_without_a_common_program_are_measured(tmp_path, name, cells, step):
    """The same numbers as `measure` gives, one picture of all cells, and rows of every layer and part."""
    plan = GRIDS[name]
    report = run_flow(plan, tmp_path / "flow")
    found = report.results["cells"]
    assert len(found) == cells
    assert {cell["verdict"]["step"] for cell in found} == {step}
    assert report.figures()[0].name == "map"
    # With the norm behind the sum nearly all of the change is that of the first norm.
    jumps = [finding for finding in report.findings if "is made in one step" in finding]
    assert [re.findall(r"(\w+-norm) at depth (\d) \(\d+% from 3 to 2,", finding) for finding in jumps] == (
        [[("post-norm", "2"), ("post-norm", "3")]] if name == "gpt" else []
    )
    rows = list(csv.DictReader((tmp_path / "flow" / "data.csv").read_text().splitlines()))
    for (cell, net), row in zip(plan.networks(), found, strict=True):
        flow = measure(net, seeds=3)
        assert (row["depth"], row["rate"], row["sentence"]) == (
            cell.depth,
            flow.diagnosis().rate,
            str(flow.diagnosis()),
        )
        own = [each for each in rows if (each["depth"], each[cell._fields[1]]) == (str(cell.depth), cell[1])]
        for along, paths, values in (
            ("layers", flow.layers, flow.log10.dZ),
            ("stream", flow.parts if flow.branches else (), flow.stream.log10_dZ),
        ):
            shown = [each for each in own if each.get("along", "layers") == along]
            assert [each["path"] for each in shown] == 3 * list(paths)
            read = [float(each["log10_norm_dZ"]) for each in shown]
            np.testing.assert_allclose(read, values.ravel()[: len(read)], rtol=1e-6)
    assert {path.name for path in (tmp_path / "flow").iterdir()} >= {"report.html", "data.csv"}
    assert not (tmp_path / "flow" / "measured").exists()


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("damage", [None, b"", b"PK"], ids=["whole", "empty", "cut"])
def test_networks_that_are_measured_are_not_measured_again(tmp_path, monkeypatch, name, damage):
    plan, out, counted = GRIDS[name], tmp_path / "flow", []
    whole = run_flow(plan, tmp_path / "whole")

    def stop_at(calls):
        counted.clear()

        def count(net, **options):
            counted.append(net)
            if len(counted) == calls:
                raise KeyboardInterrupt
            return measure(net, **options)

        monkeypatch.setattr("fbp.studies.flow_networks.measure", count)

    stop_at(2)
    with pytest.raises(KeyboardInterrupt):
        run_flow(plan, out)
    if damage is not None:
        (out / "measured" / "1.npz").write_bytes(damage)
    stop_at(None)
    other = GRIDS["norm" if name == "gpt" else "gpt"]
    with pytest.raises(fbp.FbpError, match="got other "):
        run_flow(other, out, resume=True)
    resumed = run_flow(plan, out, resume=True)
    assert len(counted) == len(list(plan.networks())) - (damage is None)
    assert resumed.results == whole.results
    assert (out / "data.csv").read_bytes() == (tmp_path / "whole" / "data.csv").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (0,)}, "a depth of the grid must be a positive integer, got 0"),
        ({"depths": ()}, "depths of a grid must be at least one"),
        ({"depths": (5, 5)}, "each once"),
        ({"activations": ("relo",)}, "did you mean 'relu'"),
        ({"activations": ("softmax",)}, "got 'softmax'"),
        ({"initializers": ("he_norml",)}, "did you mean 'he_normal'"),
        ({"initializers": ("mean_field(-1,0)",)}, "sigma_w must be finite and at least 0, got -1"),
        ({"width": 10**7}, "take a smaller width or depth"),
        ({"seeds": 0}, "seeds must be a positive integer"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
    ],
)
def test_bad_plans_are_refused_in_one_line(options, message):
    with pytest.raises(fbp.FbpError, match=re.escape(message)) as error:
        Plan(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds must be a positive integer"),
        ({"scales": (-1.0,)}, "scales must be finite factors of at least 0"),
        ({"loss": fbp.HalfSquaredError()}, "a loss must come with targets"),
        ({"X": jnp.ones(4)}, "X must be a batch"),
    ],
)
def test_bad_measurements_are_refused(options, message):
    with pytest.raises(fbp.FbpError, match=message):
        measure(fbp.mlp((4, 4, 4)), **options)


def test_what_cannot_be_measured_says_so():
    X = jnp.ones((2, 4))
    with pytest.raises(fbp.FbpError, match="must know the shape"):
        measure(fbp.Serial(fbp.Dense(3)))
    with pytest.raises(fbp.FbpError, match="got one without"):
        measure(fbp.Serial(fbp.Activation("relu")), X=X)
    with pytest.raises(fbp.FbpError, match="batch normalization"):
        measure(fbp.mlp((4, 4, 4), norm="batch"), X=X, seeds=1, spectrum=True)
    with pytest.raises(fbp.FbpError, match="did you mean 'dead'"):
        measure(fbp.mlp((4, 4, 4)), X=X, seeds=1).values("ded")
    with pytest.raises(fbp.FbpError, match="two hidden layers"):
        verdict(np.zeros((3, 1)))


def test_intervals_are_students():
    x = np.random.default_rng(0).normal(size=(6, 4))
    found = confidence_interval(x)
    half = 2.5705818 * x.std(axis=0, ddof=1) / 6**0.5
    np.testing.assert_allclose(found.high - found.mean, half, rtol=1e-6)
    arithmetic = interval_of_logs(x - 400, "arithmetic")
    np.testing.assert_allclose(arithmetic.mean, np.log10((10.0 ** (2 * x)).mean(axis=0)) / 2 - 400, rtol=1e-9)
    assert (arithmetic.mean > interval_of_logs(x - 400).mean).all()
    with pytest.raises(fbp.FbpError, match="confidence must be a probability"):
        confidence_interval(x, 1.5)


def test_gradients_that_have_become_zero_have_the_rate_zero():
    found = diagnose(np.full((3, 5), -np.inf), None)
    assert (found.rate, found.verdict.kind) == (0.0, "vanishing")


def affine_loss(params, batch):
    X, Y = batch
    Z = jnp.tanh(X @ params["first"]["W"]) @ params["second"][0]
    return 0.5 * jnp.mean(jnp.square(Z - Y))


def test_watch_gives_the_norms_of_autodiff(compiled):
    key = jax.random.key(0)
    params = {"first": {"W": jax.random.normal(key, (3, 4))}, "second": [jax.random.normal(key, (4, 2))]}
    batch = jax.random.normal(key, (5, 3)), jnp.ones((5, 2))
    found = gradient_norms(affine_loss, params, batch)
    gradient = jax.grad(affine_loss)(params, batch)
    assert [leaf.path for leaf in found.leaves] == ["first/W", "second/0"]
    for path, g, p in (("first/W", gradient["first"]["W"], params["first"]["W"]),):
        np.testing.assert_allclose(10 ** found[path].log10_norm, np.linalg.norm(g), rtol=1e-5)
        np.testing.assert_allclose(found[path].relative, np.linalg.norm(g) / np.linalg.norm(p), rtol=1e-5)
    total = math.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(10**found.log10_norm, total, rtol=1e-5)
    assert found.value == pytest.approx(float(affine_loss(params, batch)))
    assert [line.split()[0] for line in str(found).splitlines()] == ["leaf", "first/W", "second/0", "all"]
    before = compiled("_leaf_norms")
    gradient_norms(affine_loss, params, batch)
    assert compiled("_leaf_norms") == before == 1


def test_watch_takes_models_whole():
    """As Equinox has them: functions, integers and arrays of integers among the leaves."""
    model = {"activation": jnp.tanh, "W": jnp.ones((2, 2)), "steps": 3, "count": jnp.arange(2), "b": jnp.zeros(2)}

    def loss(model, X):
        out = model["activation"](X @ model["W"] + model["b"][None]) * model["count"].astype("float32")[None]
        return jnp.sum(out[:, 1:]) / model["steps"], "aux"

    found = gradient_norms(loss, model, jnp.ones((3, 2)), has_aux=True)
    assert [leaf.path for leaf in found.leaves] == ["W", "b"]
    assert found["b"].relative == math.inf
    assert found["W"].zeros == 0.5
    with pytest.raises(fbp.FbpError, match="loss_fn must return one floating-point number"):
        gradient_norms(lambda p, x: p * x, jnp.ones(3), jnp.ones(3))
    with pytest.raises(fbp.FbpError, match="without one"):
        gradient_norms(lambda p, x: x, {"n": 1}, jnp.ones(()))
    with pytest.raises(fbp.FbpError, match="known are W, b"):
        found["w"]


def test_watch_sees_what_is_not_finite():
    found = gradient_norms(lambda p, x: jnp.sum(jnp.log(p) * x), jnp.array([0.0, 1.0]), jnp.ones(2))
    assert not found.leaves[0].finite
    assert "not finite" in str(found)
