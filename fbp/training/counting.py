"""What the host counts of the steps of an epoch, and the record that it makes of them."""

import math

from fbp.losses import Loss
from fbp.training.checkpoints import Progress
from fbp.training.evaluation import Evaluation
from fbp.training.feed import Feed
from fbp.training.history import Epoch
from fbp.training.loop import Taken
from fbp.training.monitor import average_readings, name_readings
from fbp.typing import Layer


def count_steps(progress: Progress, net: Layer, taken: Taken, seconds: float) -> None:
    """Add some steps to the running epoch.

    Args:
        progress: is changed.
        net: the network.
        taken: what the steps measured.
        seconds: spent on them.
    """
    progress.taken += len(taken.metrics.loss)
    progress.seconds += seconds
    progress.total_seconds += seconds
    progress.losses += taken.metrics.loss.tolist()
    progress.examples += taken.metrics.examples.tolist()
    if taken.metrics.correct is not None:
        progress.correct += taken.metrics.correct.tolist()
    if taken.readings is not None:
        for name, values in name_readings(net, taken.readings).items():
            progress.readings.setdefault(name, []).extend(values.tolist())


def average_steps(progress: Progress, loss: Loss) -> tuple[float, float | None]:
    """The loss and the accuracy over the steps of the running epoch; sums are exact, however steps were cut.

    Args:
        progress: where the training stands.
        loss: whose reduction says what the losses of the steps are.
    """
    total = math.fsum(progress.examples)
    weights = progress.examples if loss.reduction == "mean" else [1.0] * len(progress.losses)
    value = math.fsum(x * w for x, w in zip(progress.losses, weights, strict=True)) / total
    return value, math.fsum(progress.correct) / total if progress.correct else None


def close_epoch(progress: Progress, loss: Loss, feed: Feed, held: Evaluation | None) -> None:
    """Put the record of the running epoch into the history, and begin the next one.

    Args:
        progress: is changed; it has waited for 0 epochs if this one is the best so far.
        loss: of the training.
        feed: the data.
        held: the evaluation of the validation data; None without.
    """
    seconds = max(progress.seconds, 1e-9)
    record = Epoch(
        progress.epoch,
        progress.epoch * feed.steps,
        *average_steps(progress, loss),
        *((None, None) if held is None else held),
        progress.seconds,
        feed.examples / seconds,
        average_readings(progress.readings),
    )
    progress.history.append(record)
    progress.waited += 1
    if record.watched_loss < progress.best:
        progress.best, progress.waited = record.watched_loss, 0
    progress.epoch += 1
    progress.taken, progress.seconds, progress.readings = 0, 0.0, {}
    progress.losses, progress.examples, progress.correct = [], [], []
