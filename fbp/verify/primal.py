"""The primal of a function: the same without any `jax.custom_vjp` rule in it, by evaluating its jaxpr."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def without_rules(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with every `jax.custom_vjp` in it replaced by its primal: what plain autodiff differentiates.

    Rules inside jit, remat, scan, cond and while are found as well; those in other higher-order primitives stay.

    Args:
        function: of pytrees of arrays.
    """

    def primal(*args: Any) -> Any:
        closed, out = jax.make_jaxpr(function, return_shape=True)(*args)
        results = _evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(out), results)

    return primal


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    read = lambda atom: atom.val if hasattr(atom, "val") else values[atom]
    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        values.update(zip(eqn.outvars, _apply(eqn, inputs), strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(eqn: Any, inputs: list[Any]) -> list[Any]:
    params = eqn.params
    match eqn.primitive.name:
        case "custom_vjp_call" | "custom_vjp_call_jaxpr" | "jit" | "pjit" | "closed_call":
            inner = next(params[name] for name in ("call_jaxpr", "fun_jaxpr", "jaxpr") if name in params)
            return _evaluate(inner.jaxpr, inner.consts, inputs)
        case "remat2" | "checkpoint":
            return _evaluate(params["jaxpr"], (), inputs)
        case "scan" | "while" | "cond":
            params = {name: _strip(value) for name, value in params.items()}
    outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(params))
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def _strip(value: Any) -> Any:
    """Each program among a primitive's parameters without rules."""
    if isinstance(value, ClosedJaxpr):
        run = lambda *args: _evaluate(value.jaxpr, value.consts, args)
        return jax.make_jaxpr(run)(*value.in_avals) if "custom_vjp_call" in str(value) else value
    return tuple(_strip(each) for each in value) if isinstance(value, tuple) else value
