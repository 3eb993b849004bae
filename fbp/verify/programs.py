"""Programs of JAX rewritten: without their own rules, in float64 throughout, with what `stop_gradient` gives kept.

A function is traced to its program, a jaxpr, and that is evaluated with some equations replaced.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from fbp.errors import FbpError
from fbp.verify.structure import is_inexact
from fbp.verify.tolerance import widest

_RULES = ("custom_vjp_call", "custom_vjp_call_jaxpr")
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_vmap_call", *_RULES)
_PRIMALS = ("call_jaxpr", "fun_jaxpr", "jaxpr", "call")
_OPAQUE = ("pallas_call", "shard_map", "custom_partitioning")


class NotLiftable(FbpError):
    """A program cannot be evaluated in float64; the message says why."""


def without_rules(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with every `jax.custom_vjp` in it replaced by its primal: what plain autodiff differentiates.

    Rules inside jit, remat, scan, cond and while are found as well; those in other higher-order primitives stay.

    Args:
        function: of pytrees of arrays.
    """

    def primal(*args: Any) -> Any:
        return _evaluate_function(_WithoutRules(), function, args, args)

    return primal


def has_rule(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether a function of arrays calls a `jax.custom_vjp`."""
    return any(eqn.primitive.name in _RULES for eqn in walk_equations(trace(function, args).jaxpr))


def trace(function: Callable[..., Any], args: tuple[Any, ...]) -> ClosedJaxpr:
    """The program of a function, at the shapes and dtypes of its arguments."""
    return jax.make_jaxpr(function)(*args)


def walk_equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation of a program, those of inner programs after the one that they belong to."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in _inner_programs(eqn):
            yield from walk_equations(inner)


def _inner_programs(eqn: Any) -> list[Any]:
    found = jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_program)
    return [_open(program) for program in found if _is_program(program)]


def find_dtypes(jaxpr: Any) -> set[Any]:
    """The floating and complex dtypes of all that a program computes from its floating and complex arguments.

    What it draws from keys alone, or reads from constants, does not count.
    """
    found: set[Any] = set()
    _follow(jaxpr, [_is_inexact_var(v) for v in jaxpr.invars], found)
    return found


def _follow(jaxpr: Any, depends: Sequence[bool], found: set[Any]) -> list[bool]:
    """Which results depend on the arguments that are marked; the dtypes of all that does are noted."""
    marked = {v for v, yes in zip(jaxpr.invars, depends, strict=True) if yes}
    for eqn in jaxpr.eqns:
        inputs = [not isinstance(v, Literal) and v in marked for v in eqn.invars]
        if not any(inputs):
            continue
        inner = _inner_programs(eqn)
        outputs = [True] * len(eqn.outvars)
        for program in inner:
            if eqn.primitive.name in _CALLS and len(program.invars) == len(inputs):
                outputs = _follow(program, inputs, found)
            else:
                _follow(program, [_is_inexact_var(v) for v in program.invars], found)
        marked |= {v for v, yes in zip(eqn.outvars, outputs, strict=True) if yes}
        found |= {v.aval.dtype for v, yes in zip(eqn.outvars, outputs, strict=True) if yes and _is_inexact_var(v)}
    return [not isinstance(v, Literal) and v in marked for v in jaxpr.outvars]


def _is_inexact_var(var: Any) -> bool:
    dtype = getattr(var.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def find_jumps(jaxpr: Any) -> tuple[bool, str]:
    """Why a program's values may change otherwise than its derivative says.

    Returns:
        Whether `stop_gradient` occurs where `KeepStopped` can keep what it gives; and what else there is, in words.
    """
    primitives = {eqn.primitive.name for eqn in walk_equations(jaxpr)}
    if "random_gamma" in primitives:
        return False, "samples of a gamma distribution jump where their derivative does not"
    if "stop_gradient" not in primitives:
        return False, ""
    if "custom_linear_solve" in primitives:
        # There a stopped factorization belongs to the derivative of the solution.
        return False, "a stopped gradient beside the derivative of a linear solve may change the values"
    if _stops_inside(jaxpr):
        return False, "a stopped gradient inside of a loop or a branch changes the values"
    return True, ""


def _stops_inside(jaxpr: Any) -> bool:
    for eqn in jaxpr.eqns:
        inner = _inner_programs(eqn)
        if eqn.primitive.name in (*_CALLS, "custom_jvp_call"):
            if any(map(_stops_inside, inner)):
                return True
        elif any(e.primitive.name == "stop_gradient" for p in inner for e in walk_equations(p)):
            return True
    return False


def takes_key(eqn: Any) -> bool:
    """Whether an equation draws from a key."""
    return not _inner_programs(eqn) and any(
        jnp.issubdtype(getattr(v.aval, "dtype", np.int32), jax.dtypes.extended) for v in eqn.invars
    )


@dataclass(frozen=True)
class Lifted:
    """A function's program, traced at given dtypes and evaluated in float64: it converts nothing to fewer digits.

    Equal ones compile once. Random numbers are those that are drawn in the given dtypes.

    Attributes:
        function: of pytrees of arrays.
        treedef: the structure of its arguments.
        avals: the shape, dtype and weak type of each of their leaves, where it is traced.
        kept: the dtypes whose rounding is part of the program: values are rounded to them and computed with in float64.
        wide: whether it is traced with `jax.enable_x64`.
    """

    function: Callable[..., Any]
    treedef: Any
    avals: tuple[tuple[Any, ...], ...]
    kept: frozenset[str] = frozenset()
    wide: bool = False

    @classmethod
    def at(
        cls, function: Callable[..., Any], args: tuple[Any, ...], kept: frozenset[str] = frozenset(), wide: bool = False
    ) -> "Lifted":
        """The function lifted from the dtypes of these arguments."""
        leaves, treedef = jax.tree.flatten(args)
        types = [jax.typeof(x) for x in leaves]
        return cls(function, treedef, tuple((t.shape, t.dtype, t.weak_type) for t in types), kept, wide)

    def __call__(self, *args: Any) -> Any:
        like = [jax.ShapeDtypeStruct(shape, dtype, weak_type=weak) for shape, dtype, weak in self.avals]
        return _evaluate_function(_InFloat64(self.kept), self.function, self.treedef.unflatten(like), args, self.wide)


@dataclass(frozen=True)
class KeepStopped:
    """A function called as (at, args), where `stop_gradient` gives what it gives at the arguments `at`.

    So the loss changes along a direction as its gradient says that it does; `find_jumps` knows where this is possible.
    Equal ones compile once.
    """

    function: Callable[..., Any]

    def __call__(self, at: tuple[Any, ...], args: tuple[Any, ...]) -> Any:
        recorder = _StoppedGradients()
        _evaluate_function(recorder, self.function, at, at)
        return _evaluate_function(_StoppedGradients(iter(recorder.seen)), self.function, args, args)


@dataclass
class _Evaluator:
    """Evaluates a program equation by equation; calls are looked into."""

    def evaluate(self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
        read = lambda atom: self.read_literal(atom) if isinstance(atom, Literal) else values[atom]
        for eqn in jaxpr.eqns:
            values.update(zip(eqn.outvars, self.apply(eqn, [read(v) for v in eqn.invars]), strict=True))
        return [read(v) for v in jaxpr.outvars]

    def read_literal(self, literal: Any) -> Any:
        return literal.val

    def convert(self, x: Any) -> Any:
        """A constant of the program, or an argument of an inner one."""
        return x

    def apply(self, eqn: Any, inputs: list[Any]) -> list[Any]:
        return self.bind(eqn, inputs, eqn.params)

    def bind(self, eqn: Any, inputs: list[Any], params: dict[str, Any]) -> list[Any]:
        outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(params))
        return list(outputs) if eqn.primitive.multiple_results else [outputs]

    def call(self, eqn: Any, inputs: list[Any]) -> list[Any]:
        inner = next(eqn.params[name] for name in _PRIMALS if name in eqn.params)
        return self.evaluate(_open(inner), [self.convert(c) for c in _consts(inner)], inputs)

    def retrace(self, value: Any, as_seen: Callable[[Any], Any]) -> Any:
        """Each program among a primitive's parameters rewritten as this one."""
        if _is_program(value):
            jaxpr, consts = _open(value), [self.convert(c) for c in _consts(value)]
            closed = jax.make_jaxpr(lambda *args: self.evaluate(jaxpr, consts, args))(
                *[as_seen(v) for v in jaxpr.invars]
            )
            return closed if hasattr(value, "jaxpr") else closed.jaxpr
        if not isinstance(value, tuple):
            return value
        parts = [self.retrace(each, as_seen) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)


class _WithoutRules(_Evaluator):
    def apply(self, eqn: Any, inputs: list[Any]) -> list[Any]:
        if eqn.primitive.name in _CALLS:
            return self.call(eqn, inputs)
        params = eqn.params
        if eqn.primitive.name in ("scan", "while", "cond") and any(rule in str(params) for rule in _RULES):
            params = {name: self.retrace(value, lambda v: v.aval) for name, value in params.items()}
        return self.bind(eqn, inputs, params)


@dataclass
class _InFloat64(_Evaluator):
    kept: frozenset[str]

    def read_literal(self, literal: Any) -> Any:
        dtype = literal.aval.dtype
        return np.asarray(literal.val, widest(dtype) if jnp.issubdtype(dtype, jnp.inexact) else dtype)

    def convert(self, x: Any) -> Any:
        return jnp.asarray(x, widest(x.dtype)) if is_inexact(x) else x

    def apply(self, eqn: Any, inputs: list[Any]) -> list[Any]:
        name, params = eqn.primitive.name, eqn.params
        if name in _OPAQUE or "callback" in name or name.startswith("ffi"):
            raise NotLiftable(
                f"a program in float64 must be made of JAX's own operations, got {name}; judge it as it is"
            )
        if name in _CALLS or name == "custom_jvp_call":
            return self.call(eqn, inputs)
        if name == "convert_element_type":
            return [self.round_to(params["new_dtype"], inputs[0])]
        if name == "reduce_precision":
            digits = jnp.finfo(eqn.outvars[0].aval.dtype).nmant
            return inputs if params["mantissa_bits"] >= digits else self.bind(eqn, inputs, params)
        if takes_key(eqn) or name == "bitcast_convert_type":
            # Bits, and what is drawn from a key, depend on the dtype.
            narrow = [_as(x, v.aval.dtype) for x, v in zip(inputs, eqn.invars, strict=True)]
            return [self.convert(x) for x in self.bind(eqn, narrow, params)]
        params = {name: _widest_if_dtype(self.retrace(value, _see_in_float64)) for name, value in params.items()}
        outputs = self.bind(eqn, inputs, params)
        dtypes = [getattr(v.aval, "dtype", None) for v in eqn.outvars]
        return [
            self.round_to(dtype, x) if str(dtype) in self.kept else x for dtype, x in zip(dtypes, outputs, strict=True)
        ]

    def round_to(self, dtype: Any, x: Any) -> Any:
        if not jnp.issubdtype(dtype, jnp.inexact):
            return jax.lax.convert_element_type(x, dtype)
        rounded = jax.lax.convert_element_type(x, dtype) if str(dtype) in self.kept else x
        return jax.lax.convert_element_type(rounded, widest(dtype))


@dataclass
class _StoppedGradients(_Evaluator):
    """Notes what each `stop_gradient` gives, or gives what was noted."""

    given: Iterator[Any] | None = None
    seen: list[Any] = field(default_factory=list)

    def apply(self, eqn: Any, inputs: list[Any]) -> list[Any]:
        if eqn.primitive.name in (*_CALLS, "custom_jvp_call"):
            return self.call(eqn, inputs)
        if eqn.primitive.name == "stop_gradient":
            self.seen += inputs
            return inputs if self.given is None else [next(self.given)]
        return self.bind(eqn, inputs, eqn.params)


def _evaluate_function(
    evaluator: _Evaluator, function: Callable[..., Any], like: Any, args: Any, wide: bool | None = None
) -> Any:
    with jax.enable_x64(bool(jax.config.read("jax_enable_x64")) if wide is None else wide):
        closed, out = jax.make_jaxpr(function, return_shape=True)(*like)
    consts = [evaluator.convert(c) for c in closed.consts]
    results = evaluator.evaluate(closed.jaxpr, consts, [evaluator.convert(x) for x in jax.tree.leaves(args)])
    return jax.tree.unflatten(jax.tree.structure(out), results)


def _is_program(value: Any) -> bool:
    return isinstance(value, (Jaxpr, ClosedJaxpr))


def _open(program: Any) -> Jaxpr:
    return program.jaxpr if hasattr(program, "jaxpr") else program


def _consts(program: Any) -> Sequence[Any]:
    return getattr(program, "consts", ())


def _widest_if_dtype(value: Any) -> Any:
    is_dtype = isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic))
    return widest(value) if is_dtype and jnp.issubdtype(value, jnp.inexact) else value


def _see_in_float64(var: Any) -> Any:
    aval = var.aval
    if not jnp.issubdtype(getattr(aval, "dtype", np.int32), jnp.inexact):
        return aval
    return jax.ShapeDtypeStruct(aval.shape, widest(aval.dtype))


def _as(x: Any, dtype: Any) -> Any:
    return jax.lax.convert_element_type(x, dtype) if jnp.issubdtype(dtype, jnp.inexact) else x
