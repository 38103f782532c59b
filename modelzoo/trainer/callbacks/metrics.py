"""Writes every record as a line of JSON to `metrics.jsonl`, and what the run is made on to `machine.json`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelzoo.files import write_text
from modelzoo.trainer.callbacks.base import Callback, CallbackConfig
from modelzoo.trainer.json_lines import append_lines, keep_lines, read_lines
from modelzoo.trainer.machine import MACHINE, machine

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
        """Drop the records of steps after the checkpoint: they are about to be taken again. What the checkpoint knows
        to be left out stays so."""
        path, left_out = trainer.run_dir / FILE_NAME, trainer.guard.found

        def stays(record: dict[str, Any]) -> bool:
            if "event" in record:
                first, last = record["skipped_batches"]
                return any(begin <= first and last <= end for begin, end in left_out)
            return bool(trainer.step) and record["step"] <= trainer.step

        keep_lines(path, stays)
        path.touch()
        write_text(trainer.run_dir / MACHINE, json.dumps(machine(trainer)) + "\n")

    def on_rollback(self, trainer: "Trainer") -> None:
        """The same, but batches that were left out stay so."""
        keep_lines(trainer.run_dir / FILE_NAME, lambda record: record["step"] <= trainer.step or "event" in record)

    def on_bad_update(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        self.on_record(trainer, record)

    def on_record(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        append_lines(trainer.run_dir / FILE_NAME, [record])


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a run."""
    return read_lines(path)
