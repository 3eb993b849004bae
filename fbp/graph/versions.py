"""What differs between versions of JAX: how programs are held, what their parts are called."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

CALLS = ("jit", "pjit", "closed_call", "core_call", "call", "custom_vmap_call", "eval_jaxpr", "composite")
"""Primitives that run one program on their inputs."""
REMATS = ("remat2", "remat", "checkpoint")
PROGRAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")
"""The names under which a call holds its program."""


class Program(NamedTuple):
    """A program and the values of its constants.

    Attributes:
        jaxpr: its equations.
        consts: the values of `jaxpr.constvars`.
    """

    jaxpr: Any
    consts: Sequence[Any]

    @classmethod
    def of(cls, held: Any) -> "Program":
        """From what JAX holds it in: open or closed up to 0.10, one class later."""
        return held if isinstance(held, cls) else cls(getattr(held, "jaxpr", held), getattr(held, "consts", ()))


def program_of(eqn: Any) -> Program:
    """The program that a call runs."""
    return Program.of(next(eqn.params[name] for name in PROGRAMS if name in eqn.params))


class Loop(NamedTuple):
    """A `jax.lax.scan`: consts are the same at each step, carry goes from one to the next, xs has a slice for each.

    Attributes:
        program: (*consts, *carry, *x) -> (*carry, *y).
        n_consts: the number of constants.
        n_carry: the number of carried arrays.
        length: the number of steps.
        reverse: whether it begins at the end of xs.
        unroll: the number of steps in one iteration of the compiled loop.
    """

    program: Program
    n_consts: int
    n_carry: int
    length: int
    reverse: bool = False
    unroll: Any = 1


def scan_of(eqn: Any) -> Loop:
    """The loop of a scan equation."""
    p = eqn.params
    if "num_consts" in p:
        counts = p["num_consts"], p["num_carry"]
    else:
        consts, carry, _ = p["ft_in"].unpack()
        counts = len(consts), len(carry)
    return Loop(Program.of(p["jaxpr"]), *counts, p["length"], p["reverse"], p["unroll"])


def bind(eqn: Any, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of an equation."""
    outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def is_inexact(atom: Any) -> bool:
    """Whether a variable or literal is floating or complex."""
    dtype = getattr(atom.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def is_var(atom: Any) -> bool:
    """Whether an input of an equation is a variable and no literal."""
    return not isinstance(atom, Literal)


def read(atom: Any, values: dict[Any, Any]) -> Any:
    """The value of a variable or literal."""
    if is_var(atom):
        return values[atom]
    # A number of Python has no dtype of its own.
    return np.asarray(atom.val, atom.aval.dtype) if isinstance(atom.val, (bool, int, float)) else atom.val


def evaluate_equations(eqns: Sequence[Any], values: dict[Any, Any]) -> None:
    """Add the outputs of equations to the values of their inputs."""
    for eqn in eqns:
        values.update(zip(eqn.outvars, bind(eqn, [read(v, values) for v in eqn.invars]), strict=True))


def evaluate(program: Program, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of a program."""
    jaxpr = program.jaxpr
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*program.consts, *inputs), strict=True))
    evaluate_equations(jaxpr.eqns, values)
    return [read(v, values) for v in jaxpr.outvars]
