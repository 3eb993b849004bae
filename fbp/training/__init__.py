"""Training: optimizers and schedules by name, a pure step, whole runs, evaluation, a progress bar."""

from fbp.training.evaluation import Evaluation as Evaluation
from fbp.training.evaluation import evaluate as evaluate
from fbp.training.fit import Diverged as Diverged
from fbp.training.fit import Epoch as Epoch
from fbp.training.fit import Fitted as Fitted
from fbp.training.fit import fit as fit
from fbp.training.optimizers import find_decayed as find_decayed
from fbp.training.optimizers import optimizer as optimizer
from fbp.training.progress import progress as progress
from fbp.training.schedules import schedule as schedule
from fbp.training.step import Metrics as Metrics
from fbp.training.step import State as State
from fbp.training.step import initial_state as initial_state
from fbp.training.step import train_step as train_step
