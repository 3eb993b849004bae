"""Gradient flow: how gradient norms change from layer to layer, over seeds and scales of the weights."""

from fbp.flow.grids import Cell, Plan, grid
from fbp.flow.measurement import log10_singular_values, measure, read_jacobians, read_networks
from fbp.flow.results import Flow, Stream
from fbp.flow.sampling import sample_parameters
from fbp.flow.verdicts import Diagnosis, Interval, Verdict, confidence_interval, diagnose, verdict

__all__ = [
    "Cell",
    "Diagnosis",
    "Flow",
    "Interval",
    "Plan",
    "Stream",
    "Verdict",
    "confidence_interval",
    "diagnose",
    "grid",
    "log10_singular_values",
    "measure",
    "read_jacobians",
    "read_networks",
    "sample_parameters",
    "verdict",
]
