"""How commands and scripts meet the person at the terminal: progress, mistakes, exit status."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fbp.errors import FbpError

Progress = Callable[[str], None]
"""Takes one line about what happens next."""


def no_progress(line: str) -> None:
    """Show nothing."""


def run(name: str, command: Callable[[], object], interrupted: str = "nothing was written") -> int:
    """Call a command and turn its end into an exit status.

    Args:
        name: what a message begins with.
        command: parses and does the work; an integer that it returns is the status.
        interrupted: what an interruption leaves, where the command itself does not say it by `show_progress`.

    Returns:
        The status: 2, with one line on standard error, for a mistake of the user's; 130 when interrupted.
    """
    from cyclopts import CycloptsError

    try:
        status = command()
    except (FbpError, CycloptsError) as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interruption:
        print(f"{name}: interrupted; {str(interruption) or interrupted}", file=sys.stderr)
        return 130
    return status if isinstance(status, int) else 0


@contextmanager
def show_progress(interrupted: str = "") -> Iterator[Progress]:
    """Show what a long command is doing, on standard error: plain lines, or on a terminal a bar beside the last line.

    A line that begins with "3 of 36" says how far the bar is.

    Args:
        interrupted: what an interruption leaves, for `run` to say.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    try:
        if not console.is_terminal:
            yield lambda line: print(line, file=sys.stderr, flush=True)
            return
        columns = (BarColumn(bar_width=20), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
        with Bar(*columns, console=console, transient=True) as bar:
            task = bar.add_task("starting", total=None)

            def progress(line: str) -> None:
                counted = re.match(r"(\d+) of (\d+)\b", line)
                bar.update(task, description=line)
                if counted:
                    # The work behind the last step counts as one more: a full bar stops its clock.
                    bar.update(task, completed=int(counted[1]), total=int(counted[2]) + 1)

            yield progress
    except KeyboardInterrupt as interruption:
        raise KeyboardInterrupt(interrupted) from interruption
