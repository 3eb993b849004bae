"""The rows of `experiments/papers.py`: published numbers, each with the small function that measures it."""

from papers_rows.blocks import blocks
from papers_rows.correlations import correlations
from papers_rows.figures import agreement as agreement
from papers_rows.figures import edge_of_chaos as edge_of_chaos
from papers_rows.figures import gradients as gradients
from papers_rows.learning import learning
from papers_rows.plain import plain_networks
from papers_rows.row import FAILS as FAILS
from papers_rows.row import HOLDS as HOLDS
from papers_rows.row import INSIDE as INSIDE
from papers_rows.row import Measured as Measured
from papers_rows.row import Row as Row
from papers_rows.row import jackknife as jackknife
from papers_rows.row import judge as judge
from papers_rows.shattering import shattering
from papers_rows.spectra import spectra
from papers_rows.tanh import edges, tanh_networks
from papers_rows.transformers import transformers

GROUPS = {
    "Variance through plain networks": plain_networks,
    "tanh between order and chaos": tanh_networks,
    "The edge of chaos": edges,
    "Correlations of two inputs": correlations,
    "Gradients of two inputs, gradients along Z": shattering,
    "Singular values and fluctuations": spectra,
    "Normalization, residual connections, recurrence": blocks,
    "Transformers, and residual networks in a step": transformers,
    "The head and the first step": learning,
}
"""For each section of the report, a function of `quick` that gives its rows."""
