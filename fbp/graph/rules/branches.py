"""Branches: the cotangent goes back through the branch that was taken."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from fbp.graph.record import Path
from fbp.graph.residuals import Halves
from fbp.graph.rules.base import Cotangents, fill_where, pick
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
        if not isinstance(index, Tracer):
            # By NumPy: while something is traced, JAX would trace this, too.
            k = int(np.clip(np.asarray(index), 0, len(branches) - 1))
            outputs, pull_one = engine.run(branches[k], operands, wanted[1:], reached, (*path, k))
            return outputs, lambda d: [None, *pull_one(d)]
        each = [_Branch(engine, branch, wanted[1:], reached, (*path, k)) for k, branch in enumerate(branches)]
        slots = _share_slots([branch.saved for branch in each])
        values = _merge([branch.values for branch in each])
        ways = [branch.forward(own, slots.avals, values) for branch, own in zip(each, slots.places, strict=True)]
        outs, saved, found = lax.switch(index, ways, operands)
        engine.record.values.update(found)

        def pullback(d: Cotangents, /) -> Cotangents:
            gradients = _merge([branch.gradients for branch in each])
            ways = [branch.backward(own, gradients) for branch, own in zip(each, slots.places, strict=True)]
            dx, found = lax.switch(index, ways, operands, saved, fill_where(reached, d, outs))
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
        def both(args: list[Any], d: list[Any]) -> Any:
            inner = engine.inner()
            outs, pullback = inner.run(program, args, wanted, reached, path)
            return (outs, inner.record.values), (fill_where(wanted, pullback(d), args), inner.record.gradients)

        avals = [v.aval for v in program.jaxpr.invars]
        d_avals = pick(reached, [v.aval for v in program.jaxpr.outvars])
        self._halves = Halves.cut(both, avals, d_avals, [True] * len(avals))
        self.values, self.gradients = (shape[1] for shape in self._halves.shapes)
        self._inputs = {v: i for i, v in enumerate(self._halves.jaxpr.invars)}
        self.saved = [v for v in self._halves.kept if v not in self._inputs]

    def forward(self, places: list[int], avals: list[Any], record: dict[Path, Any]) -> Any:
        """The function operands -> (outputs, slots, record), the same shapes for every branch."""

        def compute(operands: list[Any]) -> Any:
            (outs, values), kept = self._halves.forward(operands)
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
            dx, gradients = self._halves.backward(kept, d)
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
