"""What a callback is: a config with a `kind`, and an object with the hooks the trainer calls."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from modelzoo.base_config import Config, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from modelzoo.trainer.trainer import Trainer


class Callback:
    """Hooks, in the order of a run. Observers must not change what the trainer computes."""

    every_rank = False
    """Called on all ranks, because what it does takes all of them; an observer is called on the main rank alone."""
    turn = 2
    """At each hook the callbacks of a lower number come first, those of one number in the order of the YAML.
    0: makes what others look at. 1: publishes what others wait for. 3: saves what the others know.
    4: sums up what they wrote."""
    due = False
    """A stop cut short what this step asks for: a resumed run does it first. The same on every rank."""
    clock_part = "other"
    """Where its time is counted: save, evaluate, or other."""
    may_fail = False
    """An error of its own is printed once and the run goes on without it: a logger, which needs a network or a disk.
    Only for observers. What is wrong in the user's input (UserError) ends the run all the same."""

    def on_train_start(self, trainer: "Trainer") -> None:
        """Once, after a checkpoint was loaded (or not), before the first update."""

    def on_ready(self, trainer: "Trainer") -> None:
        """Once, when all have started: for what is to be done before the first update of this process."""

    def on_step_start(self, trainer: "Trainer") -> None:
        """Before every update; `trainer.step` does not count it yet."""

    def on_gradients(self, trainer: "Trainer") -> None:
        """Between the backward pass and the optimizer, also where the update is then refused. The gradients are
        whole (of all micro-batches and ranks), without a loss scale, and not clipped yet."""

    def on_step_end(self, trainer: "Trainer") -> None:
        """After every update; `trainer.step` counts it already."""

    def on_record(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        """When numbers are published: `step` and `tokens` always, then `loss …` or `validation_loss …`."""

    def on_samples(self, trainer: "Trainer", samples: "Sequence[Sample]") -> None:
        """When the model has continued prompts; on the main rank alone."""

    def on_bad_update(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        """When batches are left out because of a bad update: `event` (skip or rollback), `reason`, `bad_step`,
        `bad_batch`, `skipped_batches` [first, last]."""

    def settle(self, trainer: "Trainer") -> None:
        """Before the run goes back to its newest checkpoint: finish what is under way, a save say."""

    def on_rollback(self, trainer: "Trainer") -> None:
        """After it went back there; `trainer.step` is the checkpoint's, and later steps are taken again."""

    def on_train_end(self, trainer: "Trainer") -> None:
        """Once, after the last update, also of a run that a signal stopped (`trainer.is_complete` tells)."""

    def close(self) -> None:
        """Always and last, also after an error."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs of this callback, as JSON; it is saved in each checkpoint."""
        return {}

    def tensors(self) -> "dict[str, Tensor]":
        """The same of tensors, spread over the ranks as the model's are; needs `every_rank`."""
        return {}

    def load_state(self, state: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> None:
        """Bring back both, from a checkpoint that has them; the tensors are whole. Before `on_train_start`."""

    def ends_run(self, trainer: "Trainer") -> str | None:
        """Why the run is over before its last step, in a sentence; the same on every rank. None: it is not."""
        return None


class Sample(NamedTuple):
    """A prompt that the model has continued."""

    prompt: str
    text: str
    seed: int
    """Of its draws; equal seeds and weights give equal text."""


class CallbackConfig(Config):
    """Each kind stands in a file of its own, with its config and its callback."""

    def problems_in_length(self, total_steps: int) -> Iterator[Problem]:
        """What is wrong with this callback in a run of so many updates."""
        return iter(())

    def build(self) -> Callback:
        """The callback this config describes."""
        raise NotImplementedError

    def problems_in_run(
        self, name: str, callbacks: "Mapping[str, CallbackConfig]", sets: Sequence[str]
    ) -> Iterator[Problem]:
        """What is wrong with it, by the `name` it has, beside a run's `callbacks` and the names of its validation
        `sets` (one empty name: the only one). Paths are relative to this section."""
        return iter(())
