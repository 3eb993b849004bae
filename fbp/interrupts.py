"""Ctrl-C: none is lost, none is taken twice, and none comes in the middle of what must stay whole."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SAME = 1.0
"""Seconds within which a second Ctrl-C is the same one: what the first one has begun to clean up goes on."""
_RETRY = 0.05
_raised: list[float] = []
"""When the interruptions of this run were raised."""


@contextmanager
def watch_interruptions() -> Iterator[None]:
    """Raise SIGINT as KeyboardInterrupt in the main thread, and again where nobody could catch it.

    A program that was started with SIGINT ignored, in the background of a script, goes on ignoring it; so does one
    whose caller handles it in a way of its own.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler or not _is_main_thread():
        yield
        return
    report = sys.unraisablehook

    def retry(unraisable: Any) -> None:
        # A callback of C code has swallowed it, such as that by which JAX joins a garbage collection.
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            report(unraisable)
            return
        _raised.clear()
        again = threading.Timer(_RETRY, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = retry
    signal.signal(signal.SIGINT, _raise_once)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _raise_once:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = report
        _raised.clear()


@contextmanager
def postpone_interruptions() -> Iterator[None]:
    """Let the body run to its end; a Ctrl-C that came meanwhile is raised behind it."""
    handler = signal.getsignal(signal.SIGINT)
    # None is a handler that Python cannot put back.
    if handler is None or not _is_main_thread():
        yield
        return
    waiting: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if waiting:
            signal.raise_signal(signal.SIGINT)


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed in this run: C code turns a KeyboardInterrupt into other exceptions, or drops it."""
    return bool(_raised)


def _raise_once(*_: object) -> None:
    moment = time.monotonic()
    if not _raised or moment - _raised[-1] > _SAME:
        _raised.append(moment)
        raise KeyboardInterrupt


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
