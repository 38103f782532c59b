"""Measures the loss on the validation split: every so many steps and at the end."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from modelzoo.trainer.callbacks.base import Callback, CallbackConfig

if TYPE_CHECKING:
    from modelzoo.trainer.trainer import Trainer


class EvaluateConfig(CallbackConfig):
    """Publishes `validation_loss`, `validation_perplexity`, and `validation_bits_per_byte` of plain text."""

    kind: Literal["evaluate"] = "evaluate"
    every_steps: Annotated[int, Field(gt=0)] | None = None
    """Updates between two evaluations; null evaluates at the end only."""
    batch_size: Annotated[int, Field(gt=0)] = 16
    """Sequences per forward pass."""
    max_batches: Annotated[int, Field(gt=0)] | None = None
    """Batches to look at, from the split's beginning; null takes the whole split."""

    def build(self) -> Callback:
        return Evaluate(self)


class Evaluate(Callback):
    every_rank = True
    clock_part = "evaluate"

    def __init__(self, config: EvaluateConfig):
        self.config = config

    def on_step_end(self, trainer: "Trainer") -> None:
        every = self.config.every_steps
        if (every and trainer.step % every == 0) or trainer.step == trainer.total_steps:
            metrics = trainer.evaluate(self.config.batch_size, self.config.max_batches)
            trainer.evaluation_due = metrics is None
            if metrics is not None:
                trainer.publish(**{f"validation_{name}": value for name, value in metrics.items()})
