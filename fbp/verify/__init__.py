"""Gradients compared: leaf by leaf against autodiff and float64, and what both cost."""

from fbp.verify.comparison import Comparison, LeafComparison, compare
from fbp.verify.cost import Cost, CostComparison, Timed, compare_cost, compiled
from fbp.verify.measures import LeafDifference, differences

__all__ = [
    "Comparison",
    "Cost",
    "CostComparison",
    "LeafComparison",
    "LeafDifference",
    "Timed",
    "compare",
    "compare_cost",
    "compiled",
    "differences",
]
