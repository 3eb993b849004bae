"""How commands and scripts meet the person at the terminal: progress, mistakes, exit status."""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

from fbp.errors import FbpError, Status, describe_exception
from fbp.interrupts import was_interrupted, watch_interruptions
from fbp.streams import guard_streams

if TYPE_CHECKING:
    from cyclopts import App

Progress = Callable[[str], None]
"""Takes one line about what happens next."""
Command = Callable[[list[str]], object]
"""Parses words and does the work; an integer that it returns is the status."""

DEBUG = "--debug"
NOTHING_WRITTEN = "nothing was written"


def no_progress(line: str) -> None:
    """Show nothing."""


def start(name: str, command: Command) -> NoReturn:
    """Run a command as the program, with the words that were typed, and leave with its status.

    Args:
        name: what a message begins with.
        command: see `run`.
    """
    is_program = sys._getframe(2).f_globals.get("__name__") == "__main__"

    def leave(*_: object) -> NoReturn:
        with suppress(OSError):
            print(f"{name}: interrupted; all was done", file=sys.stderr, flush=True)
        os._exit(Status.INTERRUPTED)

    try:
        status = run(name, command, sys.argv[1:])
    except KeyboardInterrupt:
        status = Status.INTERRUPTED
    if is_program and status == Status.INTERRUPTED:
        # XLA compiles on threads of its own, and they crash when a finalizing interpreter takes their client away.
        os._exit(status)
    if is_program:
        # Finalizing takes a while, too.
        signal.signal(signal.SIGINT, leave)
    sys.exit(int(status))


def make_parser(name: str, help: str) -> "App":
    """The parser of a script; its one function becomes `app.default`.

    Args:
        name: as it is called, "python experiments/depth.py".
        help: what it does.
    """
    from cyclopts import App, Parameter

    return App(
        name=name,
        help=help,
        help_epilogue="With --debug an error shows its traceback.",
        default_parameter=Parameter(negative=()),
        help_format="plaintext",
        result_action="return_value",
        # `run` says what an interruption leaves.
        suppress_keyboard_interrupt=False,
    )


def run(name: str, command: Command, words: Sequence[str]) -> int:
    """Call a command and turn its end into an exit status, whatever that end is.

    Args:
        name: what a message begins with.
        command: parses the words and does the work; an integer that it returns is the status.
        words: what was typed behind the program's name; with --debug, an error prints its traceback.

    Returns:
        A `Status`; where it is not that of a command that came to its end, one line on standard error says why.
    """
    options = words[: words.index("--")] if "--" in words else words
    kept = [word for word in options if word != DEBUG]
    with watch_interruptions(), guard_streams():
        try:
            returned = command([*kept, *words[len(options) :]])
            sys.stdout.flush()
            if was_interrupted():
                raise KeyboardInterrupt
            return returned if isinstance(returned, int) else Status.DONE
        except BaseException as error:
            status, line = _explain(error)
            if len(kept) < len(options):
                traceback.print_exception(error)
            print(f"{name}: {' '.join(line.split())}", file=sys.stderr, flush=True)
            return status


def _explain(error: BaseException) -> tuple[Status, str]:
    """The status and the line of a command that ended with an exception."""
    if isinstance(error, KeyboardInterrupt) or was_interrupted():
        left = str(error) if isinstance(error, KeyboardInterrupt) else ""
        return Status.INTERRUPTED, f"interrupted; {left or NOTHING_WRITTEN}"
    from cyclopts import CycloptsError

    if isinstance(error, FbpError):
        return error.exit_status, str(error)
    if isinstance(error, CycloptsError):
        return Status.MISUSED, str(error)
    described = describe_exception(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in described:
        return Status.MISUSED, f"a run must fit the memory, got {described}; take a smaller network or batch"
    if isinstance(error, OSError):
        return Status.MISUSED, f"files must be readable and writable, got {described}; free the place or name another"
    if isinstance(error, SystemExit):
        return Status.MISUSED, f"functions must return to their caller, got {described}; take the exit out of them"
    return Status.BROKEN, f"internal error, {described}; please report it as an issue, with what {DEBUG} prints"


@contextmanager
def explain_interruption(left: Callable[[], str]) -> Iterator[None]:
    """Let `run` say what an interruption of the body has left.

    Args:
        left: says it, called when it has happened.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or was_interrupted():
            raise KeyboardInterrupt(left()) from error
        raise


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Show what a long command is doing, on standard error: plain lines, or on a terminal a bar beside the last line.

    A line that begins with "3 of 36" says how far the bar is.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
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
