"""Loops: the backward pass of a loop is a loop in the other direction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from fbp.errors import FbpError
from fbp.graph.record import Path
from fbp.graph.residuals import Halves
from fbp.graph.rules.base import Cotangents, fill_where, pick
from fbp.graph.rules.engine import Engine, Flags, Pullback
from fbp.graph.versions import RUN_ONCE, Loop, Program, bind, evaluate, is_var, scan_of


@dataclass(frozen=True)
class _Flow:
    """Which of a loop's arrays carry a gradient.

    Attributes:
        active: for each input of the step whether its outputs depend on what is wanted through it.
        carry: for each carried array whether it gets a cotangent.
        inputs: for each input of the step whether it gets one.
    """

    active: list[bool]
    carry: list[bool]
    inputs: list[bool]


def _follow(engine: Engine, loop: Loop, wanted: Flags, reached: Flags, path: Path) -> _Flow:
    """What depends on what, after any number of steps."""
    n, m = loop.n_consts, loop.n_consts + loop.n_carry
    active = list(wanted)
    while True:
        out = engine.active(loop.program, active, path)[: loop.n_carry]
        more = [*active[:n], *(a or b for a, b in zip(active[n:m], out, strict=True)), *active[m:]]
        if more == active:
            break
        active = more
    carry = list(reached[: loop.n_carry])
    while True:
        inputs = engine.reached(loop.program, active, [*carry, *reached[loop.n_carry :]], path)
        more = [a or b for a, b in zip(carry, inputs[n:m], strict=True)]
        if more == carry:
            return _Flow(active, carry, inputs)
        carry = more


def run_loop(
    engine: Engine, loop: Loop, inputs: Sequence[Any], wanted: Flags, reached: Flags, path: Path
) -> tuple[list[Any], Pullback]:
    """The outputs of a loop, and the loop that goes back.

    Args:
        engine: runs the step.
        loop: the step and its counts.
        inputs: constants, the first carry, slices.
        wanted: which of them need a cotangent.
        reached: which outputs get one.
        path: of the step.
    """
    n, m = loop.n_consts, loop.n_consts + loop.n_carry
    flow = _follow(engine, loop, wanted, reached, path)
    d_ys_reached = reached[loop.n_carry :]
    grows = [a and b for a, b in zip(wanted[:n], flow.inputs[:n], strict=True)]
    d_x_wanted = [a and b for a, b in zip(wanted[m:], flow.inputs[m:], strict=True)]

    def step(args: list[Any], ds: tuple[Cotangents, Cotangents, Cotangents]) -> Any:
        d_consts, d_carry, d_ys = ds
        inner = engine.inner()
        outs, pullback = inner.run(loop.program, args, flow.active, [*flow.carry, *d_ys_reached], path)
        d = pullback([*d_carry, *d_ys])
        sums = [total if total is None or g is None else total + g for total, g in zip(d_consts, d[:n], strict=True)]
        d_before, d_x = fill_where(flow.carry, d[n:m], args[n:m]), fill_where(d_x_wanted, d[m:], args[m:])
        known = (outs[: loop.n_carry], outs[loop.n_carry :], inner.record.values)
        return known, (sums, d_before, d_x, inner.record.gradients)

    jaxpr = loop.program.jaxpr
    avals, out_avals = [v.aval for v in jaxpr.invars], [v.aval for v in jaxpr.outvars]
    ds = pick(grows, avals[:n]), pick(flow.carry, avals[n:m]), pick(d_ys_reached, out_avals[loop.n_carry :])
    halves = Halves.cut(step, avals, ds, [not n <= i < m for i in range(len(avals))], loop.n_carry)

    x_vars, stack_vars = halves.jaxpr.invars[m : len(avals)], halves.outputs[loop.n_carry :]
    constants = halves.evaluate_fixed(halves.jaxpr.invars[n : len(avals)], inputs)
    slices = {v: i for i, v in enumerate(x_vars) if v in halves.kept}
    stacked = {v: i for i, v in enumerate(stack_vars) if is_var(v) and v in halves.kept}
    saved = [v for v in halves.kept if v not in constants and v not in slices and v not in stacked]
    consts, xs = list(inputs[:n]), list(inputs[m:])

    def forward(consts: Any, carry: Any, x: Any) -> Any:
        (carry, ys, values), kept = halves.forward([*consts, *carry, *x])
        by_var = dict(zip(halves.kept, kept, strict=True))
        return carry, ((ys, values), [by_var[v] for v in saved])

    carry, ((ys, values), residuals) = _scan(engine, loop, forward, consts, list(inputs[n:m]), xs)
    engine.record.values.update(values)
    stacks = jax.tree.leaves((ys, values))

    def pullback(d: Cotangents, /) -> Cotangents:
        d_carry = fill_where(flow.carry, d[: loop.n_carry], carry)
        d_ys = fill_where(d_ys_reached, d[loop.n_carry :], ys)
        d_consts = [jnp.zeros_like(v) if yes else None for yes, v in zip(grows, consts, strict=True)]

        def backward(fixed: Any, state: Any, step: Any) -> Any:
            kept, dy = step
            at = dict(zip((*slices, *stacked, *saved, *constants), (*kept, *fixed), strict=True))
            d_sums, d_before, d_x, gradients = halves.backward([at[v] for v in halves.kept], (*state, dy))
            return (d_sums, d_before), (d_x, gradients)

        at_hand = [*(xs[i] for i in slices.values()), *(stacks[i] for i in stacked.values()), *residuals]
        back = loop._replace(reverse=not loop.reverse)
        fixed = list(constants.values())
        (d_consts, d_first), (d_xs, gradients) = _scan(
            engine, back, backward, fixed, (d_consts, d_carry), (at_hand, d_ys)
        )
        engine.record.gradients.update(gradients)
        return [*d_consts, *pick(wanted[n:m], d_first), *d_xs]

    return [*carry, *ys], pullback


def _scan(engine: Engine, loop: Loop, step: Callable[..., Any], fixed: Any, carry: Any, xs: Any) -> Any:
    """`jax.lax.scan` of step(fixed, carry, x), compiled in haste where the loop runs once."""

    def run(fixed: Any, carry: Any, xs: Any) -> Any:
        one = lambda carry, x: step(fixed, carry, x)
        return lax.scan(one, carry, xs, loop.length, reverse=loop.reverse, unroll=loop.unroll)

    return jax.jit(run, compiler_options=RUN_ONCE)(fixed, carry, xs) if engine.concrete else run(fixed, carry, xs)


class Scan:
    """y_k = f(c, s_k, x_k) at each step k, s_{k+1} with it: ds_k and dx_k from ds_{k+1} and dy_k, dc = Σ over k."""

    def active(self, engine: Engine, eqn: Any, inputs: Flags, path: Path) -> list[bool]:
        """As `Structure.active`."""
        loop = scan_of(eqn)
        flow = _follow(engine, loop, inputs, [False] * len(eqn.outvars), (*path, 0))
        return engine.active(loop.program, flow.active, (*path, 0))

    def reached(self, engine: Engine, eqn: Any, inputs: Flags, outputs: Flags, path: Path) -> list[bool]:
        """As `Structure.reached`."""
        return _follow(engine, scan_of(eqn), inputs, outputs, (*path, 0)).inputs

    def run(
        self, engine: Engine, eqn: Any, inputs: Sequence[Any], wanted: Flags, reached: Flags, path: Path
    ) -> tuple[list[Any], Pullback]:
        """As `Structure.run`."""
        return run_loop(engine, scan_of(eqn), inputs, wanted, reached, (*path, 0))


class While:
    """A loop of unknown length keeps no values, so nothing comes back through it, unless its steps can be counted."""

    def _loop(self, eqn: Any, length: int) -> Loop:
        n = eqn.params["body_nconsts"]
        program = Program.of(eqn.params["body_jaxpr"])
        return Loop(program, n, len(program.jaxpr.invars) - n, length)

    def active(self, engine: Engine, eqn: Any, inputs: Flags, path: Path) -> list[bool]:
        """As `Structure.active`."""
        flags, loop = inputs[eqn.params["cond_nconsts"] :], self._loop(eqn, 0)
        return _follow(engine, loop, flags, [False] * len(eqn.outvars), (*path, 0)).active[loop.n_consts :]

    def reached(self, engine: Engine, eqn: Any, inputs: Flags, outputs: Flags, path: Path) -> list[bool]:
        """As `Structure.reached`."""
        n = eqn.params["cond_nconsts"]
        flow = _follow(engine, self._loop(eqn, 0), inputs[n:], outputs, (*path, 0))
        return [*[False] * n, *flow.inputs]

    def run(
        self, engine: Engine, eqn: Any, inputs: Sequence[Any], wanted: Flags, reached: Flags, path: Path
    ) -> tuple[list[Any], Pullback]:
        """As `Structure.run`."""
        n = eqn.params["cond_nconsts"]
        (ends,) = Program.of(eqn.params["cond_jaxpr"]).jaxpr.outvars
        # Under vmap each example ends at its own step: their condition is an array.
        if engine.concrete and not ends.aval.shape and not any(isinstance(x, Tracer) for x in inputs):
            loop = self._loop(eqn, _count_steps(eqn, inputs))
            outputs, pullback = run_loop(engine, loop, inputs[n:], wanted[n:], reached, (*path, 0))
            return outputs, lambda d: [*[None] * n, *pullback(d)]

        def refuse(d: Cotangents, /) -> Cotangents:
            raise FbpError(
                "a while loop must have a fixed number of steps to be differentiated in reverse, got one that ends on "
                "a condition; use jax.lax.scan or a fori_loop with constant bounds"
            )

        return bind(eqn, inputs), refuse


def _count_steps(eqn: Any, inputs: Sequence[Any]) -> int:
    p, n = eqn.params, eqn.params["cond_nconsts"]
    m = n + p["body_nconsts"]
    run = lambda held, args: evaluate(Program.of(held), args)
    _, steps = lax.while_loop(
        lambda state: run(p["cond_jaxpr"], [*inputs[:n], *state[0]])[0],
        lambda state: (run(p["body_jaxpr"], [*inputs[n:m], *state[0]]), state[1] + 1),
        (list(inputs[m:]), jnp.zeros((), jnp.int32)),
    )
    return int(steps)
