"""Training: optimizers and schedules by name, a pure step, whole runs that lose nothing, evaluation, progress."""

from fbp.training.evaluation import Evaluation as Evaluation
from fbp.training.evaluation import evaluate as evaluate
from fbp.training.failure import Disagreed as Disagreed
from fbp.training.failure import Diverged as Diverged
from fbp.training.fit import fit as fit
from fbp.training.history import Epoch as Epoch
from fbp.training.history import History as History
from fbp.training.optimizers import find_decayed as find_decayed
from fbp.training.optimizers import optimizer as optimizer
from fbp.training.progress import Shown as Shown
from fbp.training.progress import show_progress as show_progress
from fbp.training.results import Fitted as Fitted
from fbp.training.results import Moment as Moment
from fbp.training.sampling import sample as sample
from fbp.training.saved import Saved as Saved
from fbp.training.saved import load as load
from fbp.training.saved import open_run as open_run
from fbp.training.schedules import schedule as schedule
from fbp.training.step import Method as Method
from fbp.training.step import Metrics as Metrics
from fbp.training.step import State as State
from fbp.training.step import initial_state as initial_state
from fbp.training.step import train_step as train_step
from fbp.training.summary import RunSummary as RunSummary
from fbp.training.summary import describe_run as describe_run
