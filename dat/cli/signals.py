"""Signals that come before a command has begun, and after it: there is nothing to save and nothing to explain."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


def end_at_signals() -> dict[signal.Signals, Any]:
    """From here on SIGTERM and SIGINT end the process at once, with exit codes 143 and 130, and without a word.

    Not by an exception: raised in the middle of an import it comes out as a traceback, or as the ImportError of a module
    that caught it. A SIGINT that the process ignores (nohup, background jobs) stays ignored. Outside the main thread, where
    Python allows no handlers, nothing happens.

    Returns:
        The handlers that were there.
    """
    previous: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, _end)
    return previous


@contextmanager
def quiet_signals() -> Iterator[None]:
    """`end_at_signals` within the context; the handlers that were there come back on leaving."""
    previous = end_at_signals()
    try:
        yield
    finally:
        for number, handler in previous.items():
            # None: a handler that was not installed from Python, which Python cannot put back
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)
