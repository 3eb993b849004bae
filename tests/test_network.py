"""Networks with named lines, and the layers that they are made for: what is refused, kept, shared and left out."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fbp
import fbp.chunks
from fbp import (
    Activation,
    Add,
    Attention,
    Concatenate,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Gated,
    LearnedPositions,
    LowRank,
    Multiply,
    Network,
    Repeat,
    Rotary,
    Serial,
    Unembedding,
)
from fbp.cost import compile
from fbp.tree import rebuild
from fbp.verify import differences

KEY, LOSS = jax.random.key(0), fbp.SoftmaxCrossEntropy()
TOKENS = np.array([[3, 1, 4, 1], [5, 0, 2, 6]])


def attention(shape=(3, 4), **options):
    """What `init` makes of attention between dense lines."""
    net = Network(
        q=Dense(6), k=Dense(6).of("input"), v=Dense(6).of("input"), mix=Attention(**options).of("q", "k", "v")
    )
    return net.init(KEY, shape)


def with_mask(X, mask):
    """The output of attention of X with itself."""
    net = Network("x", "mask", mix=Attention(2).of("x", "x", "x", "mask"))
    return net.forward(net.init(KEY, {"x": X.shape[1:], "mask": mask.shape[1:]})[0], {"x": X, "mask": mask})


def gpt(**options):
    return fbp.gpt(7, 5, 8, 2, 2, **options)


def run_gpt(tokens):
    net = gpt()
    return fbp.value_and_grad(net, LOSS)(net.init(KEY)[0], tokens, tokens)


UNEQUAL = Network(q=Dense(3), end=Add().of("input", "q"))
X = np.ones((2, 3, 4), np.float32)
REFUSED = {
    "a name that does not exist": (
        lambda: Network(norm=Dense(3), q=Dense(3).of("nrom")),
        "the line 'q' must name a line before it, got 'nrom', which it reads; did you mean 'norm'?",
    ),
    "a later line": (lambda: Network(a=Dense(3).of("b"), b=Dense(3)), "put the line 'b' before it"),
    "an input named twice": (lambda: Network("x", "x", a=Dense(3).of("x")), "must have different names, got x, x"),
    "a reserved name": (lambda: Network(input=Dense(3)), "must not be 'input' or 'output' or 'shape', got 'input'"),
    "the name of an input": (lambda: Network("x", x=Dense(3)), "or 'x', got 'x'; rename it"),
    "an output that does not exist": (lambda: Network(a=Dense(3), output="b"), "the output must name a line"),
    "a line that nobody reads": (
        lambda: Network(a=Dense(3), b=Dense(3), c=Dense(3).of("a")),
        "must be read by another or be its output, got 'b'",
    ),
    "an input that nobody reads": (lambda: Network("x", "y", a=Dense(3).of("x")), "got 'y', which nobody reads"),
    "several inputs and no name": (lambda: Network("x", "y", a=Dense(3)), "the line 'a' must say what it reads"),
    "no lines": (lambda: Network(), "must have at least one line"),
    "no layer": (lambda: Network(a=3), "arguments of Network must be layers, got 3"),
    "names and entries": (lambda: Dense(3).of("a", x="b"), "`of` must name lines, or say for each input its line"),
    "no owner": (lambda: Network(a=Dense(3).sharing("b")), "got 'b', which it shares the parameters of"),
    "a shared layer of another shape": (
        lambda: Network(a=Dense(3), b=Dense(4).sharing("a")).init(KEY, (3,)),
        "b: the parameters of 'a', which this line shares, must have the shapes {'W': (3, 4), 'b': (4,)}",
    ),
    "a sum of two shapes, in a loop": (
        lambda: Network(blocks=Repeat(UNEQUAL, 2)).init(KEY, (4,)),
        "blocks[*].end: inputs of Add must have one shape, got (4,), (3,)",
    ),
    "a sum of two shapes, inside": (
        lambda: Serial(Dense(4), Network(inner=UNEQUAL)).init(KEY, (4,)),
        "[1].inner.end: inputs of Add must have one shape",
    ),
    "a sum of one": (lambda: Network(a=Add().of("input")).init(KEY, (4,)), "a: Add must read at least two lines"),
    "a gate of three": (
        lambda: Network(a=Gated().of("input", "input", "input")).init(KEY, (4,)),
        "a: Gated must read two lines, got 3",
    ),
    "side by side, of other rows": (
        lambda: Network(a=Flatten(), b=Concatenate().of("a", "input")).init(KEY, (2, 3)),
        "b: inputs of Concatenate must agree in all axes but the last, got (6,), (2, 3)",
    ),
    "heads that do not divide the width": (
        lambda: attention(heads=4),
        "mix: heads of Attention must divide the width, got 4 for 6",
    ),
    "heads of a gpt": (lambda: fbp.gpt(7, 5, 8, 2, 3), "heads must divide the width 8, got 3"),
    "heads of keys": (lambda: attention(heads=3, key_value_heads=2), "must divide the 3 heads, got 2"),
    "the width of keys": (
        lambda: attention(heads=3, key_value_heads=1),
        "mix: keys and values must have the width 2, that of 1 heads of 2, got (3, 6) and (3, 6)",
    ),
    "vectors": (lambda: attention((4,), heads=2), "mix: inputs of Attention must be sequences of vectors"),
    "a rule": (lambda: Attention(2, rule="leen"), "unknown rule of Attention 'leen': did you mean 'lean'?"),
    "attention to one line": (lambda: Serial(Attention(2)).init(KEY, (3, 4)), "[0]: Attention must read queries, keys"),
    "a mask of other keys": (lambda: with_mask(X, np.ones((2, 2), bool)), "mask of Attention must have the shape (3,)"),
    "a mask of numbers": (
        lambda: with_mask(X, np.ones((2, 3), np.float32)),
        "mix: the mask of Attention must be boolean, true for the keys that count, got float32",
    ),
    "an odd width to rotate": (
        lambda: Serial(Rotary(2)).init(KEY, (3, 6)),
        "[0]: examples of Rotary must be sequences of 2 heads of even width, (T, n), got the shape (3, 6)",
    ),
    "tokens out of range": (lambda: run_gpt(TOKENS + 1), "tokens: tokens must be in 0..6, got 7; enlarge the vocab"),
    "negative tokens": (lambda: run_gpt(TOKENS - 1), "tokens: tokens must be in 0..6, got -1"),
    "no integers": (lambda: run_gpt(np.ones((2, 3), np.float32)), "inputs of Embedding must be integers"),
    "a sequence longer than the positions": (
        lambda: run_gpt(np.zeros((2, 6), int)),
        "positions: sequences must have at most 5 positions, as many as were learned, got 6",
    ),
    "an entry of the input": (
        lambda: Network("x", "y", a=Add().of("x", "y")).init(KEY, {"x": (2,), "z": (2,)}),
        "must be a dictionary of 'x', 'y', got the entries 'x', 'z'",
    ),
    "nothing to go through": (
        lambda: Repeat(Network("x", "y", a=Add().of("x", "y")), 2, through="z").init(KEY, {"x": (2,), "y": (2,)}),
        "must be a dictionary with 'z', to go through, got the entries 'x', 'y'",
    ),
    "an adapter of no dense layer": (lambda: LowRank(Activation("tanh")), "LowRank must adapt a Dense layer"),
    "a pattern of no parameter": (
        lambda: fbp.value_and_grad(Dense(7), LOSS, only="w")(Dense(7).init(KEY, (4,))[0], X[0], np.arange(3)),
        "unknown parameter 'w': known are W, b",
    ),
    "weights of other items": (
        lambda: LOSS.value(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), int), jnp.ones((3, 2))),
        "weights must have the shape (2,) or (2, 3), got (3, 2)",
    ),
    "too much smoothing": (lambda: fbp.SoftmaxCrossEntropy(label_smoothing=2), "label_smoothing must be in [0, 1]"),
}


@pytest.mark.parametrize(("call", "said"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_line_that_names_the_layer(call, said):
    with pytest.raises(fbp.FbpError) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_token_out_of_range_makes_a_compiled_loss_nan():
    net = Serial(Embedding(7, 3), Dense(7))
    params, _ = net.init(KEY, (4,))
    step = jax.jit(fbp.value_and_grad(net, LOSS))
    for tokens in (TOKENS + 1, TOKENS - 1):
        assert np.isnan(step(params, tokens, TOKENS)[0])
    assert np.isfinite(step(params, TOKENS, TOKENS)[0])


def test_random_numbers_of_a_line_depend_on_its_name_only():
    lines = {"q": Dense(4, "normal"), "masked": Dropout(0.5)}
    alone, behind = Network(**lines), Network(first=Dense(4), then=Activation("relu"), **lines)
    ours, theirs = (net.init(KEY, (4,))[0]["q"]["W"] for net in (alone, behind))
    np.testing.assert_array_equal(ours, theirs)
    masks = [net.forward(net.init(KEY, (4,))[0], jnp.ones((8, 4)), KEY)[1]["masked"] for net in (alone, behind)]
    np.testing.assert_array_equal(*masks)
    other = Network(k=Dense(4, "normal")).init(KEY, (4,))[0]["k"]["W"]
    assert np.all(other != ours)


BLOCKS = {
    # x, its mean and r; q, k, v, P; O; the sum in the middle, its mean and r; the input of gelu.
    "gpt2, plain": (gpt(attention="plain"), 12),
    # x, its mean and r; q, k, v, O, L; the sum in the middle, its mean and r; the input of gelu.
    "gpt2, lean": (gpt(attention="lean"), 12),
    # x, its r; q and k rotated, v, P; O; the sum in the middle and its r; gate and value.
    "modern": (gpt(style="modern", attention="plain"), 11),
}


@pytest.mark.parametrize(("net", "arrays"), BLOCKS.values(), ids=BLOCKS)
def test_a_value_that_several_lines_read_is_cached_once(net, arrays):
    cache = jax.eval_shape(lambda key: net.forward(net.init(key)[0], jnp.asarray(TOKENS))[1]["blocks"], KEY)
    assert len(jax.tree.leaves(cache)) == arrays
    assert all(leaf.shape[0] == 2 for leaf in jax.tree.leaves(cache))


def test_what_every_block_is_given_is_cached_once_and_not_once_a_block():
    block = Network("x", "memory", "mask", mix=Attention(2, causal=False).of("x", "memory", "memory", "mask"))
    net = Repeat(block, 3, through="x")
    given = {"x": jnp.ones((5, 2, 4)), "memory": jnp.ones((5, 7, 4)), "mask": jnp.ones((5, 7), bool)}
    cache = jax.eval_shape(lambda given: net.forward({"mix": ()}, given)[1], given)
    shapes = sorted((leaf.shape for leaf in jax.tree.leaves(cache)), key=len)
    # The mask and the memory; the queries and P of each block.
    assert shapes == [(5, 7), (5, 7, 4), (3, 5, 2, 4), (3, 5, 2, 2, 7)]


NET = fbp.mlp((64,) * 4, "tanh")


def adapt(layer):
    return LowRank(layer, 2) if isinstance(layer, Dense) else layer


@pytest.fixture(scope="module")
def adapted():
    """(network, params, X, Y) with adapters that have moved."""
    net = rebuild(NET, adapt)
    params, _ = net.init(KEY)
    params = tuple(p and p | {"U": 0.1 * jnp.ones_like(p["U"])} for p in params)
    return net, params, jax.random.normal(KEY, (32, 64)), jnp.arange(32)


def test_only_what_is_asked_for_has_a_gradient(adapted):
    net, *batch = adapted
    _, whole = fbp.value_and_grad(net, LOSS)(*batch)
    for only in (["*.D", "*.U"], lambda name: name[-1] in "DU"):
        _, some = fbp.value_and_grad(net, LOSS, only=only)(*batch)
        assert [set(d or ()) for d in some] == [set(d or ()) for d in whole]
        assert all(d["W"] is None and d["b"] is None for d in some if d)
        for leaf in differences(
            [{k: d[k] for k in "DU"} for d in some if d], [{k: d[k] for k in "DU"} for d in whole if d]
        ):
            assert leaf.error == 0


@pytest.mark.usefixtures("optimized")
def test_the_products_of_what_is_not_asked_for_vanish(adapted):
    net, *batch = adapted
    flops = lambda **options: compile(fbp.value_and_grad(net, LOSS, **options), (*batch,)).flops
    product = 2 * 32 * 64 * 64
    # Three layers without their dW.
    assert flops() - flops(only=["*.D", "*.U"]) >= 3 * product
    # The last layer's dW is all that is left of the backward pass.
    assert flops(only="4.W") <= 0.5 * flops()


def test_saved_parameters_fit_into_an_adapted_network(adapted):
    params, _ = NET.init(KEY)
    fresh, _ = adapted[0].init(jax.random.key(1))
    united = jax.tree.map(lambda p, q: q | p, params, fresh, is_leaf=lambda x: isinstance(x, dict))
    X = adapted[2]
    np.testing.assert_array_equal(adapted[0].forward(united, X)[0], NET.forward(params, X)[0])
    # The seed of a network gives the weights of the adapted one.
    same, _ = adapted[0].init(KEY)
    np.testing.assert_array_equal(same[0]["W"], params[0]["W"])


def test_norms_through_a_deep_network_are_those_of_float64():
    """Float32 ends near 1e-45, and the gradient long after it; cotangents of different size add on the way."""
    block = Network(
        "x",
        "memory",
        g=Activation("sigmoid").of("x"),
        dense=Dense(4, "normal(0.1)"),
        scaled=Dense(4, "normal(0.01)").of("memory"),
        end=Add().of("dense", "scaled"),
    )
    net = Network(
        memory=Dense(4),
        x=Dense(4),
        blocks=Repeat(block, 60, through="x").of(x="x", memory="memory"),
        last=Dense(3),
        again=Dense(3).sharing("last").of("x"),
        end=Add().of("last", "again"),
    )
    params, _ = net.init(KEY, (4,))
    X, Y = jax.random.normal(KEY, (5, 4)), jnp.arange(5) % 3
    found = jax.jit(fbp.log10_gradient_norms(net, LOSS))(params, X, Y)
    with jax.enable_x64(True):
        exact = partial(jnp.linalg.norm)
        see = lambda visit: {"dW": exact(visit.d_params["W"])} if isinstance(visit.layer, Dense) else None
        wide = fbp.cast((params, X), jnp.float64)
        readings = jax.jit(fbp.value_and_grad(net, LOSS, probe=see))(*wide, Y)[0][1]
        expected = np.log10(fbp.tree.stack(net, readings)["dW"])
    assert expected.min() < -50
    np.testing.assert_allclose(found.dW, expected, rtol=1e-5, atol=1e-5)


HEADS = {
    "dense": Network(tokens=Embedding(7, 3), head=Dense(5)),
    "own": Network(tokens=Embedding(7, 3), head=Unembedding(5)),
    "shared": gpt(),
    "adapted": Network(tokens=Embedding(7, 3), head=LowRank(Dense(5), 2)),
}
WEIGHTS = {"none": None, "examples": np.array([0.5, 0.0, 2.0]), "items": np.arange(15.0).reshape(3, 5)}


@pytest.fixture
def in_chunks(monkeypatch):
    """Chunks of four rows or five, of which the last is not full."""

    def begin():
        monkeypatch.setattr(fbp.chunks, "CHUNK_FROM", 1)
        monkeypatch.setattr(fbp.chunks, "CHUNK", 20)

    return begin


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("net", HEADS.values(), ids=HEADS)
def test_a_head_in_chunks_is_the_whole_one(net, weights, in_chunks, x64):
    params, _ = net.init(KEY, (5,))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda p: jnp.asarray(draw.standard_normal(p.shape)), params)
    tokens = draw.integers(0, 7, (3, 5))
    step = lambda: fbp.value_and_grad(net, fbp.SoftmaxCrossEntropy(label_smoothing=0.1))(
        params, tokens, tokens % 5, WEIGHTS[weights]
    )
    value, whole = step()
    in_chunks()
    assert fbp.chunks.chunk_head(net, LOSS, (3, 5, 7), tokens % 5) is not None
    found_value, found = step()
    np.testing.assert_allclose(found_value, value, rtol=1e-13)
    for leaf in differences(found, whole):
        assert leaf.error <= 1e-12 * leaf.norm_ref, leaf


def test_many_chunks_of_half_precision_lose_no_digits(in_chunks):
    net = Dense(5)
    params, _ = net.init(KEY, (8,))
    X, Y = jax.random.uniform(KEY, (2048, 8)), jnp.zeros(2048, int)
    half = fbp.cast((params, X), jnp.bfloat16)
    exact = fbp.value_and_grad(net, LOSS)(*fbp.cast(half, jnp.float32), Y)[1]
    in_chunks()
    _, found, _ = fbp.chunks.run_chunks(net, LOSS, *half, Y, None)
    for leaf in differences(found, exact):
        assert leaf.relative_error < 0.01, leaf


def test_no_chunks_where_rows_are_not_the_items_of_the_loss(in_chunks):
    in_chunks()
    net = Network(hidden=Dense(4), end=Dense(5))
    assert fbp.chunks.chunk_head(net, fbp.HalfSquaredError(), (2, 3, 5), np.zeros((2, 3, 5), np.float32)) is None


@pytest.mark.parametrize("rule", ["plain", "lean"])
def test_a_query_that_sees_no_key_gets_zeros_and_gives_none(rule):
    layer = Attention(2, causal=False, rule=rule)
    A = (*(jax.random.normal(jax.random.key(i), (2, 3, 4)) for i in range(3)), np.array([[False] * 3, [True] * 3]))
    O, cache = layer.forward((), A)
    _, (*gradients, d_mask) = layer.backward((), cache, jnp.ones_like(O))
    assert d_mask is None
    for array in (O, *gradients):
        assert np.all(array[0] == 0)
        assert np.all(np.isfinite(array))
    assert np.all(O[1] != 0)


@pytest.mark.parametrize(("T", "S", "causal"), [(70, 70, True), (70, 3, False), (130, 65, False)])
def test_both_rules_of_attention_give_the_same(T, S, causal, x64):
    """Also where blocks are not full, or the last examples have few keys."""
    Q, K, V = (jax.random.normal(jax.random.key(i), (2, n, 8)) for i, n in enumerate((T, S, S)))
    mask = np.arange(S)[None] < np.array([[S], [2]])
    results = []
    for rule in ("plain", "lean"):
        layer = Attention(2, causal=causal, rule=rule)
        O, cache = layer.forward((), (Q, K, V, mask))
        results.append((O, *layer.backward((), cache, jnp.cos(O))[1][:3]))
    for leaf in differences(*results):
        assert leaf.error <= 1e-13 * leaf.norm_ref


SIDES = Network(
    "x",
    "tokens",
    output={"sum": "sum", "product": "product"},
    a=Dense(3).of("x"),
    b=Embedding(7, 3).of("tokens"),
    sum=Add().of("a", "b"),
    product=Multiply().of("sum", "b"),
)


def test_two_inputs_and_two_outputs_in_the_code_of_others(x64):
    params, shape = SIDES.init(KEY, {"x": (2,), "tokens": ()})
    assert shape == {"sum": (3,), "product": (3,)}
    x, tokens = jax.random.normal(KEY, (4, 2)), jnp.array([1, 1, 6, 0])

    def task(function, params, x):
        out = function(params, {"x": x, "tokens": tokens})
        return jnp.sum(jnp.sin(out["sum"]) * out["product"])

    found, expected = (
        jax.jit(jax.grad(partial(task, function), argnums=(0, 1)))(params, x)
        for function in (fbp.as_function(SIDES), lambda params, A: SIDES.forward(params, A)[0])
    )
    for leaf in differences(found, expected):
        assert leaf.error <= 1e-13 * leaf.norm_ref


def test_an_output_that_is_not_differentiated_gives_nothing():
    params, _ = SIDES.init(KEY, {"x": (2,), "tokens": ()})
    only_sum = lambda params: fbp.as_function(SIDES)(params, {"x": jnp.ones((1, 2)), "tokens": jnp.array([3])})[
        "sum"
    ].sum()
    np.testing.assert_array_equal(jax.grad(only_sum)(params)["b"]["E"], np.eye(7)[3][:, None] * np.ones((1, 3)))


def test_positions_beyond_a_sequence_have_no_gradient():
    net = Serial(Embedding(7, 3), LearnedPositions(5), Dense(7))
    params, _ = net.init(KEY, (4,))
    _, d_params = fbp.value_and_grad(net, LOSS)(params, TOKENS, TOKENS)
    assert np.all(d_params[1]["P"][4] == 0)
    assert np.all(d_params[1]["P"][:4] != 0)
