"""`modelzoo train --restarts N`: the run in a process of its own, started again when it crashes."""

import signal
import time
from collections.abc import Sequence
from pathlib import Path

from modelzoo.cli.arguments import say
from modelzoo.cli.child_process import how_it_ended, start
from modelzoo.cli.exit_codes import DONE, STOPPED, USERS_FAULT

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""Before the first restart, and at most; each pause is twice the one before."""


def supervise(arguments: Sequence[str], restarts: int, run_dir: Path) -> int:
    """Run `modelzoo` with these arguments until it is done; its exit code.

    After a crash (a signal that it does not handle, or exit code 1) it is started again, `restarts` times without a
    new checkpoint in between: progress makes the count begin anew. Signals are passed on, and end it all.
    """
    asked: list[int] = []
    process = None

    def forward(number: int, _frame: object) -> None:
        asked.append(number)
        if process is not None and process.poll() is None:
            process.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    before = {n: signal.signal(n, forward) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    failures, newest = 0, _newest_step(run_dir)
    try:
        while not asked:
            process = start(arguments, {})
            if asked:  # it came while there was no process to pass it on to
                process.send_signal(asked[-1])
            code = process.wait()
            if code in (DONE, USERS_FAULT, STOPPED):
                return code
            if asked:
                return STOPPED if -code in asked else 1  # it came before the child could handle it
            if (step := _newest_step(run_dir)) > newest:
                failures, newest = 0, step
            failures += 1
            ended = f"the run has ended with {how_it_ended(code)}"
            if failures > restarts:
                say(f"{ended}; it is not started again after {restarts} restarts without a new checkpoint")
                return 1
            pause = min(FIRST_PAUSE_SECONDS * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS)
            say(f"{ended}; restart {failures} of {restarts} (since the checkpoint of step {newest:,}) in {pause:g} s")
            _sleep(pause, asked)
        say("stopped between two restarts; the same command goes on")
        return STOPPED
    finally:
        if process is not None:
            process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _newest_step(run_dir: Path) -> int:
    """The step of the newest checkpoint that lies there, 0 where none does. Without torch, unlike those who read it."""
    names = (folder.name.removeprefix("step_") for folder in (run_dir / "checkpoints").glob("step_*"))
    return max((int(name) for name in names if name.isdigit()), default=0)


def _sleep(seconds: float, until: Sequence[object]) -> None:
    """For so long, or until there is something in the list."""
    deadline = time.monotonic() + seconds
    while not until and (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
