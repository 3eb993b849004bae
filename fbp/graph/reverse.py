"""The engine: a program is run forward equation by equation, and cotangents go back through its equations in turn.

A cotangent is computed only where it is on a way from an input that wants one to an output that has one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jax import lax
from jaxtyping import Array

from fbp.errors import FbpError
from fbp.graph.fallback import run_by_autodiff
from fbp.graph.record import Path, Record
from fbp.graph.rules import RULES, STRUCTURES
from fbp.graph.rules.base import Applied, Cotangents
from fbp.graph.rules.engine import Flags, Pullback
from fbp.graph.source import Source
from fbp.graph.versions import Program, as_array, bind, is_inexact, is_var, read, written_at


@dataclass(frozen=True)
class Reverse:
    """Reverse mode by the table of local rules; an `fbp.graph.rules.engine.Engine`.

    Attributes:
        fallback: whether a primitive without a rule is differentiated by JAX.
        concrete: whether loops of unknown length may be counted by running them.
        record: what is kept on the way.
        linear: as `Engine.linear`.
    """

    fallback: bool = False
    concrete: bool = False
    record: Record = field(default_factory=Record)
    linear: bool = False

    def inner(self, silent: bool = False, linear: bool = False) -> "Reverse":
        """As `Engine.inner`."""
        record = Record() if silent else self.record.inner()
        return replace(self, concrete=False, record=record, linear=self.linear or linear)

    def active(self, program: Program, inputs: Flags, path: Path) -> list[bool]:
        """As `Engine.active`."""
        active = self._follow(program.jaxpr, inputs, path)
        return [is_var(v) and v in active for v in program.jaxpr.outvars]

    def reached(self, program: Program, inputs: Flags, outputs: Flags, path: Path) -> list[bool]:
        """As `Engine.reached`."""
        carrying = self._carrying(program.jaxpr, inputs, outputs, path)
        return [v in carrying for v in program.jaxpr.invars]

    def run(
        self, program: Program, inputs: Sequence[Any], wanted: Flags, reached: Flags, path: Path
    ) -> tuple[list[Any], Pullback]:
        """As `Engine.run`."""
        jaxpr = program.jaxpr
        carrying = self._carrying(jaxpr, wanted, reached, path)
        values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*map(as_array, program.consts), *inputs), strict=True))
        self.record.keep_values(path, inputs)
        tape = []
        for i, eqn in enumerate(jaxpr.eqns):
            here = (*path, i)
            arguments = [read(v, values) for v in eqn.invars]
            needs = [is_var(v) and v in carrying for v in eqn.invars]
            gets = [v in carrying for v in eqn.outvars]
            if any(gets):
                outputs, pullback = self._apply(eqn, arguments, needs, gets, here)
                tape.append((eqn, needs, pullback, here))
            elif eqn.primitive.name in STRUCTURES and self.record.looks_inside(here):
                outputs, _ = STRUCTURES[eqn.primitive.name].run(self, eqn, arguments, needs, gets, here)
            else:
                outputs = bind(eqn, arguments)
            self.record.keep_values(here, outputs)
            values.update(zip(eqn.outvars, outputs, strict=True))

        def pull(d: Cotangents, /) -> Cotangents:
            totals: dict[Any, Array] = {}
            _add(totals, ((v, g) for v, g in zip(jaxpr.outvars, d, strict=True) if is_var(v) and v in carrying))
            for eqn, needs, pullback, here in reversed(tape):
                d_outputs = [totals.pop(v, None) for v in eqn.outvars]
                if all(g is None for g in d_outputs):
                    continue
                d_inputs = pullback(d_outputs)
                self.record.keep_gradients(here, (d_outputs, list(d_inputs)))
                inputs_of = zip(eqn.invars, d_inputs, needs, strict=True)
                _add(totals, ((v, g) for v, g, need in inputs_of if need))
            d_in = [totals.get(v) for v in jaxpr.invars]
            self.record.keep_gradients(path, d_in)
            return d_in

        return [read(v, values) for v in jaxpr.outvars], pull

    def _apply(
        self, eqn: Any, inputs: Sequence[Any], wanted: Flags, reached: Flags, path: Path
    ) -> tuple[list[Any], Pullback]:
        name = eqn.primitive.name
        if name in STRUCTURES:
            return STRUCTURES[name].run(self, eqn, inputs, wanted, reached, path)
        rule = RULES.get(name)
        if rule is None and any(wanted):
            if not self.fallback:
                raise FbpError(
                    f"primitive {name!r} must have a local rule, got none at {Source.of(eqn)}; "
                    "pass fallback=True, or --fallback, to differentiate this one by JAX"
                )
            return run_by_autodiff(eqn, inputs, wanted)
        outputs = bind(eqn, inputs)
        pull = rule.pull if rule else None
        if pull is None or not any(wanted):
            return outputs, lambda d: [None] * len(inputs)
        applied = Applied(name, tuple(inputs), tuple(outputs), eqn.params)

        def pullback(d: Cotangents, /) -> Cotangents:
            with written_at(eqn):
                return pull(applied, d, wanted)

        return outputs, pullback

    def _follow(self, jaxpr: Any, inputs: Flags, path: Path) -> set[Any]:
        """The variables that depend differentiably on the inputs that are marked."""
        active = {v for v, yes in zip(jaxpr.invars, inputs, strict=True) if yes}
        for i, eqn in enumerate(jaxpr.eqns):
            here = (*path, i)
            flags = [is_var(v) and v in active for v in eqn.invars]
            active.update(v for v, yes in zip(eqn.outvars, self._outputs(eqn, flags, here), strict=True) if yes)
        return active

    def _outputs(self, eqn: Any, inputs: Flags, path: Path) -> list[bool]:
        inexact = [is_inexact(v) for v in eqn.outvars]
        if self.record.is_source(path):
            return inexact
        name = eqn.primitive.name
        if name in STRUCTURES and (any(inputs) or self.record.looks_inside(path)):
            return STRUCTURES[name].active(self, eqn, inputs, path)
        passes = any(inputs) and not (name in RULES and RULES[name].pull is None)
        return [passes and yes for yes in inexact]

    def _carrying(self, jaxpr: Any, inputs: Flags, outputs: Flags, path: Path) -> set[Any]:
        """The variables that get a cotangent and pass it on to an input that wants one."""
        active = self._follow(jaxpr, inputs, path)
        carrying = {v for v, yes in zip(jaxpr.outvars, outputs, strict=True) if yes and is_var(v) and v in active}
        for i, eqn in reversed([*enumerate(jaxpr.eqns)]):
            gets = [v in carrying for v in eqn.outvars]
            if not any(gets):
                continue
            wanted = [is_var(v) and v in active for v in eqn.invars]
            flags = wanted
            if eqn.primitive.name in STRUCTURES:
                flags = STRUCTURES[eqn.primitive.name].reached(self, eqn, wanted, gets, (*path, i))
            elif eqn.primitive.name in RULES and RULES[eqn.primitive.name].pull is None:
                continue
            carrying.update(v for v, want, yes in zip(eqn.invars, wanted, flags, strict=True) if want and yes)
        return carrying


def _add(totals: dict[Any, Array], more: Iterable[tuple[Any, Array | None]]) -> None:
    """Cotangents of a value that is read several times add up."""
    for v, g in more:
        if g is not None:
            totals[v] = lax.add(totals[v], g) if v in totals else g
