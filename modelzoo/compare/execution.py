"""Carries out the plan of a study: run after run, or several at once, each in a process of its own. No torch."""

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from modelzoo.compare.config import CompareConfig, HeldOutConfig, TasksConfig
from modelzoo.compare.plan import HELD_OUT, MEASURE_CODE, PlannedRun, code_sha256
from modelzoo.compare.run_results import held_out_problem

POLL_SECONDS = 0.5
TAIL_BYTES = 4096
"""Of a run's records, in which the newest one is."""
METRICS = "metrics.jsonl"
TASKS = "tasks.json"
"""What the harness said, in a run's folder."""


class Process(Protocol):
    """A run at work."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""


@dataclass
class Progress:
    """Where the execution of a plan stands."""

    total: int
    finished: int = 0
    """Runs that are done, those of before included."""
    running: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Name of a run -> (step, steps)."""
    seconds_left: float | None = None
    """By the FLOPs that finished runs have made a second; None while none is finished."""


def read_held_out(run_dir: Path, held_out: HeldOutConfig) -> dict[str, Any] | None:
    """What was measured of a run with these settings and this code; None where it was not, or is damaged."""
    found = _read(run_dir / HELD_OUT)
    known = {"max_bytes": held_out.max_bytes, "code_sha256": code_sha256(MEASURE_CODE)}
    same = all(found.get(key) == value for key, value in known.items())
    return found if same and held_out_problem(found) is None else None


def read_tasks(run_dir: Path, tasks: TasksConfig) -> dict[str, Any] | None:
    """What the harness said of a run; None where it was not asked, or about other tasks."""
    found = _read(run_dir / TASKS)
    return found if found.get("settings") == tasks.model_dump(mode="json") else None


def is_finished(run: PlannedRun, study: CompareConfig) -> bool:
    """Whether it was trained to its end and measured."""
    found = read_held_out(run.dir, study.held_out)
    if found is None or found.get("step") != run.config.total_steps:
        return False
    return study.tasks is None or read_tasks(run.dir, study.tasks) is not None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("schema") == 1 else {}


def execute(
    runs: Sequence[PlannedRun],
    study: CompareConfig,
    start: Callable[[PlannedRun, int], Process],
    parallel: int,
    on_progress: Callable[[Progress], None],
    stopping: Callable[[], bool],
) -> tuple[PlannedRun, int] | None:
    """Start every run that is not finished, `parallel` at a time: `start(run, slot)`, slots counted from 0.

    Returns the first run that failed and its exit code, after those beside it have ended; None where all are done.
    No other is started once one has failed, or `stopping()` is true.
    """
    finished = {run.name for run in runs if is_finished(run, study)}
    waiting = list({run.name: run for run in runs if run.name not in finished}.values())
    progress = Progress(len({run.name for run in runs}), len(finished))
    slots: dict[int, tuple[PlannedRun, Process]] = {}
    clock = _Clock(waiting)
    failed: tuple[PlannedRun, int] | None = None
    on_progress(progress)
    while slots or (waiting and failed is None and not stopping()):
        while waiting and len(slots) < parallel and failed is None and not stopping():
            slot = next(number for number in range(parallel) if number not in slots)
            slots[slot] = waiting[0], start(waiting[0], slot)
            del waiting[0]
        time.sleep(POLL_SECONDS)
        for slot, (run, process) in list(slots.items()):
            if (code := process.poll()) is None:
                continue
            del slots[slot]
            progress.running.pop(run.name, None)
            if code == 0 and is_finished(run, study):
                progress.finished += 1
                clock.finish(run)
            elif failed is None:
                failed = run, code or 1
        for run, _ in slots.values():
            progress.running[run.name] = (_step(run.dir), run.config.total_steps)
        progress.seconds_left = clock.left(progress.running)
        on_progress(progress)
    return failed


class _Clock:
    """How long the rest will take."""

    def __init__(self, waiting: Sequence[PlannedRun]) -> None:
        self._cost = {run.name: _flops(run) for run in waiting}
        self._begun = time.monotonic()
        self._done = 0.0

    def finish(self, run: PlannedRun) -> None:
        self._done += self._cost.pop(run.name)

    def left(self, running: dict[str, tuple[int, int]]) -> float | None:
        done = self._done + sum(self._cost[name] * step / steps for name, (step, steps) in running.items())
        elapsed = time.monotonic() - self._begun
        if not self._done or not done:
            return None
        return elapsed * max(0.0, sum(self._cost.values()) + self._done - done) / done


def _flops(run: PlannedRun) -> float:
    config = run.config
    return float(config.model.flops_per_token(config.data.seq_len) * config.tokens_per_step * config.total_steps)


def _step(run_dir: Path) -> int:
    """The newest step in the records of a run that may be writing them."""
    try:
        with (run_dir / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        with suppress(ValueError, KeyError, TypeError):  # a line cut in two, or no record
            return int(json.loads(line)["step"])
    return 0
