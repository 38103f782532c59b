"""Processes of the same program that end when the one that started them does, however it ends."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

BEGIN = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "  # no traceback while modules are loaded
    "from modelzoo.cli.child_process import end_with_parent; end_with_parent(); "
)
START = BEGIN + "from modelzoo.cli.main import main; main()"
LIFELINE = "MODELZOO_LIFELINE"
"""Environment variable: the descriptor of a pipe whose other end the parent holds, and never writes to."""


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    stdout: int | None = None,
    stderr: IO[bytes] | None = None,
    program: str | None = None,
) -> "subprocess.Popen[bytes]":
    """`modelzoo`, or another program, with these arguments, and more in its environment.

    In a session of its own, so that Ctrl-C comes to it through this process alone. Where this process is killed the
    child ends at once: it must not hold on to the run that the user starts anew.
    """
    reading, _writing = os.pipe()  # the other end stays open as long as this process lives
    try:
        return subprocess.Popen(
            [sys.executable, "-c", program or START, *arguments],
            env={**os.environ, **environment, LIFELINE: str(reading)},
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            pass_fds=(reading,),
        )
    finally:
        os.close(reading)


def end_with_parent() -> None:
    """In a child: be killed when the parent is gone."""
    descriptor = os.environ.pop(LIFELINE, None)
    if descriptor is None:
        return

    def wait() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
        os.read(int(descriptor), 1)  # returns at the end of the file: all copies of the other end are closed
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def how_it_ended(code: int) -> str:
    """A return code of subprocess, for people."""
    if code >= 0:
        return f"exit code {code}"
    number: Any = -code
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return name + (" (by the system, if it ran out of memory)" if number == signal.SIGKILL else "")
