"""Signals that end a run: after a whole step while it trains, at once while there is nothing to save yet."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
SAME_SIGNAL_SECONDS = 1.0
"""A launcher passes on what the terminal has sent to all its processes: two of SIGINT so close together are one."""


@contextmanager
def stop_on_signals(request_stop: Callable[[int], None]) -> Iterator[None]:
    """The first signal calls `request_stop` with its number; a second one of SIGINT interrupts at once."""
    first: float | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if first is None:
            first = now
            request_stop(number)
        elif number == signal.SIGINT and now - first > SAME_SIGNAL_SECONDS:
            raise KeyboardInterrupt

    before = _handle_all(handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_on_signals(code: int) -> None:
    """From now on the first signal ends the process with this code, wherever it is. `stop_on_signals` has precedence.

    Not by an exception: one that comes while modules are loaded, or from a callback of theirs, may be swallowed.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        sys.stderr.write(f"stopped by {name}, outside training: nothing was to be saved; the same command goes on\n")
        sys.stderr.flush()
        os._exit(code)

    _handle_all(handle)


def _handle_all(handle: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Set a handler for all signals that stop a run; returns those before."""
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    numbers = [n for n in numbers if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]  # as nohup wants it
    try:
        return {number: signal.signal(number, handle) for number in numbers}
    except ValueError:  # not the main thread: whoever runs us there handles signals
        return {}
