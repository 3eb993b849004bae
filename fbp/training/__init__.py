"""Training: optimizers by name, a pure step, whole runs, evaluation, a progress bar."""

from fbp.training.evaluation import Evaluation, evaluate
from fbp.training.fit import Diverged, Epoch, Fitted, fit
from fbp.training.optimizers import optimizer
from fbp.training.progress import progress
from fbp.training.step import Metrics, State, initial_state, train_step

__all__ = [
    "Diverged",
    "Epoch",
    "Evaluation",
    "Fitted",
    "Metrics",
    "State",
    "evaluate",
    "fit",
    "initial_state",
    "optimizer",
    "progress",
    "train_step",
]
