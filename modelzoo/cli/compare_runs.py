"""Carries out a study's plan in processes, and shows how far it is."""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from modelzoo.base_config import UserError
from modelzoo.cli.arguments import say
from modelzoo.cli.child_process import BEGIN, how_it_ended, start
from modelzoo.cli.exit_codes import STOPPED
from modelzoo.compare.config import CompareConfig
from modelzoo.compare.execution import Progress, execute, is_finished, read_held_out
from modelzoo.compare.plan import PLAN_NAME, Plan, PlannedRun, make_plan, timed_arms, versions
from modelzoo.compare.rates import choose_rates
from modelzoo.files import write_text
from modelzoo.run_config import RunConfig

HYDRA = BEGIN + "from modelzoo.cli.compare_hydra import job; job()"
"""The program that hydra's launchers run."""
LOG_LINES = 15
"""Of a failed run's log, shown."""
SAY_SECONDS = 60.0
"""Between two lines of progress where there is no terminal."""
SPEED_NAME = "speed.json"


class Execution:
    """A study at work on this machine, or through a launcher of hydra's."""

    def __init__(
        self,
        study: CompareConfig,
        stop: "Stop",
        parallel: int = 1,
        launcher: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.study = study
        self.folder = Path(study.output_dir, study.name)
        self.stop = stop
        self.parallel = parallel
        self.launcher = launcher
        self.options = options

    def seconds_per_step(self) -> dict[str, float] | None:
        """By arm, for a budget of seconds; measured once for a study. None where the budget is another."""
        if self.study.budget.unit != "seconds":
            return None
        say("timing the arms in turn, for their budget")
        arms = {arm.name: arm.config for arm in make_plan(self.study, []).arms}  # each of its own length
        training = self._timed(arms, self.folder / "calibration", rounds=10, new_tokens=0)["training"]
        return {arm: statistics.median(own["step_seconds"]) for arm, own in training.items()}

    def carry_out(self, plan: Plan) -> bool:
        """All runs and timings of a plan, and plan.json; False where it was stopped. UserError where a run fails."""
        searching = plan.lr_runs()
        if not self._execute(plan, searching, "learning rates"):
            return False
        found = {run.name: read_held_out(run.dir, self.study.held_out) or {} for run in searching}
        rates = choose_rates(searching, found) if searching else {}
        for arm, rate in rates.items():
            say(f"{arm}: optimizer.lr={rate:g} is the best of the grid")
        runs = plan.runs(rates)
        before = [is_finished(run, self.study) for run in [*searching, *runs]]
        content = plan.to_json([*searching, *runs], before)
        write_text(self.folder / PLAN_NAME, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        if not self._execute(plan, runs, "runs"):
            return False
        if self.study.speed is not None:
            say("timing the arms in turn")
            settings = self.study.speed.model_dump(exclude={"overrides"})
            self._timed(timed_arms(self.study), self.folder, **settings)
        return not self.stop.asked

    def _timed(self, arms: Mapping[str, RunConfig], folder: Path, **settings: Any) -> dict[str, Any]:
        """What was measured of these arms with these settings before, else what is now."""
        from modelzoo.compare.speed import measure_speed
        from modelzoo.trainer.accelerator import keep_memory_of

        path = folder / SPEED_NAME
        known = {name: config.model_dump(mode="json") for name, config in arms.items()}
        key = json.loads(json.dumps([settings, known, versions()]))
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        if found.get("key") == key:
            return found
        keep_memory_of(next(iter(arms.values())).accelerator)
        found = {**measure_speed(arms, folder, on_round=self._on_round, **settings), "key": key}
        write_text(path, json.dumps(found) + "\n")
        return found

    def _on_round(self, done: int, total: int) -> None:
        if self.stop.asked:
            raise typer.Exit(STOPPED)

    def _execute(self, plan: Plan, runs: Sequence[PlannedRun], what: str) -> bool:
        """False where it was stopped. UserError where one failed."""
        if not runs or self.stop.asked:
            return not self.stop.asked
        paths = {run.name: plan.write_config(run) for run in runs}
        settings = self.folder / "configs" / "measure.json"
        measure = self.study.model_dump(mode="json", include={"held_out", "tasks"})
        write_text(settings, json.dumps(measure) + "\n")
        if self.launcher is not None:
            left = [paths[run.name] for run in runs if not is_finished(run, self.study)]
            if left:
                self._launch(list(dict.fromkeys(left)), settings)
            return not self.stop.asked
        devices = _devices(self.parallel)

        def begin(run: PlannedRun, slot: int) -> "subprocess.Popen[bytes]":
            log = self._log(run)
            log.parent.mkdir(parents=True, exist_ok=True)
            arguments = ["compare-job", str(paths[run.name]), str(settings)]
            with log.open("ab") as file:
                process = start(arguments, devices[slot], stdout=file.fileno(), stderr=file)
            self.stop.processes.append(process)
            if self.stop.asked:
                process.send_signal(self.stop.asked[-1])
            return process

        show = Display(what)
        failed = execute(runs, self.study, begin, self.parallel, show, lambda: bool(self.stop.asked))
        show.close()
        if failed is not None and failed[1] != STOPPED and not self.stop.asked:
            raise UserError(self._failure(*failed))
        return failed is None and not self.stop.asked

    def _launch(self, paths: Sequence[Path], settings: Path) -> None:
        """Through hydra's multirun: each run a job of the launcher."""
        jobs = ",".join(quoted(path.resolve()) for path in paths)
        arguments = [
            *(
                "--multirun",
                f"hydra/launcher={self.launcher}",
                f"+run={jobs}",
                f"+settings={quoted(settings.resolve())}",
            ),
            f"hydra.sweep.dir={quoted((self.folder / 'hydra').resolve())}",
            *self.options,
        ]
        process = start(arguments, {}, stdout=sys.stderr.fileno(), program=HYDRA)  # stdout is kept for results
        self.stop.processes.append(process)
        if code := process.wait():
            if self.stop.asked or code == STOPPED:
                self.stop.asked.append(signal.SIGTERM)
                return
            raise UserError(
                f"--launcher {self.launcher}: hydra has ended with {how_it_ended(code)}; what went wrong stands above "
                "(of plugins that are not installed: pip install hydra-submitit-launcher, hydra-joblib-launcher)"
            )

    def _log(self, run: PlannedRun) -> Path:
        return self.folder / "logs" / f"{run.name}.log"

    def _failure(self, run: PlannedRun, code: int) -> str:
        log = self._log(run)
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:] if log.is_file() else []
        last = "\n".join(f"    {line}" for line in lines)
        return (
            f"{run.dir}: the run of {run.arm} from seed {run.seed} has ended with {how_it_ended(code)}; {log}:\n{last}"
        )


def quoted(path: Path) -> str:
    """A path as a value in hydra's grammar, whatever is in it."""
    escaped = re.sub(r"(\\*)'", lambda found: 2 * found[1] + "\\'", str(path))
    return f"'{escaped}'"


def _devices(parallel: int) -> list[Mapping[str, str]]:
    """The environment of each slot: its part of the accelerators, and of the cores."""
    if parallel == 1:
        return [{}]
    import torch

    threads = str(max(1, (os.cpu_count() or 1) // parallel))
    common = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": threads}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]
    if len(devices) < parallel:
        return [common] * parallel
    each = len(devices) // parallel
    parts = [",".join(devices[slot * each : (slot + 1) * each]) for slot in range(parallel)]
    return [{**common, "CUDA_VISIBLE_DEVICES": part} for part in parts]


class Stop:
    """What the user has asked for by signals, and the processes that hear of it."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, number: int, _frame: object) -> None:
        self.asked.append(number)
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)


@contextmanager
def asked_to_stop() -> Iterator[Stop]:
    """Signals end the study: the runs at work save, and no other begins."""
    stop = Stop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, stop) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    try:
        yield stop
    finally:
        for process in stop.processes:
            if process.poll() is None:
                process.kill()
        for number, handler in before.items():
            signal.signal(number, handler)


class Display:
    """One line that changes on a terminal; elsewhere a line for each finished run, and now and then."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.what = what
        self.clock = clock
        self.finished = -1
        self.said_at = 0.0
        self.on_terminal = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        line = self._line(progress)
        if self.on_terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{line[:width]}", end="", file=sys.stderr, flush=True)
        elif progress.finished != self.finished or self.clock() - self.said_at > SAY_SECONDS:
            say(line)
            self.said_at = self.clock()
        self.finished = progress.finished

    def close(self) -> None:
        """Leaves the terminal on a line of its own."""
        if self.on_terminal:
            print(file=sys.stderr)

    def _line(self, progress: Progress) -> str:
        line = f"{self.what}: {progress.finished} of {progress.total} done"
        left = progress.seconds_left
        if left is not None and progress.finished < progress.total:
            line += f", about {left / 60:.0f} min left" if left > 90 else f", about {left:.0f} s left"
        for name, (step, steps) in progress.running.items():
            line += f"; {name.rsplit('-', 1)[0]} {100 * step // steps} %"
        return line
