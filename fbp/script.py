"""Imported first by a script: Ctrl-C while the rest is imported is one line and exit status 130, as in its command."""

import os
import sys
from pathlib import Path
from types import TracebackType

from fbp.errors import Status
from fbp.interrupts import handle_interruptions

_report = sys.excepthook


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    at: BaseException | None = error
    # Modules in C turn an interruption of what they import into an error of their own.
    while at is not None and not isinstance(at, KeyboardInterrupt):
        at = at.__cause__ or at.__context__
    if at is None:
        _report(kind, error, trace)
        return
    print(f"{Path(sys.argv[0]).stem}: interrupted; nothing was written", file=sys.stderr, flush=True)
    os._exit(Status.INTERRUPTED)


sys.excepthook = _end
handle_interruptions()
