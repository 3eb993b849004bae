"""Ctrl-C: none is lost, none is taken twice, and none comes in the middle of what must stay whole."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from types import FrameType
from typing import Any

_SAME = 1.0
"""Seconds within which a second Ctrl-C is the same one: what the first one has begun to clean up goes on."""
_RETRY = 0.05
_raised: list[float] = []
"""When the interruptions of this run were raised."""


@contextmanager
def watch_interruptions() -> Iterator[None]:
    """Raise SIGINT as `handle_interruptions` says while the body runs; `was_interrupted` then speaks of this run."""
    undo = handle_interruptions()
    _raised.clear()
    try:
        yield
    finally:
        undo()
        _raised.clear()


def handle_interruptions() -> Callable[[], None]:
    """Raise SIGINT as KeyboardInterrupt in the main thread, where C code bears it, and again where nobody caught it.

    A program that was started with SIGINT ignored, in the background of a script, goes on ignoring it; so does one
    whose caller handles it in a way of its own.

    Returns:
        A function that puts back what was there.
    """
    handler, report = signal.getsignal(signal.SIGINT), sys.unraisablehook
    if handler not in (signal.default_int_handler, _raise_once) or not _is_main_thread():
        return lambda: None

    def repeat(unraisable: Any) -> None:
        # A callback of C code has swallowed it, such as that by which JAX joins a garbage collection.
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            _raised.clear()
            _press_again()
        else:
            report(unraisable)

    def undo() -> None:
        signal.signal(signal.SIGINT, handler)
        sys.unraisablehook = report

    sys.unraisablehook = repeat
    signal.signal(signal.SIGINT, _raise_once)
    return undo


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


def _raise_once(_: int, frame: FrameType | None) -> None:
    moment = time.monotonic()
    if _raised and moment - _raised[-1] <= _SAME:
        return
    while frame is not None:
        # Modules in C crash, or print, when an exception meets them while they are initialized.
        if isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            _press_again()
            return
        frame = frame.f_back
    _raised.append(moment)
    raise KeyboardInterrupt


def _press_again() -> None:
    again = threading.Timer(_RETRY, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    again.daemon = True
    again.start()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
