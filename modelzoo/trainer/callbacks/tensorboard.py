"""Writes every record as TensorBoard scalars under `tensorboard/`."""

from typing import TYPE_CHECKING, Any, Literal

from modelzoo.trainer.callbacks.base import Callback, CallbackConfig

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from modelzoo.trainer.trainer import Trainer


class TensorBoardConfig(CallbackConfig):
    """Look at it with `tensorboard --logdir runs`."""

    kind: Literal["tensorboard"] = "tensorboard"

    def build(self) -> Callback:
        return TensorBoard()


class TensorBoard(Callback):
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
            if name != "step":
                group = "validation" if name.startswith("validation_") else "train"
                tag = f"{group}/{name.removeprefix('validation_')}"
                self.writer.add_scalar(tag, value, record["step"])

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
