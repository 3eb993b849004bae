"""The rows of `experiments/papers.py`: published numbers, each with the small function that measures it."""

from papers_rows.blocks import blocks
from papers_rows.correlations import correlations
from papers_rows.figures import agreement, edge_of_chaos, gradients
from papers_rows.learning import learning
from papers_rows.plain import plain_networks
from papers_rows.row import FAILS, HOLDS, Claim, Measured, Row, jackknife, judge
from papers_rows.spectra import spectra
from papers_rows.tanh import edges, tanh_networks

GROUPS = {
    "Variance through plain networks": plain_networks,
    "tanh between order and chaos": tanh_networks,
    "The edge of chaos": edges,
    "Correlations of two inputs": correlations,
    "Singular values and fluctuations": spectra,
    "Normalization, residual connections, recurrence": blocks,
    "The head and the first step": learning,
}
"""For each section of the report, a function of `quick` that gives its rows."""

__all__ = [
    "FAILS",
    "GROUPS",
    "HOLDS",
    "Claim",
    "Measured",
    "Row",
    "agreement",
    "edge_of_chaos",
    "gradients",
    "jackknife",
    "judge",
]
