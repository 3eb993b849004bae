"""The table of local rules, one for each primitive, each beside its formula."""

from fbp.graph.rules import arithmetic, elementwise, indexing, products, reductions, shapes, windows
from fbp.graph.rules.base import Rule
from fbp.graph.rules.branches import Cond
from fbp.graph.rules.calls import Call, CustomJvp, CustomVjp, LinearSolve, Remat
from fbp.graph.rules.engine import Structure
from fbp.graph.rules.loops import Scan, While
from fbp.graph.versions import CALLS, CUSTOM, REMATS

RULES: dict[str, Rule] = {
    rule.primitive: rule
    for family in (arithmetic, elementwise, reductions, products, windows, shapes, indexing)
    for rule in family.RULES
}
"""Primitives that compute, by name."""

STRUCTURES: dict[str, Structure] = {
    **dict.fromkeys(CALLS, Call()),
    **dict.fromkeys(REMATS, Remat()),
    **dict.fromkeys(CUSTOM, CustomVjp()),
    "custom_jvp_call": CustomJvp(),
    "custom_linear_solve": LinearSolve(),
    "cond": Cond(),
    "scan": Scan(),
    "while": While(),
}
"""Primitives that hold programs, by name; the first line of each class is its formula."""


def formula(primitive: str) -> str:
    """The local rule of a primitive in one line; "" where there is none."""
    if primitive in RULES:
        return RULES[primitive].formula
    return (STRUCTURES[primitive].__doc__ or "").splitlines()[0] if primitive in STRUCTURES else ""
