"""What training measured, epoch by epoch."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from fbp.errors import FbpError, unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

COLUMNS = (
    *("epoch", "step", "loss", "accuracy", "validation_loss", "validation_accuracy"),
    *("seconds", "examples_per_second"),
)


class Epoch(NamedTuple):
    """What one epoch measured.

    Attributes:
        epoch: its number, from 1.
        step: the number of steps taken so far, in all epochs.
        loss: the mean over the training examples, each with the parameters of its own step.
        accuracy: the fraction classified correctly, likewise, in [0, 1]; None unless the targets are labels.
        validation_loss: the mean over the validation examples after the epoch; None without validation.
        validation_accuracy: likewise.
        seconds: the time of training alone, without compilation and validation.
        examples_per_second: training examples per second of that time.
        readings: the mean of what the monitor measured in this epoch, by name: "gradient_norm/[0].W".
    """

    epoch: int
    step: int
    loss: float
    accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float
    examples_per_second: float
    readings: Mapping[str, float] = {}

    @property
    def watched_loss(self) -> float:
        """The validation loss, or without validation that of training."""
        return self.loss if self.validation_loss is None else self.validation_loss

    def __str__(self) -> str:
        parts = [f"loss {self.loss:.4g}"]
        if self.accuracy is not None:
            parts.append(f"accuracy {self.accuracy:.2%}")
        if self.validation_loss is not None:
            parts.append(f"validation {self.validation_loss:.4g}")
        if self.validation_accuracy is not None:
            parts.append(f"{self.validation_accuracy:.2%}")
        return "  ".join([f"epoch {self.epoch}", *parts, f"{self.examples_per_second:,.0f}/s"])


@dataclass(frozen=True)
class History(Sequence[Epoch]):
    """The epochs of a training, a sequence of `Epoch`: printed as a table, in a notebook too, drawn, written as CSV.

    Attributes:
        epochs: in their order.

    Example:
        >>> first = fbp.training.Epoch(1, 10, 0.5, 0.8, None, None, 1.0, 320.0)
        >>> history = fbp.training.History((first, first._replace(epoch=2, step=20, loss=0.25)))
        >>> history[-1].loss, history.column("loss")
        (0.25, [0.5, 0.25])
        >>> print(history.to_csv().splitlines()[0])
        epoch,step,loss,accuracy,validation_loss,validation_accuracy,seconds,examples_per_second
    """

    epochs: tuple[Epoch, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.epochs)

    @overload
    def __getitem__(self, index: int) -> Epoch: ...
    @overload
    def __getitem__(self, index: slice) -> "History": ...
    def __getitem__(self, index: int | slice) -> "Epoch | History":
        return History(self.epochs[index]) if isinstance(index, slice) else self.epochs[index]

    def __iter__(self) -> Iterator[Epoch]:
        return iter(self.epochs)

    @property
    def best(self) -> Epoch:
        """The epoch with the smallest validation loss, or training loss without validation.

        Raises:
            FbpError: there is no epoch.
        """
        if not self.epochs:
            raise FbpError("a history must have an epoch to have a best one, got none; train first")
        return min(self.epochs, key=lambda epoch: (epoch.watched_loss != epoch.watched_loss, epoch.watched_loss))

    def names(self) -> tuple[str, ...]:
        """The columns that hold values, those of the monitor last."""
        readings = dict.fromkeys(name for epoch in self.epochs for name in epoch.readings)
        return (
            *(name for name in COLUMNS if any(getattr(epoch, name) is not None for epoch in self.epochs)),
            *readings,
        )

    def column(self, name: str) -> list[Any]:
        """The values of a column, one an epoch; None where there is none.

        Args:
            name: of `names()`.
        """
        return [epoch.readings.get(name) if name not in COLUMNS else getattr(epoch, name) for epoch in self.epochs]

    def to_csv(self) -> str:
        """All columns, with a header; numbers as they are, so that reading them gives the same bits."""
        return to_csv([({}, epoch) for epoch in self.epochs])

    def plot(self, name: str = "loss") -> "Figure":
        """A figure of matplotlib: a column over the epochs, beside that of validation where there is one.

        Args:
            name: of the column, such as "loss" or "gradient_norm/[0].W".

        Raises:
            FbpError: there is no such column.
        """
        from fbp.report import Curve, curves

        if name not in self.names():
            raise unknown_name("column of the history", name, self.names())
        drawn = {"training": name, "validation": f"validation_{name}"}
        lines = [
            Curve(label, self.column("epoch"), self.column(column))
            for label, column in drawn.items()
            if column in self.names()
        ]
        return curves(lines, "epoch", name.replace("_", " "))

    def __rich__(self) -> "Table":
        from rich.table import Table

        table = Table()
        names = [name for name in self.names() if name in COLUMNS]
        for name in names:
            table.add_column(name.replace("_", " "), justify="right")
        for epoch in self.epochs:
            table.add_row(*(_format(name, getattr(epoch, name)) for name in names))
        return table

    def _repr_html_(self) -> str:
        names = [name for name in self.names() if name in COLUMNS]
        head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in names)
        rows = ("".join(f"<td>{_format(name, getattr(epoch, name))}</td>" for name in names) for epoch in self.epochs)
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"

    def __str__(self) -> str:
        return "\n".join(map(str, self.epochs))


def to_csv(rows: Sequence[tuple[Mapping[str, Any], Epoch]]) -> str:
    """Epochs as CSV, with a header; numbers as they are, so that reading them gives the same bits.

    Args:
        rows: of each epoch, the columns in front and the record.
    """
    front = list(rows[0][0]) if rows else []
    readings = list(dict.fromkeys(name for _, epoch in rows for name in epoch.readings))
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*front, *COLUMNS, *readings])
    for before, epoch in rows:
        own = [*(getattr(epoch, name) for name in COLUMNS), *(epoch.readings.get(name) for name in readings)]
        table.writerow(["" if value is None else value for value in (*before.values(), *own)])
    return text.getvalue()


def _format(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name.endswith("accuracy"):
        return f"{value:.2%}"
    if name == "examples_per_second":
        return f"{value:,.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
