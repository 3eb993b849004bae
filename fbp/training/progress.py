"""How a training is shown while it runs: bars on a terminal, lines in a log, JSON for programs, or nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from fbp.serialize import to_json_line
from fbp.streams import print_result
from fbp.training.fitted_many import EpochOfRuns
from fbp.training.history import Epoch
from fbp.training.results import Moment
from fbp.training.step import State

if TYPE_CHECKING:
    from rich.progress import Progress


class Shown:
    """Two callbacks for `fit`: callbacks=[shown.on_epoch], on_steps=shown.on_steps. This one shows nothing."""

    def on_epoch(self, record: Epoch | EpochOfRuns, state: State) -> None:
        """Called after every epoch."""

    def on_steps(self, moment: Moment) -> None:
        """Called after every chunk of steps."""


@contextmanager
def show_progress(epochs: int | None, *, quiet: bool = False, json: bool = False) -> Iterator[Shown]:
    """Show a training while it runs, on standard error.

    On a terminal two bars move, of the epochs and of the steps of one, and a line an epoch stays above them. Elsewhere
    one line an epoch is written, so that a log file holds the history.

    Args:
        epochs: the number of them; None where another limit ends the training.
        quiet: show nothing.
        json: print each epoch as a line of JSON, on standard output.

    Yields:
        What to give to `fit`.

    Example:
        >>> with fbp.training.show_progress(2, quiet=True) as shown:
        ...     options = {"callbacks": [shown.on_epoch], "on_steps": shown.on_steps}
    """
    if json or quiet:
        yield _Json() if json else Shown()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console.file)
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.fields[more]}"))
    with Progress(*columns, TimeRemainingColumn(compact=True), console=console, transient=True) as bars:
        yield _Bars(bars, epochs)


class _Json(Shown):
    def on_epoch(self, record: Epoch | EpochOfRuns, state: State) -> None:
        print_result(to_json_line(record._asdict()))


class _Lines(Shown):
    def __init__(self, file: IO[str]):
        self._file = file

    def on_epoch(self, record: Epoch | EpochOfRuns, state: State) -> None:
        # A plain print: rich would wrap the line at 80 columns.
        print(record, file=self._file, flush=True)


class _Bars(Shown):
    def __init__(self, bars: "Progress", epochs: int | None):
        self._bars, self._of = bars, "" if epochs is None else f"/{epochs}"
        self._epochs = bars.add_task(f"epoch 1{self._of}", total=epochs, more="")
        self._steps = bars.add_task("compiling", total=None, more="")

    def on_epoch(self, record: Epoch | EpochOfRuns, state: State) -> None:
        self._bars.console.print(str(record), highlight=False, overflow="ellipsis", no_wrap=True)
        self._bars.update(self._epochs, completed=record.epoch, description=f"epoch {record.epoch + 1}{self._of}")

    def on_steps(self, moment: Moment) -> None:
        accuracy = "" if moment.accuracy is None else f"  {moment.accuracy:.1%}"
        more = f"loss {moment.loss:.3g}{accuracy}  {moment.examples_per_second:,.0f}/s"
        self._bars.update(
            self._steps,
            completed=moment.step,
            total=moment.steps,
            description=f"step {moment.step}/{moment.steps}",
            more=more,
        )
        # Within an epoch, too, so that the time left is known from the first one on.
        self._bars.update(self._epochs, completed=moment.epoch - 1 + moment.step / moment.steps)
