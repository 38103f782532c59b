"""Traces a few updates: what ran when, which operators took longest, and where memory was allocated."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from modelzoo.base_config import Problem
from modelzoo.trainer.callbacks.base import Callback, CallbackConfig

if TYPE_CHECKING:
    from modelzoo.trainer.trainer import Trainer

TOP_OPERATORS = 25


class ProfileConfig(CallbackConfig):
    """Writes to `profile/` in the run's folder: a trace for https://ui.perfetto.dev or chrome://tracing, a table of
    operators, and on CUDA a memory snapshot for https://pytorch.org/memory_viz (a pickle, which modelzoo never
    reads). Traced updates are slower than others."""

    kind: Literal["profile"] = "profile"
    start_step: Annotated[int, Field(ge=0)] = 10
    """Updates before the first one that is traced."""
    num_steps: Annotated[int, Field(gt=0)] = 3
    """Updates that are traced."""

    def problems_in_length(self, total_steps: int) -> Iterator[Problem]:
        if self.start_step + self.num_steps > total_steps:
            message = f"start_step={self.start_step} + num_steps={self.num_steps} exceed the run's {total_steps} steps"
            yield Problem(("start_step",), f"{message}; use smaller ones")

    def build(self) -> Callback:
        return Profile(self)


class Profile(Callback):
    may_fail = True

    def __init__(self, config: ProfileConfig):
        self.config = config
        self.profiler: Any = None
        self.allocations = False

    def on_train_start(self, trainer: "Trainer") -> None:
        if trainer.step > self.config.start_step:
            _say(f"step {trainer.step} is beyond start_step={self.config.start_step}: nothing is traced")
        else:
            self._maybe_begin(trainer)

    def on_step_end(self, trainer: "Trainer") -> None:
        if self.profiler is not None and trainer.step >= self.config.start_step + self.config.num_steps:
            self._finish(trainer)
        else:
            self._maybe_begin(trainer)

    def on_train_end(self, trainer: "Trainer") -> None:
        if self.profiler is not None:  # a stop came in between
            self._finish(trainer)

    def close(self) -> None:
        if self.profiler is not None:
            self.profiler.stop()

    def _maybe_begin(self, trainer: "Trainer") -> None:
        if trainer.step != self.config.start_step or self.profiler is not None:
            return
        from torch.profiler import profile, supported_activities

        self.allocations = trainer.accelerator.record_allocations()
        if not self.allocations:
            _say(f"no memory snapshot on {trainer.accelerator.device.type}; the table of operators tells their memory")
        self.profiler = profile(activities=supported_activities(), profile_memory=True, acc_events=True)
        self.profiler.start()

    def _finish(self, trainer: "Trainer") -> None:
        profiler, self.profiler = self.profiler, None
        profiler.stop()
        folder = trainer.run_dir / "profile"
        folder.mkdir(exist_ok=True)
        name = f"steps_{self.config.start_step + 1:08d}-{trainer.step:08d}"
        if self.allocations:
            trainer.accelerator.write_allocations(folder / f"{name}.memory.pickle")
        profiler.export_chrome_trace(str(folder / f"{name}.json"))
        order = "self_cpu_time_total" if trainer.accelerator.device.type == "cpu" else "self_device_time_total"
        table = profiler.key_averages().table(sort_by=order, row_limit=TOP_OPERATORS, max_name_column_width=60)
        (folder / f"{name}.operators.txt").write_text(table, encoding="utf-8")
        _say(f"steps {self.config.start_step + 1} to {trainer.step} are traced in {folder}/{name}.json")


def _say(line: str) -> None:
    print(f"note: profile: {line}", file=sys.stderr)
