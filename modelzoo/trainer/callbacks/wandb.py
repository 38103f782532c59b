"""Sends every record to Weights & Biases. Needs the extra `wandb`."""

import secrets
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

import yaml

from modelzoo.base_config import UserError
from modelzoo.trainer.callbacks.base import Callback, CallbackConfig

if TYPE_CHECKING:
    from torch import Tensor

    from modelzoo.trainer.trainer import Trainer


class WandbConfig(CallbackConfig):
    """A resumed run goes on under the id that its checkpoint holds. Without a network the run goes on without it."""

    kind: Literal["wandb"] = "wandb"
    project: str = "modelzoo"
    """Where the run is filed."""
    entity: str | None = None
    """The team or user that the project belongs to; null for your default one."""
    mode: Literal["online", "offline"] = "online"
    """offline writes to `wandb/` in the run's folder, for `wandb sync`."""

    def build(self) -> Callback:
        try:
            version("wandb")
        except PackageNotFoundError:
            raise UserError(
                "callbacks of kind wandb need a package that is not installed: pip install 'modelzoo[wandb]' "
                "(or pip install wandb)"
            ) from None
        return Wandb(self)


class Wandb(Callback):
    may_fail = True

    def __init__(self, config: WandbConfig):
        self.config = config
        self.run_id = secrets.token_hex(4)
        self.run: Any = None

    def on_train_start(self, trainer: "Trainer") -> None:
        import wandb

        self.run = wandb.init(
            project=self.config.project,
            entity=self.config.entity,
            mode=self.config.mode,
            id=self.run_id,
            resume="allow" if self.config.mode == "online" else None,
            name=trainer.run_dir.name,
            dir=str(trainer.run_dir),
            config=yaml.safe_load(trainer.documents["config.yaml"]),
            settings=wandb.Settings(console="off", silent=True),
        )

    def on_record(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        numbers = {name: value for name, value in record.items() if name != "step" and value is not None}
        self.run.log(numbers, step=record["step"])

    def close(self) -> None:
        if self.run is not None:
            self.run.finish()

    def state(self) -> dict[str, Any]:
        return {"run_id": self.run_id}

    def load_state(self, state: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> None:
        self.run_id = state["run_id"]
