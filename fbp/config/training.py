"""How a network is trained, from the options of a command line."""

from dataclasses import dataclass
from typing import Any, Literal

from fbp.config.network import Integer, names
from fbp.errors import FbpError, check_count


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained, as the command line names it."""

    optimizer: str = "adam"
    """Any optimizer of optax by its name: sgd, adam, adamw, rmsprop, lion, ..."""
    learning_rate: float = 1e-3
    """Its learning rate, the largest one where there is a schedule."""
    schedule: Literal["cosine", "constant", "linear", "one_cycle", "step"] = "cosine"
    """How the learning rate goes over the training."""
    warmup: Integer = 0
    """Steps in which the learning rate rises from zero."""
    drop_every: Integer | None = None
    """With the schedule step: steps after which the learning rate falls to a tenth."""
    batch_size: Integer = 32
    """Examples a step; all where there are fewer."""
    epochs: Integer = 10
    """Passes over the training data."""
    validation_split: float = 0.1
    """Part of the training data that is held out and evaluated after each epoch, in [0, 1)."""
    gradient: Literal["manual", "autodiff", "both"] = "manual"
    """The hand-written backward pass, jax.grad, or both, compared in every step."""
    clip_norm: float | None = None
    """Largest norm of the gradient."""
    clip_examples: float | None = None
    """Largest norm of each example's own gradient."""
    weight_decay: float | None = None
    """Decay of weight matrices in each step, in units of the learning rate; biases and gains have none."""
    accumulate: Integer = 1
    """Steps whose gradients are averaged before the parameters move."""
    compute: Literal["float32", "bfloat16", "float16"] | None = None
    """Precision of the passes; parameters stay in float32."""
    trained: str | None = None
    """Patterns of the parameters that are trained, with commas between them; all without it."""
    monitor: Literal["off", "economy", "full"] = "economy"
    """Gradient norms and update ratios; full: dead units and gradient noise, too."""
    steps: Integer | None = None
    """Stop after so many steps."""
    target_loss: float | None = None
    """Stop after the first epoch whose validation loss is this small."""
    patience: Integer | None = None
    """Stop after so many epochs without a smaller validation loss, and keep the best."""
    max_seconds: float | None = None
    """Stop after so much training time."""

    def check(self) -> None:
        """Refuse numbers that no training takes, before anything heavy is imported.

        Raises:
            FbpError: a number is out of range.
        """
        for name in ("batch_size", "epochs", "accumulate", "steps", "patience"):
            value = getattr(self, name)
            if value is not None:
                check_count(f"--{name.replace('_', '-')}", value)
        if not 0 <= self.validation_split < 1:
            raise FbpError(
                f"--validation-split must be in [0, 1), got {self.validation_split}; 0.1 holds out one row in ten"
            )
        if self.warmup < 0:
            raise FbpError(f"--warmup must be at least 0, got {self.warmup}; it is a number of steps")

    def options(self) -> dict[str, Any]:
        """The arguments of `fbp.fit` that it has by the same names."""
        same = ("batch_size", "epochs", "gradient", "clip_examples", "compute", "monitor")
        limits = ("steps", "target_loss", "patience", "max_seconds", "validation_split")
        trained = None if self.trained is None else tuple(names(self.trained))
        return {name: getattr(self, name) for name in (*same, *limits)} | {"trained": trained}
