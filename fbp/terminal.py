"""How commands and scripts meet the person at the terminal: progress, mistakes, exit status."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fbp.errors import FbpError


def run(name: str, command: Callable[[], object]) -> int:
    """Call a command and turn its end into an exit status.

    Args:
        name: what a message begins with.
        command: parses and does the work; an integer that it returns is the status.

    Returns:
        The status: 2, with one line on standard error, for a mistake of the user's; 130 when interrupted.
    """
    from cyclopts import CycloptsError

    try:
        status = command()
    except (FbpError, CycloptsError) as error:
        print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    return status if isinstance(status, int) else 0


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """What a long command is doing, on standard error: one line that changes on a terminal, plain lines elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda line: print(line, file=sys.stderr, flush=True)
        return
    with console.status("starting") as status:
        yield status.update
