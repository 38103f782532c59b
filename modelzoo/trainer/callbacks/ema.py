"""Keeps an exponential moving average of the weights beside them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from modelzoo.base_config import Problem
from modelzoo.trainer.callbacks.base import Callback, CallbackConfig

if TYPE_CHECKING:
    from torch import Tensor

    from modelzoo.trainer.trainer import Trainer


class EmaConfig(CallbackConfig):
    """The average is kept in fp32, spread over the ranks as the weights are, and saved in every checkpoint as
    `callback_<name>.safetensors`; `modelzoo generate CHECKPOINT --weights <name>` reads it."""

    kind: Literal["ema"] = "ema"
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """What the average keeps of itself each time: average = decay · average + (1 - decay) · weights. It looks back
    about every_steps / (1 - decay) updates."""
    every_steps: Annotated[int, Field(gt=0)] = 1
    """Updates between two of these."""
    start_step: Annotated[int, Field(ge=0)] = 0
    """Until this update the average is a copy of the weights."""

    def build(self) -> Callback:
        return Ema(self)

    def problems_in_run(
        self, name: str, callbacks: Mapping[str, CallbackConfig], sets: Sequence[str]
    ) -> Iterator[Problem]:
        if not name.isidentifier() or name == "model":
            yield Problem(
                (),
                "its name goes into those of files and numbers, and so must be of letters, digits and underscores, "
                "and not be model (which is the weights themselves)",
            )


class Ema(Callback):
    every_rank = True
    turn = 0

    def __init__(self, config: EmaConfig):
        self.config = config
        self.average: dict[str, Tensor] = {}
        """By the parameter's name, this rank's part of each, as the parameter is spread."""
        self._saved: Mapping[str, Tensor] = {}

    def on_train_start(self, trainer: "Trainer") -> None:
        """Begin with what a checkpoint had, or with the weights."""
        from modelzoo.trainer.parallel import part_of

        for name, parameter in trainer.model.named_parameters():
            whole = self._saved.get(name)
            value = parameter.detach().clone() if whole is None else part_of(whole, parameter)
            self.average[name] = value.float()
        self._saved = {}

    def on_rollback(self, trainer: "Trainer") -> None:
        self.on_train_start(trainer)

    def on_step_end(self, trainer: "Trainer") -> None:
        import torch

        from modelzoo.trainer.parallel import own_part

        copying = trainer.step <= self.config.start_step
        if trainer.step % self.config.every_steps and not copying:
            return
        with torch.no_grad():
            averages = [own_part(average) for average in self.average.values()]
            weights = [own_part(parameter.detach()).float() for parameter in trainer.model.parameters()]
            torch._foreach_lerp_(averages, weights, 1.0 if copying else 1 - self.config.decay)

    def tensors(self) -> "dict[str, Tensor]":
        return dict(self.average)

    def load_state(self, state: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> None:
        self._saved = tensors

    @contextmanager
    def in_place_of_weights(self, trainer: "Trainer") -> Iterator[None]:
        """The model has the averaged weights while the block runs; every rank enters it."""
        self._swap(trainer)
        try:
            yield
        finally:
            self._swap(trainer)

    def _swap(self, trainer: "Trainer") -> None:
        """Exchange average and weights bit for bit, with the memory for one more tensor."""
        import torch

        from modelzoo.trainer.parallel import own_part

        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                weight, average = own_part(parameter.detach()), own_part(self.average[name])
                kept = weight.clone()
                weight.copy_(average)
                average.copy_(kept)
