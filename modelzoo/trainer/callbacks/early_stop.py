"""Ends a run whose validation loss has stopped falling."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from modelzoo.base_config import Problem
from modelzoo.trainer.callbacks.base import Callback, CallbackConfig
from modelzoo.trainer.callbacks.evaluate import EvaluateConfig

if TYPE_CHECKING:
    from torch import Tensor

    from modelzoo.trainer.trainer import Trainer


class EarlyStopConfig(CallbackConfig):
    """The run ends as one that has reached its last step: with a checkpoint, and exit code 0. Started again it says
    so; a larger `patience` lets it go on. The learning rate has then not run its course."""

    kind: Literal["early_stop"] = "early_stop"
    metric: str = "validation_loss"
    """A number that an `evaluate` callback publishes: of a named set `validation_loss/<name>`. Less is better."""
    patience: Annotated[int, Field(gt=0)]
    """Evaluations in a row that may bring nothing better."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """By how much a value must be less than the best one, to be better."""

    def build(self) -> Callback:
        return EarlyStop(self)

    def problems_in_run(
        self, name: str, callbacks: Mapping[str, CallbackConfig], sets: Sequence[str]
    ) -> Iterator[Problem]:
        evaluations = [config for config in callbacks.values() if isinstance(config, EvaluateConfig)]
        published = [metric for config in evaluations for metric in config.metrics(sets)]
        if not published:
            yield Problem((), "needs a callback of the kind evaluate, and there is none")
        elif self.metric not in published:
            yield Problem(("metric",), f"no callback publishes it; there are {', '.join(published)}")
        elif not any(self.metric in config.metrics(sets) and config.every_steps for config in evaluations):
            yield Problem(("metric",), "is measured at the end of the run only; give its evaluate callback every_steps")


class EarlyStop(Callback):
    every_rank = True

    def __init__(self, config: EarlyStopConfig):
        self.config = config
        self.best: float | None = None
        self.best_step = 0
        self.without_better = 0
        """Evaluations since."""

    def on_train_start(self, trainer: "Trainer") -> None:
        from modelzoo.base_config import UserError

        metric, _, of_set = self.config.metric.partition("/")
        if metric.endswith("bits_per_byte") and trainer.validation[of_set].bytes_per_token is None:
            raise UserError(
                f"early_stop: {self.config.metric} is not to be had, since not all text of that set is in its loss; "
                "use the loss"
            )

    def on_record(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        value = record.get(self.config.metric)
        if value is None:
            return
        if value < (math.inf if self.best is None else self.best - self.config.min_delta):
            self.best, self.best_step, self.without_better = value, trainer.step, 0
        else:  # also one that is no number
            self.without_better += 1

    def ends_run(self, trainer: "Trainer") -> str | None:
        if self.without_better < self.config.patience:
            return None
        name = next(name for name, callback in trainer.callbacks.items() if callback is self)
        best = "been a number"
        if self.best is not None:
            by = f" by {self.config.min_delta:g}" if self.config.min_delta else ""
            best = f"fallen{by} below {self.best:.4f} (of step {self.best_step:,})"
        return (
            f"{self.config.metric} has not {best} in {self.without_better} evaluations; to go on, use "
            f"callbacks.{name}.patience={self.without_better + self.config.patience}, or ~callbacks.{name}"
        )

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "without_better": self.without_better}

    def load_state(self, state: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> None:
        self.best, self.best_step, self.without_better = state["best"], state["best_step"], state["without_better"]
