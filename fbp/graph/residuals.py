"""A program cut in two: what is known in the forward pass, and what waits for cotangents, with the arrays between.

Only arrays that the second part reads are kept. Of these, one is not kept but computed again where that is cheap and
reads only what is kept anyway: a comparison, a product with a constant, a conversion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax

from fbp.graph.versions import evaluate_equations, is_var, read

CHEAP = frozenset(
    (
        *("neg", "add", "add_any", "sub", "mul", "max", "min", "abs", "sign", "square", "integer_pow", "clamp"),
        *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "select_n", "is_finite"),
        *("convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "expand_dims", "iota", "copy", "name"),
        "stop_gradient",
    )
)
"""Operations that cost less than to read their result from memory."""

Saveable = Callable[[Any], bool]


@dataclass(frozen=True)
class Halves:
    """Both parts of a program.

    Attributes:
        jaxpr: the whole.
        consts: the values of its constants.
        kept: what the second part reads of the first, by variable.
        known: the equations of the first part.
        late: the equations of the second part.
        shapes: of the results of the first part and of the second, pytrees.
    """

    jaxpr: Any
    consts: Sequence[Any]
    kept: tuple[Any, ...]
    known: tuple[Any, ...]
    late: tuple[Any, ...]
    shapes: tuple[Any, Any]

    @classmethod
    def cut(
        cls,
        f: Callable[[Any, Any], tuple[Any, Any]],
        inputs: Any,
        late_inputs: Any,
        free: Sequence[bool] = (),
        free_from: int | None = None,
        saveable: Saveable | None = None,
    ) -> "Halves":
        """Trace a function and cut its program.

        Args:
            f: (inputs, late inputs) -> (results of the first part, results of the second).
            inputs: shapes and dtypes of what the forward pass has, a list.
            late_inputs: those of what arrives later, a pytree.
            free: for each input whether it is at hand later without being kept; no more of them, none.
            free_from: from which result of the first part on they are at hand later as well.
            saveable: whether the outputs of an equation may be kept; None where that is decided by size.
        """
        closed, shapes = jax.make_jaxpr(f, return_shape=True)(inputs, late_inputs)
        jaxpr = closed.jaxpr
        unknown = set(jaxpr.invars[len(inputs) :])
        known, late, maker = [], [], {}
        for eqn in jaxpr.eqns:
            waits = any(is_var(v) and v in unknown for v in eqn.invars)
            (late if waits else known).append(eqn)
            maker.update(dict.fromkeys(eqn.outvars, eqn))
            unknown.update(eqn.outvars if waits else ())
        n_known = len(jax.tree.leaves(shapes[0]))
        first, second = jaxpr.outvars[:n_known], jaxpr.outvars[n_known:]
        late = _needed(late, second)
        wanted = _reads(late, second) - unknown
        if saveable is None:
            at_hand = {v for v, yes in zip(jaxpr.invars, free, strict=False) if yes} | set(jaxpr.constvars)
            at_hand |= {v for v in first[n_known if free_from is None else free_from :] if is_var(v)}
            again = _choose_by_size(wanted, at_hand, maker)
        else:
            again = _choose_by_policy(wanted, {*jaxpr.invars, *jaxpr.constvars}, maker, saveable)
        order = {v: i for i, v in enumerate([*jaxpr.invars, *(v for eqn in jaxpr.eqns for v in eqn.outvars)])}
        late = sorted([*late, *again], key=lambda eqn: order[eqn.outvars[0]])
        made = {v for eqn in late for v in eqn.outvars}
        kept = sorted(_reads(late, second) - made - set(jaxpr.constvars) - unknown, key=order.__getitem__)
        return cls(jaxpr, closed.consts, tuple(kept), tuple(_needed(known, [*first, *kept])), tuple(late), shapes)

    @property
    def outputs(self) -> Sequence[Any]:
        """The variables and literals that are the results of the first part."""
        return self.jaxpr.outvars[: len(jax.tree.leaves(self.shapes[0]))]

    def forward(self, inputs: Sequence[Any]) -> tuple[Any, list[Any]]:
        """The results of the first part, and what is kept."""
        values = dict(zip(self.jaxpr.constvars, self.consts, strict=True))
        values |= dict(zip(self.jaxpr.invars, inputs, strict=False))
        evaluate_equations(self.known, values)
        results = jax.tree.unflatten(jax.tree.structure(self.shapes[0]), [read(v, values) for v in self.outputs])
        return results, [values[v] for v in self.kept]

    def backward(self, kept: Sequence[Any], late: Any) -> Any:
        """The results of the second part.

        Args:
            kept: what the first part gave.
            late: the inputs that arrived later.
        """
        arrived = jax.tree.leaves(late)
        values = dict(zip(self.jaxpr.constvars, self.consts, strict=True))
        values |= dict(zip(self.jaxpr.invars[len(self.jaxpr.invars) - len(arrived) :], arrived, strict=True))
        values |= dict(zip(self.kept, kept, strict=True))
        evaluate_equations(self.late, values)
        results = [read(v, values) for v in self.jaxpr.outvars[len(self.outputs) :]]
        return jax.tree.unflatten(jax.tree.structure(self.shapes[1]), results)

    def evaluate_fixed(self, varying: Sequence[Any], inputs: Sequence[Any]) -> dict[Any, Any]:
        """Of what is kept, by variable, all that depends on none of the varying inputs.

        Args:
            varying: variables that differ between calls.
            inputs: those that are known, in order; the varying ones are not read.
        """
        moving = set(varying)
        for eqn in self.known:
            if eqn.effects or not moving.isdisjoint(_reads([eqn], ())):
                moving.update(eqn.outvars)
        fixed = [v for v in self.kept if v not in moving]
        values = dict(zip(self.jaxpr.constvars, self.consts, strict=True))
        values |= dict(zip(self.jaxpr.invars, inputs, strict=False))
        evaluate_equations(_needed([eqn for eqn in self.known if not eqn.effects], fixed), values)
        return {v: values[v] for v in fixed}


def _reads(eqns: Sequence[Any], outputs: Sequence[Any]) -> set[Any]:
    atoms = [*(v for eqn in eqns for v in eqn.invars), *outputs]
    return {v for v in atoms if is_var(v)}


def _needed(eqns: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
    """The equations that the outputs depend on, and those with effects."""
    used, needed = {v for v in outputs if is_var(v)}, []
    for eqn in reversed(eqns):
        if eqn.effects or not used.isdisjoint(eqn.outvars):
            needed.append(eqn)
            used.update(v for v in eqn.invars if is_var(v))
    return needed[::-1]


def _choose_by_size(wanted: set[Any], at_hand: set[Any], maker: dict[Any, Any]) -> list[Any]:
    """The equations that are computed again because that keeps less."""
    kept, again = set(wanted), dict[Any, Any]()
    changed = True
    while changed:
        changed = False
        for v in sorted(kept - at_hand, key=lambda v: -_size(v)):
            eqn = maker.get(v)
            if eqn is None or eqn.primitive.name not in CHEAP or len(eqn.outvars) != 1 or eqn.effects:
                continue
            inputs = {x for x in eqn.invars if is_var(x) and x not in again}
            if sum(map(_size, inputs - at_hand - kept)) < _size(v):
                kept = (kept - {v}) | inputs
                again[v] = eqn
                changed = True
    return list(again.values())


def _choose_by_policy(wanted: set[Any], given: set[Any], maker: dict[Any, Any], saveable: Saveable) -> list[Any]:
    """The equations that are computed again because their outputs may not be kept."""
    again: dict[int, Any] = {}
    todo = [v for v in wanted if v not in given]
    while todo:
        eqn = maker[todo.pop()]
        if id(eqn) in again or saveable(eqn):
            continue
        again[id(eqn)] = eqn
        todo += [v for v in eqn.invars if is_var(v) and v not in given]
    return list(again.values())


def _size(v: Any) -> int:
    return prod(v.aval.shape) * getattr(v.aval.dtype, "itemsize", 4)
