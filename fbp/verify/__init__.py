"""Gradients verified: three judges, equation by equation, and what a rule must obey under JAX's transformations."""

from fbp.verify.conform import Conformance, conformance
from fbp.verify.gradients import assert_gradient, gradient, vjp
from fbp.verify.mutation import MutantResult, MutationReport, mutate
from fbp.verify.networks import compare, network
from fbp.verify.result import EquationResult, JudgeResult, LeafResult, Verification
from fbp.verify.tolerance import LeafDifference, differences

__all__ = [
    "Conformance",
    "EquationResult",
    "JudgeResult",
    "LeafDifference",
    "LeafResult",
    "MutantResult",
    "MutationReport",
    "Verification",
    "assert_gradient",
    "compare",
    "conformance",
    "differences",
    "gradient",
    "mutate",
    "network",
    "vjp",
]
