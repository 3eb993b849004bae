"""Gradient flow: how gradient norms change from layer to layer, over seeds and scales of the weights."""

from fbp.flow.curves import Flow
from fbp.flow.grid import Cell, grid
from fbp.flow.measure import measure
from fbp.flow.plan import Plan
from fbp.flow.statistics import Interval
from fbp.flow.verdict import Diagnosis, Verdict, diagnose, verdict

__all__ = [
    "Cell",
    "Diagnosis",
    "Flow",
    "Interval",
    "Plan",
    "Verdict",
    "diagnose",
    "grid",
    "measure",
    "verdict",
]
