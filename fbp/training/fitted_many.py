"""What several runs give: a history of each, and the mean and the spread over their seeds."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, overload

import jax
import numpy as np
from jaxtyping import Float

from fbp.errors import unknown_name
from fbp.training.history import Epoch, History, to_csv
from fbp.training.results import Fitted
from fbp.training.step import State
from fbp.typing import Params


@dataclass(frozen=True)
class EpochOfRuns(Sequence[Epoch]):
    """One epoch of several runs; printed as the mean and the spread of each figure.

    Attributes:
        records: of the runs.
        learning_rates: those that were tried; None where the optimizer has its own.
    """

    records: tuple[Epoch, ...]
    learning_rates: tuple[float, ...] | None = None

    @property
    def epoch(self) -> int:
        """Its number, from 1."""
        return self.records[0].epoch

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Epoch: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Epoch, ...]: ...
    def __getitem__(self, index: int | slice) -> Epoch | tuple[Epoch, ...]:
        return self.records[index]

    def _asdict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "runs": [record._asdict() for record in self.records]}

    def __str__(self) -> str:
        if self.learning_rates is None:
            return f"epoch {self.epoch}  {_describe(self.records)}"
        seeds = len(self.records) // len(self.learning_rates)
        return "\n".join(
            f"epoch {self.epoch}  rate {rate:g}  {_describe(self.records[i * seeds : (i + 1) * seeds])}"
            for i, rate in enumerate(self.learning_rates)
        )


@dataclass(frozen=True)
class FittedMany(Sequence[Fitted]):
    """What `fit_many` returns: a sequence of the `Fitted` of each run, and a table of all by `str`.

    The runs are those of the first learning rate, one for each seed, then those of the next.

    Attributes:
        params: the parameters after the last step, with a leading axis of runs.
        histories: of the runs.
        state: after the last step, with a leading axis of runs.
        stopped: why training ended: "epochs", "steps", "max_seconds", "callback" or "interrupted".
        seeds: that were tried.
        learning_rates: that were tried; None where the optimizer has its own.
    """

    params: Params
    histories: tuple[History, ...]
    state: State
    stopped: str
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...] | None

    def __len__(self) -> int:
        return len(self.histories)

    @overload
    def __getitem__(self, index: int) -> Fitted: ...
    @overload
    def __getitem__(self, index: slice) -> list[Fitted]: ...
    def __getitem__(self, index: int | slice) -> Fitted | list[Fitted]:
        if isinstance(index, slice):
            return [self[run] for run in range(len(self))[index]]
        run = range(len(self))[index]
        params, state = jax.tree.map(lambda x: x[run], (self.params, self.state))
        return Fitted(params, self.histories[run], state, self.stopped)

    def __iter__(self) -> Iterator[Fitted]:
        return map(self.__getitem__, range(len(self)))

    @property
    def labels(self) -> list[dict[str, Any]]:
        """Of each run, its number, its seed and, where there are several, its learning rate."""
        if self.learning_rates is None:
            return [{"run": run, "seed": seed} for run, seed in enumerate(self.seeds)]
        pairs = product(self.learning_rates, self.seeds)
        return [{"run": run, "seed": seed, "learning_rate": rate} for run, (rate, seed) in enumerate(pairs)]

    @property
    def diverged(self) -> tuple[int, ...]:
        """The numbers of the runs with a loss or a parameter that is infinite or NaN."""
        finite = np.ones(len(self), bool)
        for leaf in jax.tree.leaves(self.params):
            finite &= np.isfinite(np.asarray(leaf, np.float64)).reshape(len(self), -1).all(1)
        lost = [any(not math.isfinite(epoch.loss) for epoch in history) for history in self.histories]
        return tuple(np.flatnonzero(~finite | np.array(lost, bool)).tolist())

    def values(self, name: str) -> Float[np.ndarray, "*rates seeds epochs"]:
        """A column of every history; NaN where it has no value.

        Args:
            name: of a column, such as "loss", "validation_accuracy" or "gradient_norm/[0].W".

        Returns:
            An array (seeds, epochs); with learning rates (rates, seeds, epochs).

        Raises:
            FbpError: there is no such column.
        """
        known = dict.fromkeys(name for history in self.histories for name in history.names())
        if name not in known:
            raise unknown_name("column of the histories", name, known)
        columns = [[math.nan if x is None else x for x in history.column(name)] for history in self.histories]
        found = np.array(columns, np.float64)
        return found if self.learning_rates is None else found.reshape(-1, len(self.seeds), found.shape[1])

    def mean(self, name: str) -> Float[np.ndarray, "*rates epochs"]:
        """The mean of a column over the seeds, without the runs that diverged and what is infinite or NaN.

        Args:
            name: of a column, as for `values`.

        Raises:
            FbpError: there is no such column.
        """
        return _mean(self._sound_values(name))

    def spread(self, name: str) -> Float[np.ndarray, "*rates epochs"]:
        """The standard deviation of a column over the seeds, likewise; NaN where fewer than two values are finite.

        Args:
            name: of a column, as for `values`.

        Raises:
            FbpError: there is no such column.
        """
        return _spread(self._sound_values(name))

    def _sound_values(self, name: str) -> np.ndarray:
        """A column, with NaN where the loss of the run is not finite: an accuracy then means nothing."""
        return np.where(np.isfinite(self.values("loss")), self.values(name), np.nan)

    def to_csv(self) -> str:
        """All columns of all runs; the first ones are the number of the run, its seed and its learning rate."""
        return to_csv(
            [
                (label, epoch)
                for label, history in zip(self.labels, self.histories, strict=True)
                for epoch in history.epochs
            ]
        )

    def __str__(self) -> str:
        lines = [str(EpochOfRuns(records, self.learning_rates)) for records in zip(*self.histories, strict=True)]
        lost = [
            "diverged: run {run}, seed {seed}".format(**label)
            + (f", learning rate {label['learning_rate']:g}" if "learning_rate" in label else "")
            for label in (self.labels[run] for run in self.diverged)
        ]
        return "\n".join([*lines, *lost])


def _describe(records: Sequence[Epoch]) -> str:
    """The mean and the spread of what one epoch of some runs measured."""
    sound = [record for record in records if math.isfinite(record.loss)]
    names = {"loss": "loss ", "accuracy": "accuracy ", "validation_loss": "validation ", "validation_accuracy": ""}
    parts = []
    for name, label in names.items():
        values = [getattr(record, name) for record in sound or records[:1]]
        if None not in values:
            parts.append(label + format_spread(values, is_fraction=name.endswith("accuracy")))
    lost = len(records) - len(sound)
    return "  ".join([*parts, *([f"{lost} of {len(records)} diverged"] if lost else [])])


def format_spread(values: Sequence[float], *, is_fraction: bool) -> str:
    """The mean and the standard deviation of what is finite, as "0.123±0.004" or "95.20±0.31%".

    Args:
        values: of several runs.
        is_fraction: whether it is shown in per cent.
    """
    found = np.array(values, np.float64)[:, None]
    mean, spread = float(_mean(found)[0]), float(_spread(found)[0])
    if is_fraction:
        return f"{100 * mean:.2f}" + (f"±{100 * spread:.2f}" if math.isfinite(spread) else "") + "%"
    return f"{mean:.4g}" + (f"±{spread:.2g}" if math.isfinite(spread) else "")


def _mean(values: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values)
    count = finite.sum(-2)
    total = np.where(finite, values, 0).sum(-2)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _spread(values: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values)
    count = finite.sum(-2)
    squares = np.where(finite, np.square(np.where(finite, values, 0) - np.expand_dims(_mean(values), -2)), 0).sum(-2)
    return np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)
