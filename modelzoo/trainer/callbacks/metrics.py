"""Writes every record as a line of JSON to `metrics.jsonl`."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelzoo.files import write_text
from modelzoo.trainer.callbacks.base import Callback, CallbackConfig

if TYPE_CHECKING:
    from modelzoo.trainer.trainer import Trainer

FILE_NAME = "metrics.jsonl"


class MetricsConfig(CallbackConfig):
    """The record of a run that programs read; a resumed run continues it without doubled steps."""

    kind: Literal["metrics"] = "metrics"

    def build(self) -> Callback:
        return Metrics()


class Metrics(Callback):
    def on_train_start(self, trainer: "Trainer") -> None:
        """Drop the records of steps after the checkpoint: they are about to be taken again."""
        _keep(trainer, lambda record: bool(trainer.step) and record["step"] <= trainer.step)

    def on_rollback(self, trainer: "Trainer") -> None:
        """The same, but batches that were left out stay so."""
        _keep(trainer, lambda record: record["step"] <= trainer.step or "event" in record)

    def on_bad_update(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        self.on_record(trainer, record)

    def on_record(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        with (trainer.run_dir / FILE_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: _in_json(value) for name, value in record.items()}) + "\n")


def _in_json(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them, and for what is unknown."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _keep(trainer: "Trainer", wanted: Callable[[dict[str, Any]], bool]) -> None:
    path = trainer.run_dir / FILE_NAME
    write_text(path, "".join(json.dumps(record) + "\n" for record in read_metrics(path) if wanted(record)))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a run; a last line that a killed process left unfinished is passed over."""
    records = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
    return records
