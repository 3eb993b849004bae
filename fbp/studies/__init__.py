"""The built-in studies, and the frame that they share with the scripts in `experiments/`."""

from fbp.studies.flows import Flows, add_flows, flow_figure, flow_records, measure_perceptrons, theory_rate
from fbp.studies.frame import Draft, Study, study

__all__ = [
    "Draft",
    "Flows",
    "Study",
    "add_flows",
    "flow_figure",
    "flow_records",
    "measure_perceptrons",
    "study",
    "theory_rate",
]
