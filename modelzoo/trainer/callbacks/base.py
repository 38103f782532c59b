"""What a callback is: a config with a `kind`, and an object with the hooks the trainer calls."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelzoo.base_config import Config

if TYPE_CHECKING:
    from torch import Tensor

    from modelzoo.trainer.trainer import Trainer


class Callback:
    """Hooks, in the order of a run. Observers must not change what the trainer computes."""

    every_rank = False
    """Called on all ranks, because what it does takes all of them; an observer is called on the main rank alone."""

    def on_train_start(self, trainer: "Trainer") -> None:
        """Once, after a checkpoint was loaded (or not), before the first update."""

    def on_step_end(self, trainer: "Trainer") -> None:
        """After every update; `trainer.step` counts it already."""

    def on_record(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        """When numbers are published: `step` and `tokens` always, then `loss …` or `validation_loss …`."""

    def on_bad_update(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        """When batches are left out because of a bad update: `event` (skip or rollback), `reason`, `bad_step`,
        `bad_batch`, `skipped_batches` [first, last]."""

    def settle(self, trainer: "Trainer") -> None:
        """Before the run goes back to its newest checkpoint: finish what is under way, a save say."""

    def on_rollback(self, trainer: "Trainer") -> None:
        """After it went back there; `trainer.step` is the checkpoint's, and later steps are taken again."""

    def on_train_end(self, trainer: "Trainer") -> None:
        """Once, after the last update, also of a run that a signal stopped."""

    def close(self) -> None:
        """Always and last, also after an error."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs of this callback, as JSON; it is saved in each checkpoint."""
        return {}

    def tensors(self) -> "dict[str, Tensor]":
        """The same of tensors, spread over the ranks as the model's are; needs `every_rank`."""
        return {}

    def load_state(self, state: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> None:
        """Bring back both, from a checkpoint that has them."""


class CallbackConfig(Config):
    """Each kind stands in a file of its own, with its config and its callback."""

    def build(self) -> Callback:
        """The callback this config describes."""
        raise NotImplementedError
