"""Every local rule against `jax.vjp`, over shapes and dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_cases import CASES, ELEMENTWISE, INDEXING, PRODUCTS, REDUCTIONS, SHAPES, WINDOWS, Arg, draw

import fbp.graph
from fbp.graph.rules import RULES, STRUCTURES

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


NARROW = [
    case
    for case in [*ELEMENTWISE, *REDUCTIONS, *SHAPES, *WINDOWS, *INDEXING]
    if all(isinstance(a, Arg) for a in case[2])
]
IN_64 = ("polygamma", "igamma", "igammac", "fft", "real", "imag", "conj", "complex")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rounding_is_that_of_the_dtype(dtype):
    """Ours is as near to float64 as that of JAX is, to some roundings."""
    for primitive, f, args in [*NARROW, *PRODUCTS[:9]]:
        if dtype == jnp.bfloat16 and primitive in (*IN_64, "regularized_incomplete_beta", "erf_inv"):
            continue
        drawn = draw(args, dtype)
        try:
            ours, theirs = gradients(f, drawn, compiled=False)
        except (TypeError, ValueError, NotImplementedError):
            assert dtype == jnp.bfloat16, primitive
            continue
        with jax.enable_x64(True):
            exact = jax.jit(jax.grad(as_loss(f, drawn), tuple(range(len(drawn)))))(
                *(x.astype("float64") for x in drawn)
            )
        eps = float(jnp.finfo(dtype).eps)
        for a, b, e in zip(ours[1], theirs[1], exact, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype), primitive
            off = lambda g, e=e: float(np.max(np.abs(np.asarray(g, "float64") - np.asarray(e)), initial=0))
            assert off(a) <= 2 * off(b) + 8 * eps * float(np.max(np.abs(e), initial=0)), (primitive, dtype)


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
