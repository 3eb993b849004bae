"""A program cut in two: what is known in the forward pass, and what waits for cotangents, with the arrays between.

Only arrays that the second part reads are kept. Of these, one is not kept but computed again where that is cheap and
reads only what is kept anyway: a comparison, a product with a constant, a conversion.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

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
        n_known: the number of outputs of the first part; the others are those of the second.
    """

    jaxpr: Any
    consts: Sequence[Any]
    kept: tuple[Any, ...]
    known: tuple[Any, ...]
    late: tuple[Any, ...]
    n_known: int

    @classmethod
    def split(
        cls,
        closed: Any,
        is_known: Sequence[bool],
        n_known: int,
        free: Sequence[bool] = (),
        free_outputs: Sequence[bool] = (),
        saveable: Saveable | None = None,
    ) -> "Halves":
        """Cut a program.

        Args:
            closed: the program.
            is_known: for each input whether the forward pass has it.
            n_known: the number of its outputs that the forward pass makes.
            free: for each input whether it is at hand later without being kept; no more of them, none.
            free_outputs: the same for the outputs of the forward pass.
            saveable: whether the outputs of an equation may be kept; None where that is decided by size.
        """
        jaxpr = closed.jaxpr
        unknown = {v for v, yes in zip(jaxpr.invars, is_known, strict=True) if not yes}
        known, late, maker = [], [], {}
        for eqn in jaxpr.eqns:
            waits = any(is_var(v) and v in unknown for v in eqn.invars)
            (late if waits else known).append(eqn)
            maker.update(dict.fromkeys(eqn.outvars, eqn))
            unknown.update(eqn.outvars if waits else ())
        first, second = jaxpr.outvars[:n_known], jaxpr.outvars[n_known:]
        late = _needed(late, second)
        wanted = _reads(late, second) - unknown
        at_hand = {v for v, yes in zip(jaxpr.invars, free, strict=False) if yes} | set(jaxpr.constvars)
        at_hand |= {v for v, yes in zip(first, free_outputs, strict=False) if yes and is_var(v)}
        if saveable is None:
            again = _choose_by_size(wanted, at_hand, maker)
        else:
            again = _choose_by_policy(wanted, set(jaxpr.invars) | set(jaxpr.constvars), maker, saveable)
        order = {id(eqn): i for i, eqn in enumerate(jaxpr.eqns)}
        late = sorted([*late, *again], key=lambda eqn: order[id(eqn)])
        made = {v for eqn in late for v in eqn.outvars}
        kept = _reads(late, second) - made - set(jaxpr.constvars)
        place = {v: i for i, v in enumerate([*jaxpr.invars, *(v for eqn in jaxpr.eqns for v in eqn.outvars)])}
        ordered = sorted((v for v in kept if v not in unknown), key=place.__getitem__)
        first_eqns = _needed(known, [*first, *ordered])
        return cls(jaxpr, closed.consts, tuple(ordered), tuple(first_eqns), tuple(late), n_known)

    def forward(self, inputs: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """The outputs of the first part, and what is kept.

        Args:
            inputs: those that are known, in order.
        """
        values = dict(zip(self.jaxpr.constvars, self.consts, strict=True))
        values |= dict(zip(self.jaxpr.invars, inputs, strict=False))
        evaluate_equations(self.known, values)
        return [read(v, values) for v in self.jaxpr.outvars[: self.n_known]], [values[v] for v in self.kept]

    def backward(self, kept: Sequence[Any], late: Sequence[Any]) -> list[Any]:
        """The outputs of the second part.

        Args:
            kept: what the first part gave.
            late: the inputs that were not known, the last ones of the program.
        """
        values = dict(zip(self.jaxpr.constvars, self.consts, strict=True))
        values |= dict(zip(self.jaxpr.invars[len(self.jaxpr.invars) - len(late) :], late, strict=True))
        values |= dict(zip(self.kept, kept, strict=True))
        evaluate_equations(self.late, values)
        return [read(v, values) for v in self.jaxpr.outvars[self.n_known :]]

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
    kept, again = set(wanted), []
    changed = True
    while changed:
        changed = False
        for v in sorted(kept - at_hand, key=lambda v: -_size(v)):
            eqn = maker.get(v)
            if eqn is None or eqn.primitive.name not in CHEAP or len(eqn.outvars) != 1 or eqn.effects:
                continue
            inputs = {x for x in eqn.invars if is_var(x)}
            if sum(map(_size, inputs - at_hand - kept)) < _size(v):
                kept = (kept - {v}) | inputs
                again.append(eqn)
                changed = True
    return again


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
