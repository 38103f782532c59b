"""The ranks of one machine: as many processes of the same command, which end together."""

import atexit
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NoReturn

from modelzoo.cli.child_process import how_it_ended, start
from modelzoo.cli.exit_codes import STOPPED, USERS_FAULT

GRACE_SECONDS = 25.0
"""How long the other ranks may take to end by themselves after one has ended with an error, or was stopped."""
PROMPT_SECONDS = 5.0
"""After which a rank is stopped too, if another was stopped; in training they agree, and end together."""


def is_rank() -> bool:
    """This process is a rank already, of torchrun's or of `run_ranks`."""
    return "RANK" in os.environ


def leave(code: int) -> NoReturn:
    """End this rank, whose work is done, without taking the interpreter apart: a thread of torch.distributed that wants
    the interpreter meanwhile aborts the process, and a run that is complete would have failed."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def run_ranks(arguments: Sequence[str], num_ranks: int) -> int:
    """Run `modelzoo` with these arguments in `num_ranks` processes; their exit code.

    Signals go on to all of them. Where one fails the others are ended, and its code is returned. All end with this
    process, even if it is killed.
    """
    threads = max(1, (os.cpu_count() or 1) // num_ranks)
    common = {
        "WORLD_SIZE": num_ranks,
        "LOCAL_WORLD_SIZE": num_ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": _port(),
    }
    processes: list[subprocess.Popen[bytes]] = []
    errors = [tempfile.TemporaryFile() for _ in range(num_ranks)]  # noqa: SIM115 (read when all have ended)
    for rank in range(num_ranks):
        own = {str(k): str(v) for k, v in {**common, "RANK": rank, "LOCAL_RANK": rank}.items()}
        environment = own if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads), **own}
        out, error = (subprocess.DEVNULL, errors[rank]) if rank else (None, None)
        processes.append(start(arguments, environment, out, error))
    asked: set[int] = set()

    def forward(number: int, _frame: object) -> None:
        asked.add(number)
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {
        n: signal.signal(n, forward) for n in numbers if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN
    }
    try:
        first = _wait(processes)
        codes = [process.returncode for process in processes]
        meant = {0, STOPPED, *(-number for number in asked), *([-signal.SIGTERM] if asked else [])}
        for rank, code in enumerate(codes):  # a rank whose peer has gone fails too, and says only that
            if code not in meant and (rank or code < 0):
                errors[rank].seek(0)
                said = errors[rank].read().decode(errors="replace")
                print(f"rank {rank} has ended with {how_it_ended(code)}\n{said}".rstrip(), file=sys.stderr)
        if USERS_FAULT in codes:
            return USERS_FAULT
        if -first in asked:  # it came before the rank could handle it
            return STOPPED
        return first if first in (0, STOPPED) else 1
    finally:
        for process in processes:
            process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: list["subprocess.Popen[bytes]"]) -> int:
    """Until all have ended, or one has failed and the others had their time. The first code that is not 0."""
    first = 0
    terminate_at = kill_at = float("inf")
    while None in (codes := [process.poll() for process in processes]) and (now := time.monotonic()) < kill_at:
        failed = [code for code in codes if code]
        if failed and not first:
            first = min(failed)  # a signal's is below 0
            kill_at = now + GRACE_SECONDS
            terminate_at = now + (PROMPT_SECONDS if first == STOPPED else 0.0)
        if now >= terminate_at:
            terminate_at = float("inf")
            for process in processes:
                process.terminate()
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.wait()
    return first or min((process.returncode for process in processes if process.returncode), default=0)


def _port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
