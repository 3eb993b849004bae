"""Computation graphs of any JAX function, and reverse mode by a table of local rules."""

from fbp.graph.gradients import value_and_grad as value_and_grad
from fbp.graph.rules import RULES as RULES
