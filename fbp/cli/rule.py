"""The optimizer that the options of a command line name."""

from typing import TYPE_CHECKING, Any

from fbp.config import TrainingConfig

if TYPE_CHECKING:
    import optax


def make_rule(training: TrainingConfig, examples: int, learning_rate: Any = None) -> "optax.GradientTransformation":
    """The optimizer, with its schedule over the whole training.

    Args:
        training: how a network is trained.
        examples: in the data, those that are held out included.
        learning_rate: the largest one, in place of that of the options; it may be traced.

    Raises:
        FbpError: the options do not fit.
    """
    from fbp.training import optimizer, schedule

    kept = examples - round(training.validation_split * examples)
    steps = training.epochs * -(-kept // min(training.batch_size, kept))
    steps = steps if training.steps is None else min(steps, training.steps)
    drops = {} if training.drop_every is None else {"every": training.drop_every}
    options = {"warmup": training.warmup, **drops}
    if learning_rate is None:
        rate = schedule(training.schedule, training.learning_rate, steps, **options)
    else:
        # All schedules here are in proportion to their largest rate.
        shape = schedule(training.schedule, 1.0, steps, **options)
        rate = lambda step: learning_rate * shape(step)
    return optimizer(
        training.optimizer,
        rate,
        clip_norm=training.clip_norm,
        weight_decay=training.weight_decay,
        accumulate=training.accumulate,
    )
