"""Gradient flow: how gradient norms change from layer to layer, over seeds and scales of the weights."""

from fbp.flow.grids import Cell as Cell
from fbp.flow.grids import Plan as Plan
from fbp.flow.grids import grid as grid
from fbp.flow.intervals import Interval as Interval
from fbp.flow.intervals import confidence_interval as confidence_interval
from fbp.flow.measurement import log10_singular_values as log10_singular_values
from fbp.flow.measurement import measure as measure
from fbp.flow.measurement import read_jacobians as read_jacobians
from fbp.flow.measurement import read_networks as read_networks
from fbp.flow.results import Flow as Flow
from fbp.flow.results import Stream as Stream
from fbp.flow.sampling import sample_parameters as sample_parameters
from fbp.flow.verdicts import Diagnosis as Diagnosis
from fbp.flow.verdicts import Jump as Jump
from fbp.flow.verdicts import Verdict as Verdict
from fbp.flow.verdicts import diagnose as diagnose
from fbp.flow.verdicts import judge_rate as judge_rate
from fbp.flow.verdicts import verdict as verdict
