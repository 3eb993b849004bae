"""The gradient program of an operation as equations, and a copy of it in which one of them is another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from operations.operation import Operation, is_array, is_inexact

from fbp.partition import combine, partition
from fbp.precision import widen

Path = tuple[int, ...]
"""Where an equation stands: its index, and inside of a loop or a call that of the program and that in it."""
Change = Callable[["Site", list[Any]], Sequence[Any]]
"""What an equation gives instead, from its inputs."""


@dataclass(frozen=True)
class Site:
    """An equation of a gradient program.

    Attributes:
        path: where it stands.
        eqn: the equation.
        is_backward: of each input, whether it depends on the cotangent.
    """

    path: Path
    eqn: Any
    is_backward: tuple[bool, ...]

    @property
    def primitive(self) -> str:
        return self.eqn.primitive.name


@dataclass(frozen=True)
class Trace:
    """A gradient program for arguments of some shapes and dtypes.

    Attributes:
        closed: its equations.
        sites: all of them, those inside of calls, loops and branches as well.
        out: the structure of the gradient, with the shapes of its leaves.
    """

    closed: ClosedJaxpr
    sites: list[Site]
    out: Any


@dataclass(frozen=True)
class Projected:
    """L(args) = <op(args), v> with a fixed v, in float32 at least: the loss whose gradients are judged."""

    operation: Operation

    def __call__(self, *args: Any) -> Any:
        out = jax.tree.leaves(self.operation.function(*args))
        pairs = zip(out, draw_cotangents(out), strict=True)
        return sum((jnp.sum(_multiply(x, v)) for x, v in pairs if is_inexact(x)), jnp.zeros((), out[0].real.dtype))


def _multiply(x: Any, v: Any) -> Any:
    return (x * v).real if jnp.iscomplexobj(x) else widen(x) * widen(v)


def draw_cotangents(out: Sequence[Any]) -> list[Any]:
    """Numbers of two digits that are not zero: exact in every dtype."""
    draw = np.random.default_rng(0)
    digits = lambda shape: draw.integers(1, 9, shape) / 4 * draw.choice([-1, 1], shape)
    made = []
    for x in out:
        v = digits(x.shape)
        made.append(
            jnp.asarray(v + 1j * digits(x.shape) if jnp.issubdtype(x.dtype, jnp.complexfloating) else v, x.dtype)
        )
    return made


@dataclass(frozen=True)
class Program:
    """The gradient of `Projected` by the rules of the operation, as a program for each dtype.

    Attributes:
        operation: what is differentiated.
        argnums: by which arguments.
    """

    operation: Operation
    argnums: int | tuple[int, ...]
    _traces: dict[Any, Trace] = field(default_factory=dict, compare=False)

    def trace(self, args: tuple[Any, ...]) -> Trace:
        """The program for arguments like these."""
        arrays, rest = partition(args, is_array)
        leaves = jax.tree.leaves(arrays)
        signature = tuple((x.shape, str(x.dtype)) for x in leaves), bool(jax.config.read("jax_enable_x64"))
        if signature not in self._traces:
            self._traces[signature] = self._make(arrays, rest)
        return self._traces[signature]

    def _make(self, arrays: tuple[Any, ...], rest: tuple[Any, ...]) -> Trace:
        def differentiate(arrays: tuple[Any, ...], cotangents: list[Any]) -> Any:
            floating, fixed = partition(select(arrays, self.argnums), is_inexact)

            def forward(floating: Any) -> list[Any]:
                args = replace(arrays, self.argnums, combine(floating, fixed))
                return [x for x in jax.tree.leaves(self.operation.function(*combine(args, rest))) if is_inexact(x)]

            return jax.vjp(forward, floating)[1](cotangents)[0]

        shapes = jax.eval_shape(lambda arrays: self.operation.function(*combine(arrays, rest)), arrays)
        v = draw_cotangents([x for x in jax.tree.leaves(shapes) if is_inexact(x)])
        inner, out = jax.make_jaxpr(differentiate, return_shape=True)(arrays, v)
        count = len(inner.jaxpr.invars) - len(v)
        sites, _ = find_sites(inner.jaxpr, [False] * count + [True] * len(v))
        return Trace(inner, sites, out)

    def draw_cotangents(self, args: tuple[Any, ...]) -> list[Any]:
        """Those of `Projected`."""
        count = len(jax.tree.leaves(partition(args, is_array)[0]))
        return draw_cotangents([x.aval for x in self.trace(args).closed.jaxpr.invars[count:]])

    def run(
        self, args: tuple[Any, ...], cotangents: list[Any], site: Site | None = None, change: Change | None = None
    ) -> Any:
        """The gradient at arguments, with a change at a site; a leaf that has none is None.

        Args:
            args: of the operation.
            cotangents: of the outputs.
            site: of the trace for these arguments.
            change: what its equation gives instead.
        """
        trace, leaves = self.trace(args), jax.tree.leaves(partition(args, is_array)[0])
        alter = None if site is None or change is None else partial(change, site)
        path = () if site is None else site.path
        results = evaluate(trace.closed.jaxpr, trace.closed.consts, (*leaves, *cotangents), path, alter)
        return jax.tree.unflatten(jax.tree.structure(trace.out), results)


def select(args: tuple[Any, ...], argnums: int | tuple[int, ...]) -> Any:
    """The differentiated arguments."""
    return args[argnums] if isinstance(argnums, int) else tuple(args[i] for i in argnums)


def replace(args: tuple[Any, ...], argnums: int | tuple[int, ...], chosen: Any) -> tuple[Any, ...]:
    """The arguments with other ones at some places."""
    places = {argnums: chosen} if isinstance(argnums, int) else dict(zip(argnums, chosen, strict=True))
    return tuple(places.get(i, arg) for i, arg in enumerate(args))


def find_sites(jaxpr: Jaxpr, is_backward: Sequence[bool], path: Path = ()) -> tuple[list[Site], list[bool]]:
    """Every equation of a program that has an output, and which of its outputs depend on the cotangent.

    Args:
        jaxpr: the program.
        is_backward: which of its inputs do.
        path: where it stands itself.
    """
    marks = dict(zip(jaxpr.invars, is_backward, strict=True))
    read = lambda atom: not hasattr(atom, "val") and marks.get(atom, False)
    sites = []
    for i, eqn in enumerate(jaxpr.eqns):
        flags = tuple(map(read, eqn.invars))
        inner, marked = _look_inside(eqn, flags, (*path, i))
        sites += [*([Site((*path, i), eqn, flags)] if eqn.outvars else []), *inner]
        marks.update(zip(eqn.outvars, marked, strict=True))
    return sites, [read(atom) for atom in jaxpr.outvars]


def _look_inside(eqn: Any, flags: tuple[bool, ...], path: Path) -> tuple[list[Site], list[bool]]:
    if (called := _called(eqn)) is not None:
        return find_sites(called[0], flags, (*path, 0))
    if eqn.primitive.name == "scan":
        body, carry = eqn.params["jaxpr"].jaxpr, slice(eqn.params["num_consts"], None)
        carry = range(eqn.params["num_consts"], eqn.params["num_consts"] + eqn.params["num_carry"])
        inside = list(flags)
        while True:
            sites, out = find_sites(body, inside, (*path, 0))
            grown = [inside[i] or out[i - carry.start] for i in carry]
            if grown == [inside[i] for i in carry]:
                return sites, out
            inside[carry.start : carry.stop] = grown
    if eqn.primitive.name == "cond":
        found = [find_sites(b.jaxpr, flags[1:], (*path, k)) for k, b in enumerate(eqn.params["branches"])]
        return [site for sites, _ in found for site in sites], [
            any(out) for out in zip(*(o for _, o in found), strict=True)
        ]
    return [], [any(flags)] * len(eqn.outvars)


def evaluate(
    jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any], path: Path, change: Callable[[list[Any]], Any] | None
) -> list[Any]:
    """The outputs of a program with a change at a path in it; nothing is changed where the path is empty."""
    values: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    read = lambda atom: atom.val if hasattr(atom, "val") else values[atom]
    for i, eqn in enumerate(jaxpr.eqns):
        inputs = [read(atom) for atom in eqn.invars]
        here = path[1:] if path and path[0] == i else None
        if here == () and change is not None:
            outputs = change(inputs)
        else:
            outputs = _apply(eqn, inputs, here or (), change)
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(eqn: Any, inputs: list[Any], path: Path, change: Any) -> Sequence[Any]:
    # Rules that are still in the program are there to be evaluated alone.
    if (called := _called(eqn)) is not None and (path or eqn.primitive.name.startswith("custom_")):
        return evaluate(*called, inputs, path[1:], change)
    if not path:
        return bind(eqn, inputs)
    alter = lambda closed: jax.make_jaxpr(lambda *args: evaluate(closed.jaxpr, closed.consts, args, path[1:], change))(
        *closed.in_avals
    )
    if eqn.primitive.name == "scan":
        return bind(eqn, inputs, jaxpr=alter(eqn.params["jaxpr"]))
    branches = eqn.params["branches"]
    return bind(eqn, inputs, branches=tuple(alter(b) if k == path[0] else b for k, b in enumerate(branches)))


def bind(eqn: Any, inputs: Sequence[Any], **changes: Any) -> Sequence[Any]:
    """An equation on other inputs, with other parameters."""
    outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params({**eqn.params, **changes}))
    return outputs if eqn.primitive.multiple_results else [outputs]


def _called(eqn: Any) -> tuple[Jaxpr, Sequence[Any]] | None:
    """The program that an equation calls once with its own inputs."""
    match eqn.primitive.name:
        case "jit" | "pjit" | "closed_call":
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        case "custom_jvp_call" | "custom_vjp_call":
            inner = eqn.params["call_jaxpr"]
        case "remat2" | "checkpoint":
            return eqn.params["jaxpr"], ()
        case _:
            return None
    return inner.jaxpr, inner.consts
