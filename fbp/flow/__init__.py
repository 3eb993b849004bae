"""Gradient flow: how gradient norms change from layer to layer, over seeds and scales of the weights."""

from fbp.flow.measure import Flow, measure
from fbp.flow.verdict import Verdict, verdict

__all__ = ["Flow", "Verdict", "measure", "verdict"]
