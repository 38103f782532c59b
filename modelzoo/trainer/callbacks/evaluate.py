"""Measures the loss on the validation sets: every so many steps and at the end."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from modelzoo.base_config import FromList, Problem
from modelzoo.trainer.callbacks.base import Callback, CallbackConfig
from modelzoo.trainer.callbacks.ema import Ema, EmaConfig
from modelzoo.trainer.json_lines import append_lines, keep_lines
from modelzoo.trainer.metric_names import metric_name

if TYPE_CHECKING:
    from torch import Tensor

    from modelzoo.trainer.evaluation import Evaluation
    from modelzoo.trainer.protocols import ValidationData
    from modelzoo.trainer.trainer import Trainer

FILE_NAME = "evaluations.jsonl"
"""By step and set: which text, the loss, and nats and tokens of each block of rows, for intervals of a difference
between two steps."""
MOST_BLOCKS = 1_000
"""In a line of it: a row is a block where there are so few, else so many neighbours are as make no more."""
METRICS = ("loss", "perplexity", "bits_per_byte")


class EvaluateConfig(CallbackConfig):
    """Publishes `validation_loss`, `validation_perplexity`, and `validation_bits_per_byte` of plain text; of several
    sets `validation_loss/<name>` and so on. Several of these may look at other sets at other steps."""

    kind: Literal["evaluate"] = "evaluate"
    every_steps: Annotated[int, Field(gt=0)] | None = None
    """Updates between two evaluations; null evaluates at the end only."""
    at_start: bool = False
    """Also before the first update."""
    batch_size: Annotated[int, Field(gt=0)] = 16
    """Sequences per forward pass."""
    max_batches: Annotated[int, Field(gt=0)] | None = None
    """Batches to look at, from the beginning of each set; null takes all."""
    sets: Annotated[tuple[str, ...], FromList, Field(min_length=1)] | None = None
    """Names of data.validation.sources; null takes all of them."""
    weights: str | None = None
    """The name of an `ema` callback, whose average is measured in place of the weights: its numbers are called
    `validation_<name>_loss` and so on."""

    def build(self) -> Callback:
        return Evaluate(self)

    def metrics(self, sets: Sequence[str]) -> list[str]:
        """The names of the numbers it publishes in a run with these validation sets."""
        return [metric_name(metric, of_set, self.weights) for of_set in self.sets or sets for metric in METRICS]

    def problems_in_run(
        self, name: str, callbacks: Mapping[str, CallbackConfig], sets: Sequence[str]
    ) -> Iterator[Problem]:
        if not sets:
            message = "needs data.validation, which is null; name a split there, or drop it with ~callbacks."
            yield Problem((), message + name)
        elif self.sets is not None:
            named = "there are " + ", ".join(sets) if any(sets) else "it is one dataset, without a name; leave sets out"
            for missing in [of_set for of_set in self.sets if of_set not in sets or not of_set]:
                yield Problem(("sets",), f"data.validation.sources has no {missing}: {named}")
        for other, config in itertools.takewhile(lambda item: item[0] != name, callbacks.items()):
            theirs = config.metrics(sets) if isinstance(config, EvaluateConfig) else []
            if both := [metric for metric in self.metrics(sets) if metric in theirs]:
                yield Problem((), f"{other} publishes {both[0]} too; give the two other sets, or make them one")
        averages = [other for other, config in callbacks.items() if isinstance(config, EmaConfig)]
        if self.weights is not None and self.weights not in averages:
            there = f"there are: {', '.join(averages)}" if averages else "add one: callbacks.ema={kind: ema}"
            yield Problem(("weights",), f"is not the name of a callback of the kind ema; {there}")


class Evaluate(Callback):
    every_rank = True
    turn = 1
    clock_part = "evaluate"

    def __init__(self, config: EvaluateConfig):
        self.config = config
        self.due = False
        self.evaluated: int | None = None
        """The newest step that was."""

    def on_train_start(self, trainer: "Trainer") -> None:
        """Drop the lines of steps after the checkpoint, and that of a step which is about to be taken again."""
        last = trainer.step - 1 if self.due or trainer.step == 0 else trainer.step
        self._keep_until(last, trainer)

    def on_rollback(self, trainer: "Trainer") -> None:
        self._keep_until(trainer.step, trainer)

    def on_ready(self, trainer: "Trainer") -> None:
        if self.due or (self.config.at_start and trainer.step == 0):
            self._evaluate(trainer)

    def on_step_end(self, trainer: "Trainer") -> None:
        every = self.config.every_steps
        if (every and trainer.step % every == 0) or trainer.step == trainer.total_steps:
            self._evaluate(trainer)

    def on_train_end(self, trainer: "Trainer") -> None:
        """That a run ends early is known only now. Where a signal came too, this stays due."""
        if trainer.ended_early and self.evaluated != trainer.step:
            self._evaluate(trainer)

    def state(self) -> dict[str, Any]:
        return {"due": self.due, "evaluated": self.evaluated}

    def load_state(self, state: "Mapping[str, Any]", tensors: "Mapping[str, Tensor]") -> None:
        self.due, self.evaluated = state["due"], state["evaluated"]

    def _keep_until(self, last_step: int, trainer: "Trainer") -> None:
        if trainer.parallel.is_main:
            mine = self.config.sets or tuple(trainer.validation)
            keep_lines(trainer.run_dir / FILE_NAME, lambda line: line["step"] <= last_step or line["set"] not in mine)

    def _evaluate(self, trainer: "Trainer") -> None:
        """All sets, and one record; where a stop comes meanwhile, none of it, and it stays due."""
        self.due = True
        config, numbers = self.config, dict[str, float]()
        evaluations: dict[str, Evaluation] = {}
        weights: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if config.weights is not None:
            average = trainer.callbacks[config.weights]
            assert isinstance(average, Ema)
            weights = average.in_place_of_weights(trainer)
        with weights:
            for of_set in config.sets or trainer.validation:
                found = trainer.evaluate(of_set, config.batch_size, config.max_batches)
                if found is None:
                    return
                numbers |= {metric_name(key, of_set, config.weights): value for key, value in found.metrics().items()}
                evaluations[of_set] = found
        self.due, self.evaluated = False, trainer.step
        if config.weights is None and trainer.parallel.is_main:
            append_lines(
                trainer.run_dir / FILE_NAME,
                (
                    {"step": trainer.step, "set": name, **text_of(trainer.validation[name]), **in_blocks(own)}
                    for name, own in evaluations.items()
                ),
            )
        trainer.publish(**numbers)


def text_of(data: "ValidationData") -> dict[str, Any]:
    """Which text a line of `evaluations.jsonl` speaks of: a resumed run may have another under the same name."""
    return {"dataset": getattr(data, "fingerprint", None), "split": getattr(data, "split", None)}


def in_blocks(found: "Evaluation") -> dict[str, Any]:
    """An evaluation as a line of `evaluations.jsonl`: at most MOST_BLOCKS blocks, as equal as can be."""
    size = -(-len(found.row_tokens) // MOST_BLOCKS) or 1
    starts = range(0, len(found.row_tokens), size)
    return {
        "loss": found.loss,
        "loss_sums": [round(math.fsum(found.row_sums[start : start + size]), 4) for start in starts],
        "num_tokens": [sum(found.row_tokens[start : start + size]) for start in starts],
        "bytes_per_token": found.bytes_per_token,
    }
