"""Writes every record as TensorBoard scalars under `tensorboard/`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from modelzoo.trainer.callbacks.base import Callback, CallbackConfig, Sample

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from modelzoo.trainer.trainer import Trainer


class TensorBoardConfig(CallbackConfig):
    """Look at it with `tensorboard --logdir runs`."""

    kind: Literal["tensorboard"] = "tensorboard"

    def build(self) -> Callback:
        return TensorBoard()


class TensorBoard(Callback):
    may_fail = True
    writer: "SummaryWriter | None" = None

    def on_train_start(self, trainer: "Trainer") -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(
            str(trainer.run_dir / "tensorboard"), purge_step=trainer.step + 1 if trainer.step else None
        )

    def on_rollback(self, trainer: "Trainer") -> None:
        """Mark what was written of later steps as void, in the file itself: the names of two of one second may sort in
        the wrong order."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

        assert self.writer is not None
        assert self.writer.file_writer is not None
        start = SessionLog(status=SessionLog.START)
        self.writer.file_writer.add_event(Event(session_log=start), step=trainer.step + 1)

    def on_record(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        assert self.writer is not None
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float):  # no hashes, nothing that is n/a
                self.writer.add_scalar(_tag(name), value, record["step"])

    def on_samples(self, trainer: "Trainer", samples: "Sequence[Sample]") -> None:
        assert self.writer is not None
        for number, sample in enumerate(samples):
            text = "\n".join(f"    {line}" for line in (sample.prompt + sample.text).splitlines())  # as it is
            self.writer.add_text(f"samples/{number}", text, trainer.step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def _tag(name: str) -> str:
    """`validation/loss/code` of `validation_loss/code`, `gradient_norm/blocks.0` as it is, `train/…` of the others."""
    if name.startswith("validation_"):
        return f"validation/{name.removeprefix('validation_')}"
    return name if "/" in name else f"train/{name}"
