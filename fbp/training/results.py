"""What a training gives: at its end, and while it runs."""

from dataclasses import dataclass
from typing import NamedTuple

from fbp.training.history import History
from fbp.training.step import State
from fbp.typing import Params


class Moment(NamedTuple):
    """Where a training stands after some steps.

    Attributes:
        epoch: the epoch that runs, from 1.
        step: the number of its steps that were taken.
        steps: the number of steps in an epoch.
        loss: the mean over them.
        accuracy: likewise; None unless the targets are labels.
        examples_per_second: in them.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    accuracy: float | None
    examples_per_second: float


@dataclass(frozen=True)
class Fitted:
    """What `fit` returns.

    Attributes:
        params: the parameters after the last step, or with `patience` those of the best epoch.
        history: one record per epoch.
        state: after the last step.
        stopped: why training ended: "epochs", "steps", "target_loss", "patience", "max_seconds" or "callback".
    """

    params: Params
    history: History
    state: State
    stopped: str
