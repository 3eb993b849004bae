"""The table of local rules, one for each primitive, each beside its formula."""

from collections.abc import Mapping
from typing import Any

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

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def formula(primitive: str, params: Mapping[str, Any] | None = None) -> str:
    """The local rule of a primitive in one line; "" where there is none.

    Args:
        primitive: its name in JAX.
        params: what it is given beside arrays: an exponent is written into the rule.
    """
    if primitive == "integer_pow" and params:
        n = params["y"]
        raised, lower = (str(k).translate(_RAISED) if k != 1 else "" for k in (n, n - 1))
        return RULES[primitive].formula.replace("ⁿ⁻¹", lower).replace("ⁿ", raised).replace(" n ", f" {n} ")
    if primitive in RULES:
        return RULES[primitive].formula
    return (STRUCTURES[primitive].__doc__ or "").splitlines()[0] if primitive in STRUCTURES else ""
