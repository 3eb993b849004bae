"""Computation graphs of any JAX function, and reverse mode by a table of local rules."""

from fbp.graph.gradients import value_and_grad as value_and_grad
from fbp.graph.graph import Graph as Graph
from fbp.graph.graph import Node as Node
from fbp.graph.graph import Value as Value
from fbp.graph.networks import network as network
from fbp.graph.rules import RULES as RULES
from fbp.graph.rules import Rule as Rule
from fbp.graph.source import Source as Source
from fbp.graph.structure import Step as Step
from fbp.graph.taps import Tap as Tap
from fbp.graph.taps import taps as taps
from fbp.graph.tracing import trace as trace
