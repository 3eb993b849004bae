"""What differs between versions of JAX: how programs are held, what their parts are called."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import source_info_util
from jax.extend.core import Literal

CALLS = ("jit", "pjit", "closed_call", "core_call", "call", "custom_vmap_call", "eval_jaxpr", "composite")
"""Primitives that run one program on their inputs."""
REMATS = ("remat2", "remat", "checkpoint")
CUSTOM = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
PROGRAMS = ("jaxpr", "call_jaxpr", "fun_jaxpr", "call")
"""The names under which a call holds its program."""
RUN_ONCE: dict[str, str | bool | int] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""Options to compile a loop with that runs once: optimizing it takes longer than it runs."""
if jax.__version__.startswith("0.10."):
    # Most of what is left; later versions do not know it.
    RUN_ONCE["xla_cpu_use_fusion_emitters"] = False


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


@contextlib.contextmanager
def written_at(eqn: Any) -> Iterator[None]:
    """Where equations that are made count as written on the line, and in the scopes, of this one."""
    stack = source_info_util.current_name_stack() + eqn.source_info.name_stack
    with source_info_util.user_context(eqn.source_info.traceback, name_stack=stack), eqn.ctx.manager:
        yield


def bind(eqn: Any, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of an equation."""
    with written_at(eqn):
        outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    return list(outputs) if eqn.primitive.multiple_results else [outputs]


def programs_in(eqn: Any) -> list[Program]:
    """The programs that an equation holds and that its values pass through: of a loop its step, of a choice all."""
    name, p = eqn.primitive.name, eqn.params
    if name == "cond":
        return [Program.of(branch) for branch in p["branches"]]
    if name == "while":
        return [Program.of(p["body_jaxpr"])]
    if name == "scan":
        return [scan_of(eqn).program]
    return [program_of(eqn)] if name in (*CALLS, *REMATS, *CUSTOM) else []


def name_of(eqn: Any) -> str:
    """What an equation is called: by `checkpoint_name`, by the function that it calls, by its primitive."""
    name, p = eqn.primitive.name, eqn.params
    if name == "name" or (name in ("jit", "pjit", "composite") and p.get("name")):
        return p["name"]
    if name in (*CUSTOM, *REMATS):
        return str(program_of(eqn).jaxpr.debug_info.func_name).rsplit(".", 1)[-1].strip("<>")
    return name


def user_frame(eqn: Any) -> Any:
    """The innermost frame outside of JAX in which an equation was made; None where that is not known."""
    return source_info_util.user_frame(eqn.source_info.traceback)


def open_constants(program: Program) -> tuple[Program, list[Any]]:
    """The program with its constants as first inputs, and their values."""
    jaxpr = program.jaxpr
    opened = Equations((), [*jaxpr.constvars, *jaxpr.invars], jaxpr.outvars, jaxpr.eqns)
    return Program(opened, ()), list(program.consts)


class Equations(NamedTuple):
    """What this package reads of a jaxpr."""

    constvars: Sequence[Any]
    invars: Sequence[Any]
    outvars: Sequence[Any]
    eqns: Sequence[Any]


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


def as_array(x: Any) -> Any:
    """An array of JAX in place of one of NumPy, which a traced number cannot index."""
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


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
