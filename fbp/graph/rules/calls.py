"""Calls: programs inside of programs, recomputation, and functions that bring a derivative of their own."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from fbp.graph.record import Path
from fbp.graph.residuals import Halves
from fbp.graph.rules.base import Cotangents, fill_where, fill_zeros, pick
from fbp.graph.rules.engine import Engine, Flags, Pullback
from fbp.graph.versions import Program, bind, evaluate, is_inexact, program_of


class Call:
    """y = f(x), f a program:  dx = that of its equations."""

    def active(self, engine: Engine, eqn: Any, inputs: Flags, path: Path) -> list[bool]:
        """As `Structure.active`."""
        return engine.active(program_of(eqn), inputs, (*path, 0))

    def reached(self, engine: Engine, eqn: Any, inputs: Flags, outputs: Flags, path: Path) -> list[bool]:
        """As `Structure.reached`."""
        return engine.reached(program_of(eqn), inputs, outputs, (*path, 0))

    def run(
        self, engine: Engine, eqn: Any, inputs: Sequence[Any], wanted: Flags, reached: Flags, path: Path
    ) -> tuple[list[Any], Pullback]:
        """As `Structure.run`."""
        return engine.run(program_of(eqn), inputs, wanted, reached, (*path, 0))


class Remat(Call):
    """y = f(x) without what it computes on the way:  f is computed again when dy arrives."""

    def run(
        self, engine: Engine, eqn: Any, inputs: Sequence[Any], wanted: Flags, reached: Flags, path: Path
    ) -> tuple[list[Any], Pullback]:
        """As `Structure.run`."""
        program = program_of(eqn)

        def both(args: list[Any], d: list[Any]) -> Any:
            inner = engine.inner()
            outs, pullback = inner.run(program, args, wanted, reached, (*path, 0))
            return (outs, inner.record.values), (list(pullback(d)), inner.record.gradients)

        avals = [v.aval for v in program.jaxpr.invars]
        d_avals = pick(reached, [v.aval for v in program.jaxpr.outvars])
        policy = eqn.params.get("policy")
        halves = Halves.cut(both, avals, d_avals, saveable=lambda inner: _may_keep(policy, inner))
        (outs, values), kept = halves.forward(inputs)
        engine.record.values.update(values)

        def pullback(d: Cotangents, /) -> Cotangents:
            # The barrier keeps the compiler from finding that this was computed before.
            dx, gradients = halves.backward(*lax.optimization_barrier((kept, fill_where(reached, d, outs))))
            engine.record.gradients.update(gradients)
            return dx

        return outs, pullback


def _may_keep(policy: Any, eqn: Any) -> bool:
    if policy is None:
        return False
    answer = policy(eqn.primitive, *(v.aval for v in eqn.invars), **eqn.params)
    return answer if isinstance(answer, bool) else "Recompute" not in repr(answer)


class _Whole:
    """An equation whose derivative does not come from the program inside; that one is run for its values alone."""

    def active(self, engine: Engine, eqn: Any, inputs: Flags, path: Path) -> list[bool]:
        """As `Structure.active`."""
        return [any(inputs) and is_inexact(v) for v in eqn.outvars]

    def reached(self, engine: Engine, eqn: Any, inputs: Flags, outputs: Flags, path: Path) -> list[bool]:
        """As `Structure.reached`."""
        return [flag and any(outputs) for flag in inputs]

    def _note_values(self, engine: Engine, program: Program, inputs: Sequence[Any], path: Path) -> None:
        if engine.record.looks_inside(path):
            no = [False] * len(inputs)
            engine.run(program, inputs, no, [False] * len(program.jaxpr.outvars), (*path, 0))


class CustomJvp(_Whole):
    """y = f(x) with a rule for tangents, t -> J t:  dx = Jᵀ dy, by the local rules of what computes J t."""

    def run(
        self, engine: Engine, eqn: Any, inputs: Sequence[Any], wanted: Flags, reached: Flags, path: Path
    ) -> tuple[list[Any], Pullback]:
        """As `Structure.run`."""
        if engine.linear:
            # A rule may call its own function on tangents: asked for a derivative there, it would never end.
            return engine.run(program_of(eqn), inputs, wanted, reached, (*path, 0))
        self._note_values(engine, program_of(eqn), inputs, path)
        if not any(reached):
            return bind(eqn, inputs), lambda d: [None] * len(inputs)
        _, rule = eqn.primitive.get_bind_params(eqn.params)["subfuns"]
        fixed = [_no_tangent(x, bool(eqn.params["symbolic_zeros"])) for x in inputs]
        moving = [i for i, want in enumerate(wanted) if want]

        def tangents(args: list[Any], ts: list[Any]) -> tuple[list[Any], list[Any]]:
            all_tangents = list(fixed)
            for i, t in zip(moving, ts, strict=True):
                all_tangents[i] = t
            outs = rule.call_wrapped(*args, *all_tangents)
            half = len(outs) // 2
            return list(outs[:half]), [_as_array(t) for t in outs[half:]]

        avals = [v.aval for v in eqn.invars]
        closed, (_, t_shapes) = jax.make_jaxpr(tangents, return_shape=True)(avals, [avals[i] for i in moving])
        has_tangent = [t is not None for t in t_shapes]
        arrives = [yes for yes, has in zip(reached, has_tangent, strict=True) if has]
        n_out, n_in = len(eqn.outvars), len(inputs)
        zeros = [jnp.zeros(avals[i].shape, avals[i].dtype) for i in moving]
        # The map of tangents is linear: its derivative is the same everywhere, so it is taken at zero.
        outs, pullback = engine.inner(silent=True, linear=True).run(
            Program.of(closed),
            [*inputs, *zeros],
            [*[False] * n_in, *[True] * len(moving)],
            [*[False] * n_out, *arrives],
            (*path, 1),
        )

        def pull(d: Cotangents, /) -> Cotangents:
            dt = pullback([*[None] * n_out, *(g for g, has in zip(d, has_tangent, strict=True) if has)])
            dx: list[Any] = [None] * n_in
            for i, g in zip(moving, dt[n_in:], strict=True):
                dx[i] = g
            return dx

        return outs[:n_out], pull


def _no_tangent(x: Any, symbolic: bool) -> Any:
    aval = jax.typeof(x).to_tangent_aval()
    if symbolic:
        return SymbolicZero(aval)
    return np.zeros(aval.shape, aval.dtype) if aval.dtype == jax.dtypes.float0 else jnp.zeros(aval.shape, aval.dtype)


def _as_array(t: Any) -> Any:
    """A tangent or cotangent, None where it is a symbolic zero or that of an integer."""
    is_array = isinstance(t, (jax.Array, np.ndarray, np.generic, float))
    return t if is_array and getattr(t, "dtype", None) != jax.dtypes.float0 else None


class CustomVjp(_Whole):
    """y = f(x) with a rule of its own, (kept, dy) -> dx."""

    def run(
        self, engine: Engine, eqn: Any, inputs: Sequence[Any], wanted: Flags, reached: Flags, path: Path
    ) -> tuple[list[Any], Pullback]:
        """As `Structure.run`."""
        self._note_values(engine, program_of(eqn), inputs, path)
        if not any(reached):
            return bind(eqn, inputs), lambda d: [None] * len(inputs)
        _, forward, backward = eqn.primitive.get_bind_params(eqn.params)["subfuns"]
        flat = forward.call_wrapped(*(item for pair in zip(inputs, wanted, strict=True) for item in pair))
        _, tree, sources = eqn.params["out_trees"]()
        n_kept = tree.num_leaves - sum(source is not None for source in sources)
        made, outs = iter(flat[:n_kept]), list(flat[n_kept:])
        kept = [next(made) if source is None else inputs[source] for source in sources]

        def pullback(d: Cotangents, /) -> Cotangents:
            if eqn.params["symbolic_zeros"]:
                zero = lambda y: SymbolicZero(jax.typeof(y).to_tangent_aval())
                filled = [zero(y) if g is None else g for g, y in zip(d, outs, strict=True)]
            else:
                filled = [_no_tangent(y, False) if g is None else g for g, y in zip(d, outs, strict=True)]
            dx = backward.call_wrapped(*kept, *filled)
            # From JAX 0.12 on a rule may log beside.
            dx = dx[0] if isinstance(dx, tuple) and len(dx) == 2 and isinstance(dx[0], list) else dx
            return [_as_array(g) if want else None for g, want in zip(dx, wanted, strict=True)]

        return outs, pullback


class LinearSolve(_Whole):
    """A y = b:  db = A⁻ᵀ dy,  dA through A y at fixed y, with -db."""

    def run(
        self, engine: Engine, eqn: Any, inputs: Sequence[Any], wanted: Flags, reached: Flags, path: Path
    ) -> tuple[list[Any], Pullback]:
        """As `Structure.run`."""
        outs = bind(eqn, inputs)
        programs, ends = eqn.params["jaxprs"], [int(end) for end in np.cumsum(eqn.params["const_lengths"])]
        matvec, transposed = Program.of(programs.matvec), Program.of(programs.transpose_solve)
        n_b = len(inputs) - ends[3]

        def pullback(d: Cotangents, /) -> Cotangents:
            filled = fill_zeros(d[:n_b], outs[:n_b])
            db = evaluate(transposed, [*inputs[ends[2] : ends[3]], *filled])[:n_b]
            d_consts: Cotangents = [None] * ends[0]
            if any(wanted[: ends[0]]):
                flags = [*wanted[: ends[0]], *[False] * n_b]
                arguments = [*inputs[: ends[0]], *outs[:n_b]]
                _, back = engine.inner(silent=True).run(matvec, arguments, flags, [True] * n_b, (*path, 0))
                d_consts = back([-g for g in db])[: ends[0]]
            return [*d_consts, *[None] * (ends[3] - ends[0]), *pick(wanted[ends[3] :], db)]

        return outs, pullback
