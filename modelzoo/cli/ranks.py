"""The ranks of one machine: as many processes of the same command, which end together."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

USERS_FAULT, STOPPED = 2, 3
"""Exit codes that say what became of the run, not of one rank."""
START = "from modelzoo.cli.main import main; main()"
GRACE_SECONDS = 30.0
"""How long the other ranks may take to end by themselves after one has ended with an error."""


def is_rank() -> bool:
    """This process is a rank already, of torchrun's or of `run_ranks`."""
    return "RANK" in os.environ


def run_ranks(arguments: Sequence[str], num_ranks: int) -> int:
    """Run `modelzoo` with these arguments in `num_ranks` processes; their exit code.

    Signals go on to all of them. Where one fails the others are ended, and its code is returned.
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
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, **own}
        command = [sys.executable, "-c", START, *arguments]
        out, error = (subprocess.DEVNULL, errors[rank]) if rank else (None, None)
        started = subprocess.Popen(command, env=environment, stdout=out, stderr=error, start_new_session=True)
        processes.append(started)

    def forward(number: int, _frame: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        _wait(processes)
        codes = [process.returncode for process in processes]
        for rank, code in enumerate(codes):  # a rank whose peer has gone fails too, and says only that
            if rank and code not in (0, STOPPED, -signal.SIGTERM, -signal.SIGKILL):
                errors[rank].seek(0)
                print(f"rank {rank}: {errors[rank].read().decode(errors='replace')}", file=sys.stderr)
        return next((code for code in (USERS_FAULT, STOPPED) if code in codes), int(any(codes)))
    finally:
        for process in processes:
            process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: list["subprocess.Popen[bytes]"]) -> None:
    """Until all have ended, or one has failed and the others had their time."""
    deadline = float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        failed = [process for process in processes if process.returncode]
        if failed and deadline == float("inf"):
            deadline = time.monotonic() + GRACE_SECONDS
            if failed[0].returncode != STOPPED:
                for process in processes:
                    process.terminate()
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.wait()


def _port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
