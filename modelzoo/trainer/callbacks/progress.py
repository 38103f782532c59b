"""Shows how the run is going: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from modelzoo.trainer.callbacks.base import Callback, CallbackConfig, Sample
from modelzoo.trainer.metric_names import described_losses

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from modelzoo.trainer.trainer import Trainer

SHOWN_CHARACTERS = 160
"""Of a sample; `samples.jsonl` has all of it."""


class ProgressConfig(CallbackConfig):
    """Loss, tokens/s, MFU and time left; every validation result stays as a line of its own."""

    kind: Literal["progress"] = "progress"
    every_seconds: Annotated[float, Field(ge=0)] = 10.0
    """Where the output is no terminal: seconds between two lines."""

    def build(self) -> Callback:
        return Progress(self)


class Progress(Callback):
    def __init__(self, config: ProgressConfig):
        self.config = config
        self.bar: Bar | None = None

    def on_train_start(self, trainer: "Trainer") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.console = Console(stderr=True, highlight=False)
        self.started, self.first_step, self.last_line = time.monotonic(), trainer.step, 0.0
        if self.console.is_terminal:
            columns = (
                BarColumn(bar_width=12),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(compact=True),
            )
            self.bar = Bar(*columns, console=self.console)
            self.task = self.bar.add_task("", total=trainer.total_steps, completed=trainer.step, numbers="starting")
            self.bar.start()

    def on_step_end(self, trainer: "Trainer") -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.step)

    def on_bad_update(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        first, last = record["skipped_batches"]
        batches = f"batch {first} is" if first == last else f"batches {first} to {last} are"
        back = f", back to step {trainer.step:,}" if record["event"] == "rollback" else ""
        self.console.print(f"step {record['bad_step']:,}: {record['reason']}: not applied{back}; {batches} left out")
        self.on_step_end(trainer)

    def on_record(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        for line in described_losses(record):
            self.console.print(f"step {record['step']:,}: {line}")
        if "loss" not in record:
            return
        if self.bar is not None:
            self.bar.update(self.task, numbers=f"loss {record['loss']:.3f} · {_speed(record, ' · ')}")
        elif time.monotonic() - self.last_line >= self.config.every_seconds or record["step"] == trainer.total_steps:
            self.last_line = time.monotonic()
            self.console.print(
                f"step {record['step']:,}/{trainer.total_steps:,}: loss {record['loss']:.4f}, "
                f"lr {record['lr']:.2g}, {_speed(record, ', ')}, {self._time_left(trainer)} left",
                soft_wrap=True,
            )

    def on_samples(self, trainer: "Trainer", samples: "Sequence[Sample]") -> None:
        for sample in samples:
            line = " ".join(f"{sample.prompt}▸{sample.text}".split())
            shown = "".join(c if c.isprintable() else "�" for c in line)  # nothing that a terminal would obey
            short = shown if len(shown) <= SHOWN_CHARACTERS else shown[: SHOWN_CHARACTERS - 1] + "…"
            self.console.print(f"step {trainer.step:,}: {short}", markup=False)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _time_left(self, trainer: "Trainer") -> str:
        done = max(1, trainer.step - self.first_step)
        seconds = (time.monotonic() - self.started) / done * (trainer.total_steps - trainer.step)
        hours, minutes = int(seconds // 3600), int(seconds // 60) % 60
        if hours >= 10:
            return f"{hours:,}h"
        return f"{hours}h{minutes:02d}" if hours else f"{minutes}:{int(seconds) % 60:02d}"


def _speed(record: dict[str, Any], separator: str) -> str:
    """Tokens per second and MFU, each n/a where it is unknown."""
    speed, mfu = record["tokens_per_second"], record["mfu"]
    tokens = "n/a" if speed is None else f"{speed:,.0f}" if speed < 1e5 else f"{speed / 1e3:,.0f}k"
    return f"{tokens} tok/s{separator}MFU " + ("n/a" if mfu is None else f"{mfu:.0%}")
