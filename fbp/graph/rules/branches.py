"""Branches: the cotangent goes back through the branch that was taken."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from fbp.graph.record import Path
from fbp.graph.residuals import Halves
from fbp.graph.rules.base import Cotangents
from fbp.graph.rules.engine import Engine, Flags, Pullback
from fbp.graph.versions import Program


class Cond:
    """y = f_k(x), k the branch:  dx = that of f_k."""

    def _branches(self, eqn: Any) -> list[Program]:
        return [Program.of(branch) for branch in eqn.params["branches"]]

    def active(self, engine: Engine, eqn: Any, inputs: Flags, path: Path) -> list[bool]:
        """As `Structure.active`."""
        each = [engine.active(b, inputs[1:], (*path, k)) for k, b in enumerate(self._branches(eqn))]
        return [any(flags) for flags in zip(*each, strict=True)]

    def reached(self, engine: Engine, eqn: Any, inputs: Flags, outputs: Flags, path: Path) -> list[bool]:
        """As `Structure.reached`."""
        each = [engine.reached(b, inputs[1:], outputs, (*path, k)) for k, b in enumerate(self._branches(eqn))]
        return [False, *(any(flags) for flags in zip(*each, strict=True))]

    def run(
        self, engine: Engine, eqn: Any, inputs: Sequence[Any], wanted: Flags, reached: Flags, path: Path
    ) -> tuple[list[Any], Pullback]:
        """As `Structure.run`."""
        (index, *operands), branches = inputs, self._branches(eqn)
        if not isinstance(index, jax.core.Tracer):
            k = int(jnp.clip(index, 0, len(branches) - 1))
            outputs, pullback = engine.run(branches[k], operands, wanted[1:], reached, (*path, k))
            return outputs, lambda d: [None, *pullback(d)]
        each = [
            _Branch(engine, branch, wanted[1:], reached, (*path, k)) for k, branch in enumerate(branches)
        ]
        slots = _share_slots([branch.saved for branch in each])
        values = _merge([branch.values for branch in each])
        outs, saved, found = lax.switch(
            index, [branch.forward(slot, slots.avals, values) for branch, slot in zip(each, slots.places, strict=True)], operands
        )
        engine.record.values.update(found)

        def pullback(d: Cotangents) -> Cotangents:
            filled = [
                (jnp.zeros_like(y) if g is None else g) if yes else None
                for yes, g, y in zip(reached, d, outs, strict=True)
            ]
            gradients = _merge([branch.gradients for branch in each])
            ways = [branch.backward(slot, gradients) for branch, slot in zip(each, slots.places, strict=True)]
            dx, found = lax.switch(index, ways, operands, saved, filled)
            engine.record.gradients.update(found)
            return [None, *dx]

        return outs, pullback


class _Branch:
    """One branch, cut in two.

    Attributes:
        saved: the variables that it keeps, beside its inputs.
        values: the shapes of what is recorded in the forward pass.
        gradients: the same of the backward pass.
    """

    def __init__(self, engine: Engine, program: Program, wanted: Flags, reached: Flags, path: Path) -> None:
        avals = [v.aval for v in program.jaxpr.invars]

        def both(args: list[Any], d: list[Any]) -> Any:
            inner = engine.inner()
            outs, pullback = inner.run(program, args, wanted, reached, path)
            dx = [
                (jnp.zeros_like(x) if g is None else g) if yes else None
                for yes, g, x in zip(wanted, pullback(d), args, strict=True)
            ]
            return (outs, inner.record.values), (dx, inner.record.gradients)

        d = [v.aval if yes else None for yes, v in zip(reached, program.jaxpr.outvars, strict=True)]
        closed, (known, late) = jax.make_jaxpr(both, return_shape=True)(avals, d)
        self._known, self._late = jax.tree.structure(known), jax.tree.structure(late)
        self.values, self.gradients = known[1], late[1]
        is_known = [i < len(avals) for i in range(len(closed.jaxpr.invars))]
        self._halves = Halves.split(closed, is_known, self._known.num_leaves, [True] * len(avals))
        self._inputs = {v: i for i, v in enumerate(self._halves.jaxpr.invars)}
        self.saved = [v for v in self._halves.kept if v not in self._inputs]

    def forward(self, places: list[int], avals: list[Any], record: dict[Path, Any]) -> Any:
        """The function operands -> (outputs, slots, record), the same shapes for every branch."""

        def compute(operands: list[Any]) -> Any:
            known, kept = self._halves.forward(operands)
            outs, values = jax.tree.unflatten(self._known, known)
            by_var = dict(zip(self._halves.kept, kept, strict=True))
            slots = [jnp.zeros(aval.shape, aval.dtype) for aval in avals]
            for place, v in zip(places, self.saved, strict=True):
                slots[place] = by_var[v]
            return outs, slots, _zeros(record) | values

        return compute

    def backward(self, places: list[int], record: dict[Path, Any]) -> Any:
        """The function (operands, slots, cotangents) -> (cotangents of operands, record)."""

        def compute(operands: list[Any], slots: list[Any], d: list[Any]) -> Any:
            at = {v: slots[place] for place, v in zip(places, self.saved, strict=True)}
            kept = [operands[self._inputs[v]] if v in self._inputs else at[v] for v in self._halves.kept]
            late = self._halves.backward(kept, jax.tree.leaves(d))
            dx, gradients = jax.tree.unflatten(self._late, late)
            return dx, _zeros(record) | gradients

        return compute


class _Slots:
    """Arrays that hold what any of several branches keeps.

    Attributes:
        avals: their shapes and dtypes.
        places: for each branch where its variables stand.
    """

    def __init__(self) -> None:
        self.avals: list[Any] = []
        self.places: list[list[int]] = []


def _share_slots(saved: list[list[Any]]) -> _Slots:
    slots = _Slots()
    for variables in saved:
        free = list(range(len(slots.avals)))
        places = []
        for v in variables:
            fits = [i for i in free if (slots.avals[i].shape, slots.avals[i].dtype) == (v.aval.shape, v.aval.dtype)]
            if not fits:
                slots.avals.append(v.aval)
                fits = [len(slots.avals) - 1]
            else:
                free.remove(fits[0])
            places.append(fits[0])
        slots.places.append(places)
    return slots


def _merge(records: list[dict[Path, Any]]) -> dict[Path, Any]:
    return {path: shapes for record in records for path, shapes in record.items()}


def _zeros(record: dict[Path, Any]) -> dict[Path, Any]:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), record)
