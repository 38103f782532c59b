"""Runs a command and measures it whole: wall time from start to exit, and the memory of all its processes."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SAMPLE_SECONDS = 0.05


@dataclass(frozen=True)
class Measured:
    """One run of a command."""

    seconds: float
    """Wall time, start-up included."""
    peak_bytes: int | None
    """Largest sum of the proportional set sizes (PSS) seen: memory shared by n processes counts 1/n in each.
    None where it was not asked for, or where there is no /proc."""
    returncode: int
    """Of the command; negative: the signal that ended it."""
    output: str
    """Its stdout and stderr."""


def run(
    command: Sequence[str], environment: Mapping[str, str], directory: Path, timeout: float, sample_memory: bool
) -> Measured:
    """Run `command` in `directory` in a session of its own, and wait for it at most `timeout` seconds.

    Sampling reads the page tables of every process 20 times a second, which costs time: runs that are timed
    go without. A process belongs to the tree by its session, so that one whose parent has ended counts too.
    """
    log = directory / "output.log"
    peak: list[int] = []
    done = threading.Event()
    with log.open("wb") as stream:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        sampler = threading.Thread(target=_sample, args=(process.pid, peak, done))
        if sample_memory and PROC.is_dir():
            sampler.start()
        try:
            returncode = process.wait(timeout)
        except subprocess.TimeoutExpired:
            returncode = -signal.SIGKILL
        finally:
            seconds = time.perf_counter() - start
            done.set()
            _end_session(process)
    if sampler.ident is not None:
        sampler.join()
    return Measured(seconds, max(peak, default=None), returncode, log.read_text(errors="replace"))


def _end_session(process: subprocess.Popen) -> None:
    """Nothing of a run, stopped or ended, may disturb the next one."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while PROC.is_dir() and (left := session_members(process.pid)):
        for pid in left:  # those that made a process group of their own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _sample(session: int, peak: list[int], done: threading.Event) -> None:
    while not done.wait(SAMPLE_SECONDS):
        peak.append(sum(map(_proportional_bytes, session_members(session))))


def session_members(session: int) -> list[int]:
    """Ids of the processes of a session, without those that have ended and only wait to be noticed."""
    members = []
    for entry in os.listdir(PROC):
        if not entry.isdigit():
            continue
        try:
            # "pid (name) state parent group session ...": the name may hold spaces and brackets
            fields = (PROC / entry / "stat").read_bytes().rpartition(b")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == session and fields[0] not in b"ZX":
            members.append(int(entry))
    return members


def _proportional_bytes(pid: int) -> int:
    try:
        for line in (PROC / str(pid) / "smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:  # it has ended
        pass
    return 0


def busy_elsewhere(seconds: float = 0.3) -> float | None:
    """Share of the machine's processor time that was taken during `seconds` of doing nothing here, 0 to 1."""
    if not (PROC / "stat").exists():
        return None
    before = _processor_times()
    time.sleep(seconds)
    total, idle = (after - earlier for after, earlier in zip(_processor_times(), before, strict=True))
    return 1 - idle / total if total else 0.0


def _processor_times() -> tuple[int, int]:
    times = [int(field) for field in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(times), times[3] + times[4]
