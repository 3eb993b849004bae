"""A rule of differentiation (`jax.custom_vjp`) against autodiff of its own primal, or of a reference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from fbp.errors import FbpError
from fbp.precision import widen
from fbp.verify.constants import without_constants
from fbp.verify.judges import judge
from fbp.verify.reference import called
from fbp.verify.result import Verification
from fbp.verify.structure import is_floating


def vjp(
    op: Callable[..., Any],
    *args: Any,
    reference: Callable[..., Any] | None = None,
    directions: int = 2,
    seed: int = 0,
) -> Verification:
    """The vector-Jacobian product of an operation against autodiff, for a random cotangent v.

    With L(args) = <op(args), v>, the gradient of L by the operation's own rule beside that of the reference.

    Args:
        op: a differentiable function of pytrees of arrays, e.g. a `jax.custom_vjp`.
        args: what it is called with; the floating leaves are differentiated, Python integers, strings and the like are
            constants.
        reference: the same function in plain JAX; without it the operation's own primal, with every `custom_vjp` rule
            in it taken away.
        directions: how many random directions in each leaf.
        seed: of the cotangent and the directions.

    Raises:
        FbpError: the operation cannot be called with the arguments, none is floating, or the reference's output
            differs in shape.
    """
    plain = without_rules(op) if reference is None else reference
    arrays, (rule, primal) = without_constants(args, op, plain)
    arrays = jax.tree.map(jnp.asarray, arrays)
    if not any(is_floating(x) for x in jax.tree.leaves(arrays)):
        raise FbpError("an operation is differentiated with respect to floating arguments; received none")
    shapes = jax.tree.map(lambda x: (x.shape, str(x.dtype)), called("the operation", _shapes_of(rule), arrays))
    theirs = jax.tree.map(lambda x: (x.shape, str(x.dtype)), called("the reference", _shapes_of(primal), arrays))
    if shapes != theirs:
        raise FbpError(f"a reference gives what the operation gives; received {theirs} for {shapes}")
    name = getattr(op, "__name__", type(op).__name__)
    argnums = tuple(range(len(args)))
    return Verification(name, judge(_Pulled(rule, seed), _Paired(primal, seed), arrays, argnums, directions, seed))


def without_rules(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with every `jax.custom_vjp` in it replaced by its primal: what plain autodiff differentiates.

    Rules inside jit, remat, scan, cond and while are found as well; those in other higher-order primitives stay.

    Args:
        function: of pytrees of arrays.
    """
    if isinstance(function, jax.custom_vjp) and not function.nondiff_argnums:
        function = function.fun

    def plain(*args: Any) -> Any:
        closed, out = jax.make_jaxpr(function, return_shape=True)(*args)
        results = _evaluated(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(out), results)

    return plain


@dataclass(frozen=True)
class _Paired:
    """L(args) = <op(args), v>, in float32 at least."""

    op: Callable[..., Any]
    seed: int

    def __call__(self, *args: Any) -> Any:
        out = self.op(*args)
        leaves = zip(jax.tree.leaves(out), jax.tree.leaves(_cotangent(out, self.seed)), strict=True)
        terms = [jnp.sum(widen(x) * widen(v)) for x, v in leaves if is_floating(x)]
        if not terms:
            raise FbpError("an operation gives floating arrays; received none")
        return sum(terms[1:], terms[0])


@dataclass(frozen=True)
class _Pulled:
    """The gradient of the same by the operation's own rule."""

    op: Callable[..., Any]
    seed: int

    def __call__(self, *args: Any) -> Any:
        out, pull = jax.vjp(self.op, *args)
        return pull(_cotangent(out, self.seed))


def _cotangent(out: Any, seed: int) -> Any:
    draw = np.random.default_rng(seed)

    def one(x: Any) -> Any:
        if not is_floating(x):
            return np.zeros(np.shape(x), jax.dtypes.float0)
        # Two digits: exact in every dtype, so that one cotangent serves all of them.
        return jnp.asarray(np.round(4 * draw.standard_normal(x.shape)) / 4, x.dtype)

    return jax.tree.map(one, out)


def _shapes_of(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: jax.eval_shape(function, *args)


def _evaluated(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    read = lambda atom: atom.val if hasattr(atom, "val") else values[atom]
    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        values.update(zip(eqn.outvars, _applied(eqn, inputs), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _applied(eqn: Any, inputs: list[Any]) -> list[Any]:
    params = eqn.params
    match eqn.primitive.name:
        case "custom_vjp_call" | "custom_vjp_call_jaxpr":
            inner = params.get("call_jaxpr") or params["fun_jaxpr"]
            return _evaluated(inner.jaxpr, inner.consts, inputs)
        case "jit" | "pjit" | "closed_call":
            inner = params.get("jaxpr") or params["call_jaxpr"]
            return _evaluated(inner.jaxpr, inner.consts, inputs)
        case "remat2" | "checkpoint":
            return _evaluated(params["jaxpr"], (), inputs)
        case "scan" | "while" | "cond":
            params = {name: _plain(value) for name, value in params.items()}
    found = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(params))
    return list(found) if eqn.primitive.multiple_results else [found]


def _plain(value: Any) -> Any:
    if isinstance(value, ClosedJaxpr):
        run = lambda *args: _evaluated(value.jaxpr, value.consts, args)
        return jax.make_jaxpr(run)(*value.in_avals) if _has_rule(value) else value
    return tuple(_plain(each) for each in value) if isinstance(value, tuple) else value


def _has_rule(closed: ClosedJaxpr) -> bool:
    return "custom_vjp_call" in str(closed)
