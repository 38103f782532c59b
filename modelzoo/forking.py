"""Forks that lose no signal."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

HELD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def signals_held() -> Iterator[None]:
    """In a process of one thread, signals wait until this is left: Python's hooks around a fork swallow what a handler
    raises, Ctrl-C among it.

    The child begins with them held, and takes them by `release`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD) if hasattr(signal, "pthread_sigmask") else None
    try:
        yield
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def release() -> None:
    """In a child: take signals again."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
