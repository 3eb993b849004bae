"""Gradients verified: three judges, equation by equation, and what a rule must obey under JAX's transformations."""

from fbp.verify.conform import Conformance as Conformance
from fbp.verify.conform import conformance as conformance
from fbp.verify.gradients import assert_gradient as assert_gradient
from fbp.verify.gradients import gradient as gradient
from fbp.verify.gradients import vjp as vjp
from fbp.verify.mutation import MutantResult as MutantResult
from fbp.verify.mutation import MutationReport as MutationReport
from fbp.verify.mutation import mutate as mutate
from fbp.verify.networks import compare as compare
from fbp.verify.networks import network as network
from fbp.verify.result import EquationResult as EquationResult
from fbp.verify.result import JudgeResult as JudgeResult
from fbp.verify.result import LeafResult as LeafResult
from fbp.verify.result import Verification as Verification
from fbp.verify.tolerance import LeafDifference as LeafDifference
from fbp.verify.tolerance import differences as differences
