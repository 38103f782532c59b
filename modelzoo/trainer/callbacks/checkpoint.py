"""Saves checkpoints: every so many steps, at the end, and when a signal stops the run."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from modelzoo.base_config import Problem, UserError
from modelzoo.trainer.callbacks.base import Callback, CallbackConfig

if TYPE_CHECKING:
    from modelzoo.trainer.checkpoint_writer import CheckpointWriter
    from modelzoo.trainer.remote_copy import RemoteCopy
    from modelzoo.trainer.trainer import Trainer

PAUSES_SECONDS = (1.0, 5.0)
"""Before the copy that failed at the end of a run is tried again."""


class CheckpointConfig(CallbackConfig):
    """A checkpoint holds the weights, the optimizer's state, the random state and the loader's position."""

    kind: Literal["checkpoint"] = "checkpoint"
    every_steps: Annotated[int, Field(gt=0)] | None = None
    """Updates between two checkpoints; null saves at the end only."""
    keep_last: Annotated[int, Field(gt=0)] | None = 2
    """Checkpoints to keep, the newest whole ones; null keeps all."""
    keep_every_steps: Annotated[int, Field(gt=0)] | None = None
    """Checkpoints of multiples of so many updates are never deleted; a multiple of `every_steps`."""
    asynchronous: bool = True
    """Writes beside the steps that follow, from a copy in the CPU's memory; false lets the run wait, and needs none."""
    copy_to: str | None = None
    """A path or a URL of fsspec (`s3://bucket/runs`) that each checkpoint is copied to, below the run's name; a run
    without a checkpoint here, or with older ones, goes on from there."""

    def problems(self) -> Iterator[Problem]:
        if self.keep_every_steps is None:
            return
        if self.keep_last is None:
            yield Problem(("keep_every_steps",), "says what keep_last may not delete, and keep_last=null keeps all")
        if self.every_steps is None or self.keep_every_steps % self.every_steps:
            yield Problem(
                ("keep_every_steps",),
                f"={self.keep_every_steps} is no multiple of every_steps={self.every_steps}, the steps that are "
                "saved; use one",
            )

    def build(self) -> Callback:
        return Checkpoint(self)


class Checkpoint(Callback):
    every_rank = True
    turn = 3
    clock_part = "save"

    def __init__(self, config: CheckpointConfig):
        self.config = config
        self.saved: tuple[int, bool] | None = None
        self.writer: CheckpointWriter | None = None
        self.copies: RemoteCopy | None = None
        self._whole: set[Path] = set()
        self._copied: set[Path] = set()
        self._not_copied: str | None = None
        self._last_step = 0

    def on_train_start(self, trainer: "Trainer") -> None:
        from modelzoo.trainer.checkpoint_writer import CheckpointWriter
        from modelzoo.trainer.remote_copy import RemoteCopy

        self.saved = (trainer.step, trainer.evaluation_due)
        self._last_step = trainer.total_steps
        trainer.parallel.from_main(lambda: _require_space(trainer))
        if self.config.copy_to is not None and trainer.parallel.is_main:
            self.copies = RemoteCopy(self.config.copy_to, trainer.run_dir.name)
        self.writer = CheckpointWriter(trainer.parallel, self.config.asynchronous)

    def on_step_end(self, trainer: "Trainer") -> None:
        assert self.writer is not None
        self.writer.settle(wait=False)
        if self.config.every_steps and trainer.step % self.config.every_steps == 0:
            self._save(trainer)

    def on_train_end(self, trainer: "Trainer") -> None:
        from modelzoo.trainer.checkpoint import step_folder

        self._last_step = trainer.step
        if self.saved != (trainer.step, trainer.evaluation_due):
            self._save(trainer)
        self.settle(trainer)
        if trainer.stop_signal is None and self.config.copy_to is not None:  # else the next start copies it
            trainer.parallel.from_main(lambda: self._copy_at_last(step_folder(trainer.run_dir, trainer.step)))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    def settle(self, trainer: "Trainer") -> None:
        """Wait until what was saved is there; raise what went wrong. Every rank calls this."""
        assert self.writer is not None
        self.writer.settle(wait=True)

    def _save(self, trainer: "Trainer") -> None:
        from modelzoo.trainer.run_state import save

        assert self.writer is not None
        save(trainer, self.writer, then=self._on_saved)
        self.saved = (trainer.step, trainer.evaluation_due)

    # beside the training, on the main rank

    def _on_saved(self, folder: Path) -> None:
        """Delete what is no longer to be kept, and copy."""
        from modelzoo.trainer.checkpoint import checkpoints_of, remove_checkpoint, step_folder, step_of

        run_dir = folder.parents[1]
        self._whole.add(folder)
        self._copied.discard(folder)
        steps = [step_of(other.name) for other in checkpoints_of(run_dir)]
        for step in self._superfluous(steps, folder, lambda step: self._is_whole(step_folder(run_dir, step))):
            remove_checkpoint(step_folder(run_dir, step))
        if self.copies is not None:
            self._copy(self.copies, folder)

    def _superfluous(self, steps: list[int], newest: Path, is_whole: Callable[[int], bool]) -> list[int]:
        from modelzoo.trainer.checkpoint import step_of
        from modelzoo.trainer.retention import superfluous

        return superfluous(steps, step_of(newest.name), self.config.keep_last, self.config.keep_every_steps, is_whole)

    def _is_whole(self, folder: Path) -> bool:
        from modelzoo.trainer.checkpoint import damage

        if folder not in self._whole and damage(folder) is None:
            self._whole.add(folder)
        return folder in self._whole

    def _copy(self, copies: "RemoteCopy", newest: Path) -> None:
        """Copy every whole checkpoint that is not there yet, the newest first; then delete there what may go."""
        from modelzoo.trainer.checkpoint import checkpoints_of, step_of
        from modelzoo.trainer.remote_copy import described

        self._not_copied = None
        try:
            for folder in reversed(checkpoints_of(newest.parents[1])):
                if folder not in self._copied and self._is_whole(folder):
                    if not copies.holds(folder):
                        copies.copy(folder)
                    self._copied.add(folder)
            for step in self._superfluous(copies.steps(), newest, lambda step: True):
                copies.remove(step)
        except Exception as error:  # of whatever library is behind the protocol; the run goes on
            self._not_copied = f"{newest} is not copied to {copies.url}: {described(error)}"
            again = "at the next save" if step_of(newest.name) < self._last_step else "now"
            print(f"note: {self._not_copied}; it is tried again {again}", file=sys.stderr)

    def _copy_at_last(self, newest: Path) -> None:
        """Raises UserError where the last checkpoint cannot be copied: the run is not what was asked for."""
        for pause in PAUSES_SECONDS:
            if self.copies is not None and self._not_copied is not None:
                time.sleep(pause)
                self._copy(self.copies, newest)
        if self._not_copied is not None:
            raise UserError(f"{self._not_copied}. It is whole here; the same command tries again")


def _require_space(trainer: "Trainer") -> None:
    """Raises UserError now, not after hours of training."""
    moments = 2 * sum(p.nbytes for p in trainer.model.parameters() if p.requires_grad)
    needed = moments + sum(tensor.nbytes for tensor in trainer.model.state_dict().values())
    free = shutil.disk_usage(trainer.run_dir).free
    if free < needed:
        raise UserError(
            f"{trainer.run_dir}: {free / 2**20:,.0f} MiB are free, a checkpoint takes {needed / 2**20:,.0f} MiB; "
            "free some space, or choose another output_dir"
        )
