"""Every local rule against `jax.vjp`, over shapes and dtypes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_cases import CASES, ELEMENTWISE, INDEXING, PRODUCTS, REDUCTIONS, SHAPES, WINDOWS, Arg, draw
from jax import lax

import fbp.graph
from fbp.graph.rules import (
    RULES,
    STRUCTURES,
    arithmetic,
    elementwise,
    formula,
    indexing,
    products,
    reductions,
    shapes,
    windows,
)

pytestmark = pytest.mark.usefixtures("standard_promotion")


def names(cases):
    return [f"{i}-{primitive}" for i, (primitive, _, _) in enumerate(cases)]


def primitives(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from primitives(getattr(inner, "jaxpr", inner))


def as_loss(f, args):
    """Σ w f(x), w random: the gradient is the pullback of w."""
    shape = jax.eval_shape(f, *args)
    w = [np.random.default_rng(7).normal(size=y.shape) for y in jax.tree.leaves(shape)]

    def loss(*args):
        ys = jax.tree.leaves(f(*args))
        return sum(jnp.sum(y * jnp.asarray(v, y.dtype)) for v, y in zip(w, ys, strict=True))

    return loss


def gradients(f, args, compiled=True):
    """Ours and those of JAX, in one program: compiling is most of the work here."""
    floating = tuple(i for i, x in enumerate(args) if jnp.issubdtype(x.dtype, jnp.inexact))
    loss = as_loss(f, args)
    both = lambda *args: (fbp.graph.value_and_grad(loss, floating)(*args), jax.value_and_grad(loss, floating)(*args))
    return (jax.jit(both) if compiled else both)(*args)


@pytest.mark.parametrize(("primitive", "f", "args"), CASES, ids=names(CASES))
def test_rule_equals_vjp(primitive, f, args, x64):
    args = draw(args, np.float64)
    ours, theirs = gradients(f, args)
    assert primitive in set(primitives(jax.make_jaxpr(as_loss(f, args))(*args).jaxpr))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.max(np.abs(a - b), initial=0) <= 1e-12 * np.max(np.abs(b), initial=1), primitive


DILATED = {
    "window": ((2, 2), (1, 1), [(0, 0), (0, 0)], (1, 1), (2, 3)),
    "window, strides, padding": ((3, 2), (2, 1), [(1, 2), (0, 1)], (1, 1), (2, 2)),
    "input": ((3, 2), (1, 2), [(0, 1), (1, 1)], (2, 2), (1, 1)),
    "both, a negative padding": ((3, 3), (2, 2), [(2, 1), (-1, 1)], (2, 1), (1, 2)),
}


@pytest.mark.parametrize("largest", [True, False], ids=["max", "min"])
@pytest.mark.parametrize(("size", "strides", "padding", "base", "dilation"), DILATED.values(), ids=DILATED)
def test_extremes_of_dilated_windows(size, strides, padding, base, dilation, largest, x64):
    """Where JAX has no derivative: against that of an extreme over the patches, which it has."""
    x = np.random.default_rng(0).uniform(1.0, 2.0, (9, 8)) * (1 if largest else -1)

    def ours(x):
        init, op = (-np.inf, lax.max) if largest else (np.inf, lax.min)
        return lax.reduce_window(x, init, op, size, strides, padding, base, dilation)

    def theirs(x):
        patches = lax.conv_general_dilated_patches(x[None, None], size, strides, padding, base, dilation)[0]
        return patches.max(0) if largest else patches.min(0)

    loss = as_loss(ours, [x])
    assert np.array_equal(ours(x), theirs(x))
    assert np.allclose(fbp.graph.value_and_grad(loss)(x)[1], jax.grad(as_loss(theirs, [x]))(x), rtol=1e-12)


NARROW = [
    (primitive, f, args)
    for primitive, f, args in [*ELEMENTWISE, *REDUCTIONS, *SHAPES, *PRODUCTS[:9], *WINDOWS, *INDEXING]
    if all(isinstance(arg, Arg) for arg in args) and primitive != "fft"
]


def differentiable_loss(f, args):
    """The loss of a case, None where JAX does not differentiate it in this dtype."""
    try:
        jax.eval_shape(jax.grad(as_loss(f, args)), *args)
    except (TypeError, ValueError, NotImplementedError):
        return None
    return as_loss(f, args)


def test_rules_promote_nothing():
    """Under strict promotion of dtypes and ranks they go through wherever the function itself does."""
    seen = 0
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for primitive, f, args in CASES:
            drawn = draw(args, np.float64)
            loss = differentiable_loss(f, drawn)
            if loss is not None:
                floating = tuple(i for i, x in enumerate(drawn) if jnp.issubdtype(x.dtype, jnp.inexact))
                assert jax.eval_shape(fbp.graph.value_and_grad(loss, floating), *drawn), primitive
                seen += 1
    assert seen > 200


@pytest.mark.parametrize(("dtype", "at_least"), [(jnp.float32, 110), (jnp.bfloat16, 90)])
def test_rounding_is_that_of_the_dtype(dtype, at_least):
    """Ours is as near to float64 as that of JAX is, to some roundings."""
    drawn = [(primitive, f, draw(args, dtype)) for primitive, f, args in NARROW]
    losses = [(primitive, differentiable_loss(f, args), args) for primitive, f, args in drawn]
    losses = [(primitive, loss, args) for primitive, loss, args in losses if loss is not None]
    everything = [tuple(args) for _, _, args in losses]
    assert len(everything) >= at_least

    def all_by(differentiate):
        each = [(loss, tuple(range(len(args)))) for _, loss, args in losses]
        return jax.jit(lambda xs: [differentiate(loss, at)(*x) for (loss, at), x in zip(each, xs, strict=True)])

    ours = [gradient for _, gradient in all_by(fbp.graph.value_and_grad)(everything)]
    theirs = all_by(jax.grad)(everything)
    with jax.enable_x64(True):
        exact = all_by(jax.grad)(jax.tree.map(lambda x: x.astype("float64"), everything))
    eps = float(jnp.finfo(dtype).eps)
    for (primitive, _, _), *leaves in zip(losses, ours, theirs, exact, strict=True):
        for a, b, e in zip(*leaves, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype), primitive
            off = lambda g, e=e: float(np.max(np.abs(np.asarray(g, "float64") - np.asarray(e)), initial=0))
            assert off(a) <= 2 * off(b) + 8 * eps * float(np.max(np.abs(e), initial=0)), (primitive, dtype)


def table(pairs):
    """The rows of the page: primitives with the same rule share one."""
    rows = {}
    for primitive, rule in pairs:
        rows.setdefault(rule, []).append(f"`{primitive}`")
    return ["| " + ", ".join(names) + " | " + rule.replace("|", r"\|") + " |" for rule, names in rows.items()]


def test_the_page_shows_the_table():
    page = (Path(fbp.__file__).parents[1] / "docs" / "local_derivatives.md").read_text(encoding="utf-8")
    shown = [line for line in page.splitlines() if line.startswith("| `")]
    families = [family.RULES for family in (arithmetic, elementwise, reductions, products, windows, shapes, indexing)]
    expected = [row for family in families for row in table((rule.primitive, rule.formula) for rule in family)]
    assert shown == [*expected, *table((name, formula(name)) for name in STRUCTURES)]


def test_every_rule_is_compared():
    compared = {primitive for primitive, _, _ in CASES}
    for _, f, args in CASES:
        with jax.enable_x64(True):
            drawn = draw(args, np.float64)
            compared |= set(primitives(jax.make_jaxpr(as_loss(f, drawn))(*drawn).jaxpr))
    known = {primitive.name for primitive in vars(jax.extend.core.primitives).values() if hasattr(primitive, "name")}
    missing = {name for name, rule in RULES.items() if rule.pull and name in known} - compared
    assert not missing
    assert all(rule.formula for rule in RULES.values())
    assert all(structure.__doc__ for structure in STRUCTURES.values())
