"""Saves checkpoints: every so many steps, at the end, and when a signal stops the run."""

import shutil
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from modelzoo.base_config import UserError
from modelzoo.trainer.callbacks.base import Callback, CallbackConfig

if TYPE_CHECKING:
    from modelzoo.trainer.trainer import Trainer


class CheckpointConfig(CallbackConfig):
    """A checkpoint holds the weights, the optimizer's state, the random state and the loader's position."""

    kind: Literal["checkpoint"] = "checkpoint"
    every_steps: Annotated[int, Field(gt=0)] | None = None
    """Updates between two checkpoints; null saves at the end only."""
    keep_last: Annotated[int, Field(gt=0)] | None = 2
    """Checkpoints to keep, the newest; null keeps all."""

    def build(self) -> Callback:
        return Checkpoint(self)


class Checkpoint(Callback):
    every_rank = True
    clock_part = "save"

    def __init__(self, config: CheckpointConfig):
        self.config = config
        self.saved: tuple[int, bool] | None = None

    def on_train_start(self, trainer: "Trainer") -> None:
        self.saved = (trainer.step, trainer.evaluation_due)
        if not trainer.parallel.is_main:
            return
        needed = 3 * sum(p.numel() * p.element_size() for p in trainer.model.parameters())  # weights, two moments
        free = shutil.disk_usage(trainer.run_dir).free
        if free < needed:  # now, not after hours of training
            raise UserError(
                f"{trainer.run_dir}: {free / 2**20:,.0f} MiB are free, a checkpoint takes {needed / 2**20:,.0f} MiB; "
                "free some space, or choose another output_dir"
            )

    def on_step_end(self, trainer: "Trainer") -> None:
        if self.config.every_steps and trainer.step % self.config.every_steps == 0:
            self._save(trainer)

    def on_train_end(self, trainer: "Trainer") -> None:
        if self.saved != (trainer.step, trainer.evaluation_due):
            self._save(trainer)

    def _save(self, trainer: "Trainer") -> None:
        from modelzoo.trainer.checkpoint import checkpoints_of, remove_checkpoint
        from modelzoo.trainer.run_state import save

        folder = save(trainer)
        self.saved = (trainer.step, trainer.evaluation_due)
        if self.config.keep_last is not None and trainer.parallel.is_main:
            older = [other for other in checkpoints_of(trainer.run_dir) if other < folder]
            surplus = max(0, len(older) + 1 - self.config.keep_last)
            for old in older[:surplus]:  # what is newer than this one was found damaged, and is left alone
                remove_checkpoint(old)
