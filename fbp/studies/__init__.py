"""The built-in studies, and the frame that they share with the scripts in `experiments/`."""

from fbp.studies.flows import Flows as Flows
from fbp.studies.flows import add_flows as add_flows
from fbp.studies.flows import flow_figure as flow_figure
from fbp.studies.flows import flow_records as flow_records
from fbp.studies.flows import measure_perceptrons as measure_perceptrons
from fbp.studies.flows import theory_rate as theory_rate
from fbp.studies.frame import Draft as Draft
from fbp.studies.frame import Study as Study
from fbp.studies.frame import study as study
from fbp.studies.runs import run_report as run_report
