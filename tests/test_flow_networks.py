"""Gradient flow, norms and calibration of networks with lines: a small transformer, branches, several inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
from fbp import Activation, Add, BatchNorm, Dense, Embedding, LayerNorm, Multiply, Network, Repeat, Serial, Unembedding
from fbp.flow import measure, sample_parameters
from fbp.flow.measurement import standard_inputs
from fbp.pairs import Outer

LOSS = fbp.SoftmaxCrossEntropy()
SIZES = {"vocabulary": 11, "length": 5, "width": 6, "depth": 2, "heads": 2}
TOKENS = np.random.default_rng(0).integers(0, 11, (3, 6))
X, Y = jnp.asarray(TOKENS[:, :-1]), jnp.asarray(TOKENS[:, 1:])
BLOCK = ("q", "k", "v", "o", "up", "down")


def draw(net, shape, seed=1):
    return jax.tree.map(lambda p: jnp.asarray(p[seed]), sample_parameters(net, shape, 2))


def norm(x):
    return np.log10(np.linalg.norm(np.asarray(x, np.float64)))


@pytest.fixture(scope="module", params=["pre", "post"])
def transformer(request):
    """(position of the norm, net, flow, the trace of its second network)."""
    net = fbp.gpt(**SIZES, norm_position=request.param)
    return request.param, net, measure(net, LOSS, X, Y, seeds=2), fbp.trace(net, LOSS, draw(net, (5,)), X, Y)


def test_a_transformer_is_read_layer_by_layer(transformer):
    """Every norm against the trace, which keeps the gradients themselves."""
    _, _, flow, trace = transformer
    assert flow.layers == ("tokens", *(f"blocks[{l}].{name}" for l in range(2) for name in BLOCK), "head")
    for l, name in enumerate(flow.layers):
        layer = trace[name]
        assert flow.log10.dZ[0, 1, l] == pytest.approx(norm(layer.dA_out), abs=1e-4)
        assert flow.log10.dW[0, 1, l] == pytest.approx(norm(layer.d_params[layer.weight]), abs=1e-4)
        assert flow.log10_mean_square[0, 1, l] == pytest.approx(np.log10(np.mean(layer.A_out**2)), abs=1e-4)
        if name not in ("tokens", "head"):
            assert flow.log10.dA[0, 1, l] == pytest.approx(norm(layer.dA_in), abs=1e-4)
            if name[-1] != "k":  # the softmax does not see what a bias adds to every key
                assert flow.log10.db[0, 1, l] == pytest.approx(norm(layer.d_params["b"]), abs=1e-4)
    assert np.isneginf(flow.log10.dA[..., 0]).all()
    assert np.isneginf(flow.log10.db[..., [0, -1]]).all()
    assert np.isnan(flow.log10_dX).all()
    rows = list(flow.records(kind="gpt"))
    assert [row["path"] for row in rows[: len(flow.layers)]] == list(flow.layers)
    # GELU follows "up", and nothing else.
    saturated = np.isfinite(flow.saturated[0, 0])
    assert [name for name, yes in zip(flow.layers, saturated, strict=True) if yes] == ["blocks[0].up", "blocks[1].up"]


def test_the_residual_stream_is_read_at_its_sums(transformer):
    _, _, flow, trace = transformer
    sums = (f"blocks[{l}].{name}" for l in range(2) for name in ("middle", "end"))
    assert flow.parts == ("tokens", *sums, "head")
    for i, name in enumerate(flow.parts):
        assert flow.stream.log10_dZ[0, 1, i] == pytest.approx(norm(trace[name].dA_out), abs=1e-4)
        assert flow.stream.log10_mean_square[0, 1, i] == pytest.approx(
            np.log10(np.mean(trace[name].A_out ** 2)), abs=1e-4
        )


def test_a_verdict_on_branches_is_one_on_the_stream(transformer):
    position, _, flow, _ = transformer
    found = flow.diagnosis()
    assert found.verdict == flow.verdict()
    assert found.verdict.decades == pytest.approx(
        np.median(flow.stream.log10_dZ[0, :, 0] - flow.stream.log10_dZ[0, :, -2])
    )
    # The embedding of GPT-2 is small, and a norm behind the first sum divides by its size.
    assert found.verdict.kind == {"pre": "stable", "post": "exploding"}[position]
    assert " a part of the stream [" in str(found)
    assert str(found).endswith("no theory: Embedding layers")
    assert np.isnan(flow.expected()).all()


def test_angles_are_those_of_the_sequences_gradients(transformer):
    """Against autodiff sequence by sequence."""
    _, net, flow, _ = transformer
    params = draw(net, (5,))
    one = lambda x, y: jax.grad(lambda p: fbp.loss_value(net, LOSS, p, x[None], y[None]))(params)
    each = jax.jit(jax.vmap(one))(X, Y)
    for copy, name in ((0, "q"), (1, "up")):
        g = np.asarray(each["blocks"][name]["W"][:, copy], np.float64).reshape(3, -1)
        unit = g / np.linalg.norm(g, axis=1, keepdims=True)
        l = flow.layers.index(f"blocks[{copy}].{name}")
        assert flow.cosine[0, 1, l] == pytest.approx((np.sum(unit @ unit.T) - 3) / 6, rel=1e-3, abs=1e-4)
        noise = np.sum(np.var(g, axis=0, ddof=1)) / np.sum(np.mean(g, axis=0) ** 2)
        assert flow.noise[0, 1, l] == pytest.approx(noise, rel=1e-3)


def test_the_modern_transformer_is_read_without_a_batch():
    net = fbp.gpt(**SIZES | {"width": 8, "depth": 1}, style="modern", share_head=False)
    flow = measure(net, seeds=2, scales=(1.0, 2.0))
    assert flow.log10.dZ.shape == (2, 2, 2 + 7)
    assert np.isneginf(flow.log10.db).all()
    assert np.isfinite(flow.log10.dW).all()
    # The factor is one on dense layers: the embedding, which everything reads first, is what it was.
    np.testing.assert_array_equal(flow.log10_mean_square[0, :, 0], flow.log10_mean_square[1, :, 0])
    q = flow.layers.index("blocks[0].q")
    np.testing.assert_allclose(np.diff(flow.log10_mean_square[:, :, q], axis=0), np.log10(4), atol=1e-4)
    with pytest.raises(fbp.FbpError, match="got tokens or several inputs"):
        measure(net, seeds=1, spectrum=True)


def test_gradient_norms_have_the_rows_of_the_flow():
    net = fbp.gpt(**SIZES)
    norms = jax.jit(fbp.log10_gradient_norms(net, LOSS))(draw(net, (5,)), X, Y)
    flow = measure(net, LOSS, X, Y, seeds=2)
    for name in ("dZ", "dA", "dW"):
        np.testing.assert_allclose(getattr(norms, name), flow.values(name)[0, 1], atol=1e-4)


def branched():
    """Two branches, of which an activation follows the first; a product, batch norm, and a tied layer."""
    return Network(
        a=Dense(6, "mean_field(1.2, 0.3)"),
        b=Dense(6).of("input"),
        act=Activation("relu").of("a"),
        join=Multiply().of("act", "b"),
        norm=BatchNorm(),
        tied=Dense(6).sharing("b"),
        end=Add().of("norm", "tied"),
        out=Dense(3),
        shape=(6,),
    )


def test_branches_are_told_apart():
    net = branched()
    flow = measure(net, seeds=3)
    assert flow.layers == ("a", "b", "tied", "out")
    assert flow.parts == ("join", "end", "out")
    assert np.isfinite(flow.saturated[..., 0]).all()
    assert np.isnan(flow.saturated[..., 1:]).all()
    params = draw(net, (6,))
    Z = standard_inputs(net, 0) @ np.asarray(params["a"]["W"]) + np.asarray(params["a"]["b"])
    assert flow.saturated[0, 1, 0] == pytest.approx(np.mean(Z <= 0))
    assert sorted(params) == ["a", "act", "b", "end", "join", "norm", "out"]
    assert "no theory: Multiply layers" in str(flow.diagnosis())


def test_a_network_without_branches_has_its_theory():
    lines = {f"line{i}": layer for i, layer in enumerate(fbp.mlp((8,) * 5, "tanh", "lecun_normal").layers)}
    straight, tied = (
        Network(**lines, shape=(8,)),
        Network(**lines | {"line4": lines["line4"].sharing("line2")}, shape=(8,)),
    )
    one, other = measure(straight, seeds=3), measure(fbp.mlp((8,) * 5, "tanh", "lecun_normal"), seeds=3)
    np.testing.assert_allclose(one.log10.dZ, other.log10.dZ, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(one.saturated, other.saturated)
    assert (one.layers[1], other.layers[1]) == ("line2", "[2]")
    assert one.diagnosis().theory == pytest.approx(other.diagnosis().theory)
    found = measure(tied, seeds=3).diagnosis()
    assert found.theory is None
    assert "no theory: parameters that are used more than once" in str(found)


def test_several_inputs_and_outputs_are_measured():
    block = Network("x", "scale", up=Dense(4).of("x"), gated=Multiply().of("up", "scale"), end=Add().of("x", "gated"))
    net = Network(
        "x", "scale", blocks=Repeat(block, 3, through="x").of(x="x", scale="scale"), low=Dense(2),
        high=Dense(5).of("blocks"), output={"low": "low", "high": "high"},
    )  # fmt: skip
    inputs = {
        name: jnp.asarray(np.random.default_rng(i).normal(size=(5, 4)), jnp.float32)
        for i, name in enumerate(("x", "scale"))
    }
    flow = measure(net, X=inputs, seeds=2)
    assert flow.layers == ("blocks[0].up", "blocks[1].up", "blocks[2].up", "low", "high")
    assert np.isfinite(flow.log10.dW).all()
    assert np.isfinite(flow.log10_dX).all()
    assert flow.parts == ()
    with pytest.raises(fbp.FbpError, match="must know the shape of its input"):
        measure(net, seeds=2)


@pytest.mark.parametrize(
    ("lines", "stream"),
    [
        ({"a": Dense(4), "b": Dense(4)}, (0, 1)),
        ({"a": Dense(4), "end": Add().of("input", "a")}, (1,)),
        ({"norm": LayerNorm(), "a": Dense(4), "end": Add().of("norm", "a"), "out": Dense(2)}, (0, 2, 3)),
        ({"a": Dense(4), "b": Dense(4).of("input"), "output": {"a": "a", "b": "b"}}, ()),
    ],
)
def test_the_stream_is_what_everything_passes(lines, stream):
    assert Network(**lines).stream == stream


def test_embeddings_and_positions_are_drawn_by_their_initializers():
    net = fbp.gpt(vocabulary=50, length=40, width=8, depth=1, heads=1)
    params = sample_parameters(net, (40,), 3)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0))[0])
    assert jax.tree.map(lambda p: p.shape[1:], params) == jax.tree.map(lambda p: p.shape, shapes)
    for x in (params["tokens"]["E"], params["positions"]["P"], params["blocks"]["up"]["W"]):
        assert np.std(x) == pytest.approx(0.02, rel=0.1)
    np.testing.assert_array_equal(params["norm"]["gamma"], 1)


@pytest.mark.parametrize(("n_in", "n_out", "most"), [(3, 4, 4096), (3, 4, 0), (2, 1, 4096), (40, 30, 4096)])
def test_products_are_those_of_the_examples_gradients(n_in, n_out, most, monkeypatch):
    monkeypatch.setattr("fbp.pairs._MOST_ROWS", most)
    draw = np.random.default_rng(0)
    A, dZ = (draw.normal(size=(4, 5, n)).astype(np.float32) for n in (n_in, n_out))
    tokens = draw.integers(0, n_in, (4, 5))
    for pair, rows in (
        (Outer(jnp.asarray(A), jnp.asarray(dZ)), A),
        (Outer(jnp.asarray(tokens), jnp.asarray(dZ), n_in), np.eye(n_in)[tokens]),
    ):
        g = np.einsum("mti,mto->mio", rows, dZ).reshape(4, -1)
        np.testing.assert_allclose(pair.products(), g @ g.T, rtol=1e-4, atol=1e-4)


def test_lsuv_scales_every_layer_with_a_weight_matrix():
    net = Network(
        tokens=Embedding(11, 6), blocks=fbp.gpt(**SIZES).children[2], norm=LayerNorm(), out=Dense(6, "orthogonal"),
        head=Unembedding(11).sharing("tokens"), last=Dense(3), shape=(5,),
    )  # fmt: skip
    scaled = fbp.lsuv(net, draw(net, (5,)), X)
    trace = fbp.trace(net, fbp.HalfSquaredError(), scaled, X, jnp.zeros((3, 5, 3)))
    for each in trace.layers:
        if each.weights and each.name != "head":
            assert np.std(each.A_out) == pytest.approx(1, abs=1e-3), each.name


def test_population_statistics_are_folded_in_lines():
    net = branched()
    params, batch = draw(net, (6,)), jax.random.normal(jax.random.key(0), (64, 6))
    frozen, folded = fbp.with_population_statistics(net, params, batch, batch_size=64)
    assert not frozen.mixes_examples
    assert sorted(folded["norm"]) == ["scale", "shift"]
    np.testing.assert_allclose(frozen.forward(folded, batch)[0], net.forward(params, batch)[0], rtol=0.05, atol=0.05)


def test_norms_of_any_loss_are_named_by_line():
    net = fbp.gpt(**SIZES | {"depth": 1})
    found = fbp.gradient_norms(lambda p, X, Y: fbp.loss_value(net, LOSS, p, X, Y), draw(net, (5,)), X, Y)
    assert {"tokens/E", "positions/P", "blocks/q/W", "norm/gamma"} <= {leaf.path for leaf in found.leaves}
    assert all(leaf.finite for leaf in found.leaves)


def test_layers_in_a_sequence_of_blocks_share_the_names_of_their_places():
    """A chain is rolled for speed; its layers keep the names that they had."""
    net = Serial(
        *[Network(norm=LayerNorm(), hidden=Dense(4), end=Add().of("input", "hidden"))] * 3, Dense(2), shape=(4,)
    )
    flow = measure(net, seeds=2)
    assert flow.layers == ("[0].hidden", "[1].hidden", "[2].hidden", "[3]")
    assert flow.parts == ("[0].end", "[1].end", "[2].end", "[3]")
    flow = measure(fbp.mlp((4, 4, 4, 2), residual=True), seeds=2)
    assert flow.layers == ("[0]", "[1][1]", "[3]")
    assert flow.parts == ("[0]", "[1]", "[3]")
