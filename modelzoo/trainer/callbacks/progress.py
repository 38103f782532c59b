"""Shows how the run is going: a bar on a terminal, plain lines elsewhere."""

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from modelzoo.trainer.callbacks.base import Callback, CallbackConfig

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

    from modelzoo.trainer.trainer import Trainer


class ProgressConfig(CallbackConfig):
    """Loss, tokens/s and time left; every validation result stays as a line of its own."""

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
                BarColumn(bar_width=20),
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
        if "validation_loss" in record:
            line = f"step {record['step']:,}: validation loss {record['validation_loss']:.4f}"
            if "validation_bits_per_byte" in record:
                line += f", {record['validation_bits_per_byte']:.4f} bits per byte"
            self.console.print(line)
        elif self.bar is not None:
            numbers = f"loss {record['loss']:.3f} · {record['tokens_per_second']:,.0f} tok/s"
            self.bar.update(self.task, numbers=numbers)
        elif time.monotonic() - self.last_line >= self.config.every_seconds or record["step"] == trainer.total_steps:
            self.last_line = time.monotonic()
            self.console.print(
                f"step {record['step']:,}/{trainer.total_steps:,}: loss {record['loss']:.4f}, "
                f"lr {record['lr']:.3g}, {record['tokens_per_second']:,.0f} tokens/s, {self._time_left(trainer)} left"
            )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _time_left(self, trainer: "Trainer") -> str:
        done = max(1, trainer.step - self.first_step)
        seconds = (time.monotonic() - self.started) / done * (trainer.total_steps - trainer.step)
        hours, minutes = int(seconds // 3600), int(seconds // 60) % 60
        return f"{hours} h {minutes:02d} min" if hours else f"{minutes}:{int(seconds) % 60:02d}"
