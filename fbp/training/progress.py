"""A progress bar for `fit`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fbp.training.history import Epoch


@contextmanager
def progress(epochs: int) -> Iterator[Callable[[Epoch], None]]:
    """A progress bar on standard error, for `fit(..., on_epoch=...)`.

        with progress(10) as on_epoch:
            fit(..., epochs=10, on_epoch=on_epoch)

    If standard error is not a terminal, one plain line per epoch is written, so that a log file holds the history.

    Args:
        epochs: the total number of epochs.

    Yields:
        The callback for `on_epoch`.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        # A plain print: rich would wrap the line at 80 columns.
        yield lambda record: print(describe_epoch(record, epochs), file=console.file, flush=True)
        return
    columns = (BarColumn(bar_width=10), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(f"epoch 0/{epochs}", total=epochs)
        yield lambda record: bar.update(task, advance=1, description=_abridge(record, epochs), refresh=True)


def describe_epoch(record: Epoch, epochs: int) -> str:
    """What an epoch measured, as one line.

    Args:
        record: of the epoch.
        epochs: the total number of epochs.
    """
    parts = [f"epoch {record.epoch}/{epochs}", f"loss {record.loss:.4g}"]
    if record.accuracy is not None:
        parts.append(f"accuracy {record.accuracy:.2%}")
    if record.validation_loss is not None:
        parts.append(f"validation loss {record.validation_loss:.4g}")
    if record.validation_accuracy is not None:
        parts.append(f"validation accuracy {record.validation_accuracy:.2%}")
    return "  ".join([*parts, f"{record.examples_per_second:,.0f} examples/s"])


def _abridge(record: Epoch, epochs: int) -> str:
    """What fits beside the bar on a terminal of 80 columns."""
    parts = [f"epoch {record.epoch}/{epochs}", f"loss {record.loss:.3g}"]
    if record.validation_loss is not None:
        parts.append(f"validation {record.validation_loss:.3g}")
    accuracy = record.accuracy if record.validation_accuracy is None else record.validation_accuracy
    return "  ".join(parts if accuracy is None else [*parts, f"accuracy {accuracy:.1%}"])
