"""What a run does about a bad update, where it does not stop: passes the batch over, or goes back to a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from modelzoo.trainer.bad_updates import LIMIT_BATCHES, BadUpdateError, TrainingError
from modelzoo.trainer.checkpoint import latest_checkpoint, read_state, step_folder

if TYPE_CHECKING:
    from modelzoo.trainer.trainer import Trainer


def recover(trainer: "Trainer", error: BadUpdateError, random_state: dict[str, Tensor]) -> None:
    """Leave a bad update out. `random_state` is that from before it: a run that never sees the batch has the same.

    Every rank calls this, and comes to the same. Raises TrainingError where there have been too many.
    """
    guard, policy = trainer.guard, trainer.config.bad_updates.policy
    trainer.optimizer.zero_grad(set_to_none=True)
    bad_step, bad_batch = trainer.step + 1, guard.batch_number(trainer.step)
    if not guard.count_bad(bad_batch):
        raise TrainingError(
            f"step {bad_step} (batch {bad_batch}): {error.reason}; the update was not applied. It is bad update "
            f"{guard.config.limit + 1} within {LIMIT_BATCHES:,} batches, and trainer.bad_updates.limit="
            f"{guard.config.limit}: a new run needs a lower optimizer.lr, a longer warm-up, another "
            "accelerator.precision, or other data"
        )
    folder = _go_back(trainer) if policy == "rollback" else None
    if folder is None:  # no checkpoint yet: the weights are good, so passing the batch over is all there is to do
        trainer.accelerator.set_random_state(random_state)
        first = bad_batch
    else:
        first = max(guard.batch_number(trainer.step), bad_batch + 1 - guard.config.rollback_batches)
    guard.leave_out(first, bad_batch)
    if folder is not None:
        trainer._call("on_rollback")
    record = {
        "step": trainer.step + 1,  # the first update that this may change: a resumed run has both, or takes both again
        "tokens": (trainer.step + 1) * trainer.tokens_per_step,
        "event": "skip" if folder is None else "rollback",
        "reason": error.reason,
        "bad_step": bad_step,
        "bad_batch": bad_batch,
        "skipped_batches": [first, bad_batch],
    }
    trainer._call("on_bad_update", record)


def _go_back(trainer: "Trainer") -> Path | None:
    """Bring a trainer to its run's newest good checkpoint; None where there is none."""
    from modelzoo.trainer.run_state import restore

    trainer._call("settle")
    trainer.parallel.barrier()
    newest = latest_checkpoint(trainer.run_dir)[0] if trainer.parallel.is_main else None
    step = trainer.parallel.any(read_state(newest)["step"] if newest is not None else 0)
    if step == 0:
        return None
    folder = step_folder(trainer.run_dir, step)
    found, bad_batches = trainer.guard.found, trainer.guard.bad_batches
    restore(trainer, folder)
    trainer.guard.remember(found, bad_batches)  # what came after that checkpoint
    for callback in trainer.callbacks.values():
        callback.due = False  # it was done when the run came here first
    return folder
