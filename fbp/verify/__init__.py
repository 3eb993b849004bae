"""Gradients verified: three judges, equation by equation, and what a gradient costs beside `jax.grad`."""

from fbp.cost import Cost, CostComparison, Timed, compare_cost, compiled
from fbp.verify.comparison import Comparison, LeafComparison, compare
from fbp.verify.conform import Conformance, conformance
from fbp.verify.gradients import assert_gradient, gradient
from fbp.verify.measures import LeafDifference, differences
from fbp.verify.mutations import MutantVerdict, MutationReport, mutate
from fbp.verify.networks import network
from fbp.verify.operations import vjp
from fbp.verify.opinion import Opinion
from fbp.verify.result import EquationVerdict, LeafVerdict, Verification

__all__ = [
    "Comparison",
    "Conformance",
    "Cost",
    "CostComparison",
    "EquationVerdict",
    "LeafComparison",
    "LeafDifference",
    "LeafVerdict",
    "MutantVerdict",
    "MutationReport",
    "Opinion",
    "Timed",
    "Verification",
    "assert_gradient",
    "compare",
    "compare_cost",
    "compiled",
    "conformance",
    "differences",
    "gradient",
    "mutate",
    "network",
    "vjp",
]
