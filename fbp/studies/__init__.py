"""The built-in studies, and the frame that they share with the scripts in `experiments/`."""

from fbp.studies.flows import (
    comparison_tables,
    flow_figure,
    flow_records,
    flow_table,
    flow_verdicts,
    hidden_verdict,
    theory_rate,
)
from fbp.studies.script import script

__all__ = [
    "comparison_tables",
    "flow_figure",
    "flow_records",
    "flow_table",
    "flow_verdicts",
    "hidden_verdict",
    "script",
    "theory_rate",
]
