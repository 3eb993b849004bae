"""The rules as plain functions: values and gradients are those of JAX and Optax, under every transformation."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fbp
from fbp import functional as F
from fbp.errors import FbpError

DRAW = np.random.default_rng(0)


def normal(*shape):
    return DRAW.standard_normal(shape, np.float32)


def probabilities(*shape):
    return DRAW.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(np.float32)


def plain_layer_norm(x, scale, bias, eps=1e-5, axes=(-1,)):
    mean, var = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
    return (x - mean) / jnp.sqrt(var + eps) * scale + bias


def plain_rotary(x, base=10000.0):
    half = x.shape[-1] // 2
    angle = (jnp.arange(x.shape[-3])[:, None] * base ** (-jnp.arange(half) / half))[:, None].astype(x.dtype)
    u, v = x[..., :half], x[..., half:]
    return jnp.concatenate([u * jnp.cos(angle) - v * jnp.sin(angle), u * jnp.sin(angle) + v * jnp.cos(angle)], -1)


def plain_attention(q, k, v, mask=None, *, is_causal=False, scale=None):
    """softmax(Q K^T) V in one dtype; `jax.nn.dot_product_attention` takes the softmax in float32."""
    k, v = (jnp.repeat(x, q.shape[-2] // k.shape[-2], axis=-2) for x in (k, v))
    scores = jnp.einsum("...tnh,...snh->...nts", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    seen = jnp.tril(jnp.ones(scores.shape[-2:], bool)) if is_causal else True
    seen = seen if mask is None else jnp.logical_and(seen, mask)
    return jnp.einsum("...nts,...snh->...tnh", jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1), v)


def plain_feed_forward(x, W_up, b_up, W_down, b_down, norm=None):
    x = x if norm is None else plain_layer_norm(x, *norm)
    return jax.nn.gelu(x @ W_up + b_up) @ W_down + b_down


def plain_linear_cross_entropy(x, W, labels, weights=None, b=0.0):
    losses = optax.softmax_cross_entropy_with_integer_labels(x @ W + b, labels)
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()


@dataclass(frozen=True)
class Case:
    """One of our functions beside what it must equal.

    Attributes:
        name: of the test.
        ours: the function.
        plain: the reference, which JAX differentiates.
        args: float32 and integer arrays.
        batched: which of them `vmap` maps, by place.
    """

    name: str
    ours: Any
    plain: Any
    args: tuple[Any, ...]
    batched: tuple[int, ...] = (0,)

    def __str__(self):
        return self.name

    @property
    def floats(self):
        return tuple(i for i, x in enumerate(self.args) if np.issubdtype(x.dtype, np.floating))

    def cast(self, dtype):
        return [jnp.asarray(x.astype(dtype) if i in self.floats else x) for i, x in enumerate(self.args)]


def attention(*extra, T=7, S=None, heads=4, key_heads=None, **options):
    shapes = (2, T, heads, 6), (2, S or T, key_heads or heads, 6), (2, S or T, key_heads or heads, 6)
    given = tuple(normal(*shape) for shape in shapes) + extra
    plain = {name: value for name, value in options.items() if name != "rule"}

    def bind(function, own):
        return lambda q, k, v, mask=None: function(q, k, v, mask=mask, **own)

    batched = () if extra and extra[0].shape[0] == 1 else tuple(range(len(given)))
    return bind(F.dot_product_attention, options), bind(plain_attention, plain), given, batched


def visible(*shape):
    mask = DRAW.random(shape) < 0.6
    mask[..., 0] = True  # where a query sees no key, jax.nn takes the mean of all values
    return mask


SCALE, BIAS = 1 + 0.1 * normal(5), normal(5)
FEED = normal(4, 3, 5), normal(5, 8) / 3, normal(8), normal(8, 5) / 3, normal(5)
LABELS = np.array([[0, 3, 6], [2, 2, 5]])

CASES = [
    Case("layer_norm", F.layer_norm, plain_layer_norm, (normal(4, 3, 5), SCALE, BIAS)),
    Case(
        "rms_norm",
        F.rms_norm,
        lambda x, s: x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-5) * s,
        (FEED[0], SCALE),
    ),
    Case("batch_norm", F.batch_norm, partial(plain_layer_norm, axes=(-3, -2)), (normal(4, 3, 5), SCALE, BIAS), ()),
    Case("gelu, tanh", F.gelu, jax.nn.gelu, (normal(4, 5),)),
    Case("gelu, exact", partial(F.gelu, approximate=False), partial(jax.nn.gelu, approximate=False), (normal(4, 5),)),
    Case("silu", F.silu, jax.nn.silu, (normal(4, 5),)),
    Case("swiglu", F.swiglu, lambda u, v: jax.nn.silu(u) * v, (normal(4, 5), normal(4, 5)), (0, 1)),
    Case("softmax", F.softmax, jax.nn.softmax, (normal(4, 5),)),
    Case("softmax, another axis", partial(F.softmax, axis=-2), partial(jax.nn.softmax, axis=-2), (normal(4, 3, 5),)),
    Case("attention", *attention(rule="plain")),
    Case("attention, causal", *attention(is_causal=True)),
    Case("attention, grouped", *attention(key_heads=2, is_causal=True, scale=0.3, rule="plain")),
    Case("attention, cross", *attention(S=4, rule="plain")),
    Case("attention, padding", *attention(visible(2, 1, 1, 7))),
    Case("attention, any mask", *attention(visible(2, 4, 7, 7), key_heads=2, rule="plain")),
    Case("attention, shared mask", *attention(visible(1, 1, 7, 7), is_causal=True)),
    Case("attention, lean", *attention(T=66, heads=2, rule="lean", is_causal=True)),
    Case("attention, lean, masked", *attention(visible(2, 4, 66, 66), T=66, rule="lean", key_heads=2)),
    Case("attention, lean, causal cross", *attention(T=66, S=130, heads=2, rule="lean", is_causal=True)),
    Case("rotary", F.rotary, plain_rotary, (normal(2, 7, 3, 6),)),
    Case("dense", F.dense, lambda x, W, b: x @ W + b, FEED[:3]),
    Case("dense without a bias", F.dense, lambda x, W: x @ W, FEED[:2]),
    Case("dense, tanh", partial(F.dense, activation="tanh"), lambda x, W, b: jnp.tanh(x @ W + b), FEED[:3]),
    Case("feed_forward", F.feed_forward, plain_feed_forward, FEED),
    Case(
        "feed_forward with a norm",
        lambda *args: F.feed_forward(*args[:5], norm=args[5:]),
        lambda *args: plain_feed_forward(*args[:5], norm=args[5:]),
        (*FEED, SCALE, BIAS),
    ),
    Case(
        "cross-entropy",
        F.softmax_cross_entropy,
        optax.softmax_cross_entropy,
        (normal(4, 7), probabilities(4, 7)),
        (0, 1),
    ),
    Case(
        "cross-entropy with labels",
        F.softmax_cross_entropy_with_integer_labels,
        optax.softmax_cross_entropy_with_integer_labels,
        (normal(2, 3, 7), LABELS),
        (0, 1),
    ),
    Case(
        "linear cross-entropy",
        F.linear_cross_entropy,
        plain_linear_cross_entropy,
        (normal(2, 3, 5), normal(5, 7), LABELS),
        (0, 2),
    ),
    Case(
        "linear cross-entropy with a bias",
        lambda x, W, b, labels: F.linear_cross_entropy(x, W, labels, b=b),
        lambda x, W, b, labels: plain_linear_cross_entropy(x, W, labels, b=b),
        (normal(2, 3, 5), normal(5, 7), normal(7), LABELS),
        (0, 3),
    ),
]

each_case = pytest.mark.parametrize("case", CASES, ids=str)


def run(function, case, args):
    """The value, and the gradients of its inner product with fixed numbers."""
    shape = jax.eval_shape(function, *args).shape
    weight = np.random.default_rng(1).standard_normal(shape)

    def total(*args):
        out = function(*args)
        return jnp.sum(out * jnp.asarray(weight, out.dtype)), out

    (_, out), gradients = jax.jit(jax.value_and_grad(total, case.floats, has_aux=True))(*args)
    return [out, *gradients]


def check(ours, plain, tolerance):
    for mine, theirs in zip(ours, plain, strict=True):
        mine, theirs = (np.asarray(x, np.float64) for x in (mine, theirs))
        assert np.linalg.norm(mine - theirs) <= tolerance * max(np.linalg.norm(theirs), 1e-3)


@each_case
def test_value_and_gradient_are_those_of_jax(case, x64, standard_promotion):
    args = case.cast(np.float64)
    check(run(case.ours, case, args), run(case.plain, case, args), 1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if case.batched], ids=str)
def test_a_batch_of_calls_with_shared_weights_is_what_the_calls_are(case, x64, standard_promotion):
    args = case.cast(np.float64)
    axes = tuple(0 if i in case.batched else None for i in range(len(args)))
    batch = partial(jax.vmap, in_axes=axes)
    check(run(batch(case.ours), case, args), run(batch(case.plain), case, args), 1e-12)


@each_case
def test_bfloat16_stays_bfloat16(case):
    args = case.cast(jnp.bfloat16)
    got = run(case.ours, case, args)
    if not case.name.startswith("linear cross-entropy"):
        assert got[0].dtype == jnp.bfloat16
    assert all(g.dtype == jnp.bfloat16 for g in got[1:])
    check(
        got, run(case.ours, case, [x.astype(jnp.float32) if i in case.floats else x for i, x in enumerate(args)]), 0.03
    )


CONFORM = {
    *("layer_norm", "rms_norm", "batch_norm", "gelu, tanh", "silu", "swiglu", "softmax", "rotary", "dense, tanh"),
    *("attention, grouped", "attention, lean", "feed_forward with a norm"),
    *("cross-entropy", "cross-entropy with labels", "linear cross-entropy"),
}
"""One case of each function: the others take the same way through the transformations."""


@pytest.mark.parametrize("case", [case for case in CASES if case.name in CONFORM], ids=str)
def test_it_conforms(case):
    """Under jit, vmap, scan and remat, sharded over devices, with integers traced."""
    report = fbp.verify.conformance(case.ours, *case.cast(np.float32))
    assert report.verdict == "PASS", report
    rows = {row.name: row for row in report.rows}
    assert rows["forward"].detail.startswith("no: custom_vjp")


@pytest.mark.parametrize("rule", ["plain", "lean"])
def test_attention_is_called_as_that_of_jax(rule, standard_promotion):
    q, k, v = (jnp.asarray(normal(2, 9, heads, 8)) for heads in (4, 2, 2))
    options = {"mask": jnp.asarray(visible(2, 1, 9, 9)), "scale": 0.2, "is_causal": True}
    ours = F.dot_product_attention(q, k, v, rule=rule, **options)
    assert np.allclose(ours, jax.nn.dot_product_attention(q, k, v, **options), atol=1e-5)


def test_one_example_needs_no_batch_axis():
    q, k, v = (jnp.asarray(normal(5, 4, 6)) for _ in range(3))
    mask = jnp.asarray(visible(1, 5, 5))
    one = F.dot_product_attention(q, k, v, mask)
    assert np.allclose(one, F.dot_product_attention(q[None], k[None], v[None], mask[None])[0], atol=1e-6)
    assert F.rotary(q).shape == q.shape


def test_a_query_that_sees_nothing_gets_zeros():
    q = jnp.ones((1, 3, 2, 4))
    mask = jnp.array([False, True, True])[None, None, :, None]
    for rule in ("plain", "lean"):
        out = F.dot_product_attention(q, q, q, mask, rule=rule)
        assert not out[0, 0].any()
        assert np.allclose(out[0, 1:], 1)
        d = jax.grad(lambda q, rule=rule: F.dot_product_attention(q, q, q, mask, rule=rule).sum())(q)
        assert np.isfinite(d).all()


def test_no_gradient_where_a_label_is_out_of_range():
    logits, labels = jnp.asarray(normal(4, 3)), jnp.array([0, 3, -1, 2])
    losses, pullback = jax.vjp(F.softmax_cross_entropy_with_integer_labels, logits, labels)
    assert np.isnan(losses).tolist() == [False, True, True, False]
    d_logits = pullback(jnp.ones(4))[0]
    assert not d_logits[1:3].any()
    assert d_logits[0].any()
    assert np.isnan(F.linear_cross_entropy(jnp.ones((4, 2)), jnp.ones((2, 3)), labels))


@pytest.mark.parametrize("weights", [np.array([[1, 0, 2], [0, 1, 1]], np.float32), np.array([1, 0], np.float32)])
def test_weights_leave_items_out_and_are_constants(weights, x64, standard_promotion):
    x, W, labels = jnp.asarray(normal(2, 3, 5), float), jnp.asarray(normal(5, 7), float), jnp.asarray(LABELS)
    each = np.broadcast_to(weights if weights.ndim == 2 else weights[:, None], LABELS.shape)
    padded = labels.at[each == 0].set(99)
    value, gradients = jax.value_and_grad(F.linear_cross_entropy, (0, 1))(x, W, padded, jnp.asarray(weights))
    plain_value, plain_gradients = jax.value_and_grad(plain_linear_cross_entropy, (0, 1))(x, W, labels, each)
    check([value, *gradients], [plain_value, *plain_gradients], 1e-12)
    assert not jax.grad(F.linear_cross_entropy, 3)(x, W, labels, jnp.asarray(weights)).any()


def test_label_smoothing_is_that_of_optax(standard_promotion):
    x, W = jnp.asarray(normal(6, 5)), jnp.asarray(normal(5, 7))
    smooth = optax.smooth_labels(jax.nn.one_hot(LABELS.ravel(), 7), 0.1)
    ours = F.linear_cross_entropy(x, W, LABELS.ravel(), label_smoothing=0.1)
    assert np.allclose(ours, optax.softmax_cross_entropy(x @ W, smooth).mean(), rtol=1e-6)


def test_scores_of_all_rows_never_exist_together(optimized):
    x, W, labels = (
        jax.ShapeDtypeStruct(s, d) for s, d in (((2048, 8), "float32"), ((8, 4096), "float32"), ((2048,), "int32"))
    )
    program = fbp.cost.compile(jax.value_and_grad(F.linear_cross_entropy, (0, 1)), (x, W, labels))
    assert program.temporary_bytes < 2048 * 4096 * 4 / 2


def test_only_forward_mode_is_lost(standard_promotion):
    assert np.allclose(jax.hessian(F.silu)(0.3), jax.hessian(jax.nn.silu)(0.3))
    with pytest.raises(TypeError, match="custom_vjp"):
        jax.jvp(F.silu, (0.3,), (1.0,))


def test_feed_forward_keeps_no_hidden_activation(optimized):
    layers, m, n, k = 6, 256, 32, 256
    shapes = [[jax.ShapeDtypeStruct(s, "float32") for s in ((n, k), (k,), (k, n), (n,), (n,), (n,))]] * layers

    def loss(block, params, x):
        for own in params:
            x = x + block(x, *own)
        return jnp.sum(jnp.square(x))

    def separate(x, W_up, b_up, W_down, b_down, scale, bias):
        return F.dense(F.dense(F.layer_norm(x, scale, bias), W_up, b_up, "gelu_tanh"), W_down, b_down)

    fused = lambda x, *own: F.feed_forward(x, *own[:4], norm=own[4:])
    arguments = shapes, jax.ShapeDtypeStruct((m, n), "float32")
    lean, full = (fbp.cost.compile(jax.grad(partial(loss, f)), arguments).temporary_bytes for f in (fused, separate))
    assert lean < 0.75 * full


BAD = [
    (F.gelu, (np.arange(3),), "x of gelu must be floating point, got int"),
    (F.softmax, (normal(3), 1), "axis of softmax must be one of the 1 axes"),
    (F.swiglu, (normal(3), normal(4)), "gate and value of swiglu must agree"),
    (F.layer_norm, (normal(3, 4), normal(3), normal(4)), r"scale of layer_norm .* \(4,\), got \(3,\)"),
    (F.rms_norm, (np.float32(1), normal(1)), "at least one axis"),
    (F.rms_norm, (normal(3), normal(3), -1.0), "eps of RMSNorm must be"),
    (F.batch_norm, (normal(3), normal(3), normal(3)), "axis of examples"),
    (F.dot_product_attention, (normal(2, 3, 4, 6), normal(2, 3, 3, 6), normal(2, 3, 3, 6)), "where K divides N"),
    (F.dot_product_attention, (normal(3, 4), normal(3, 4), normal(3, 4)), "split the heads"),
    (
        F.dot_product_attention,
        (*[normal(3, 4, 6)] * 3, np.ones((3, 3))),
        "mask of dot_product_attention must be booleans",
    ),
    (F.rotary, (normal(3, 4, 5),), "H even"),
    (F.dense, (normal(3, 4), normal(5, 4)), "x of dense must have the shape"),
    (F.dense, (normal(3, 4), normal(4, 5), normal(4)), "b of dense must have one entry"),
    (F.dense, (normal(3, 4), normal(4, 5), None, "tanhh"), "unknown activation 'tanhh'"),
    (F.feed_forward, (normal(3, 4), normal(4, 8), None, normal(7, 4), None), "inputs of Dense"),
    (F.softmax_cross_entropy, (normal(3, 4), normal(3)), "labels of softmax_cross_entropy must have the shape"),
    (F.softmax_cross_entropy_with_integer_labels, (normal(3, 4), normal(3)), "must be integers of the shape"),
    (F.linear_cross_entropy, (normal(3, 4), normal(5, 4), np.zeros(3, int)), "x and W of linear_cross_entropy"),
    (F.linear_cross_entropy, (normal(3, 4), normal(4, 5), np.zeros(2, int)), "labels of linear_cross_entropy"),
    (F.linear_cross_entropy, (normal(3, 4), normal(4, 5), np.zeros(3, int), normal(2)), "weights must have the shape"),
]


@pytest.mark.parametrize(("function", "args", "message"), BAD, ids=[message for _, _, message in BAD])
def test_a_mistake_is_one_clear_line(function, args, message):
    with pytest.raises(FbpError, match=message):
        function(*args)
