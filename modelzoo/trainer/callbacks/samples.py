"""Has the model continue prompts while it trains, so that one can read how it is coming along."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from modelzoo.base_config import FromList, Problem, UserError
from modelzoo.trainer.callbacks.base import Callback, CallbackConfig, Sample
from modelzoo.trainer.json_lines import append_lines, keep_lines

if TYPE_CHECKING:
    from torch import Tensor

    from modelzoo.trainer.trainer import Trainer

FILE_NAME = "samples.jsonl"


class SamplesConfig(CallbackConfig):
    """Writes `samples.jsonl` (step, tokens, prompt, text, seed), and hands the texts to the loggers. On several ranks
    the main one gathers the weights for it, and holds a copy of them on its device meanwhile."""

    kind: Literal["samples"] = "samples"
    prompts: Annotated[tuple[str, ...], FromList] = ()
    """Texts to continue; an empty one begins a document."""
    prompts_file: str | None = None
    """A text file with more of them, a prompt a line."""
    every_steps: Annotated[int, Field(gt=0)] | None = None
    """Updates between two times; null does it at the end only."""
    at_start: bool = False
    """Also before the first update."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 64
    """Tokens to add at most; the end of a document ends it sooner."""
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.8
    """0 is greedy: always the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 0.95
    """Draw from the likeliest tokens of this total mass; null from all."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the first prompt; the next ones have seed + 1, … The same at every step."""

    def build(self) -> Callback:
        return Samples(self)

    def problems(self) -> Iterator[Problem]:
        if not self.prompts and self.prompts_file is None:
            yield Problem(("prompts",), 'is empty, and there is no prompts_file; name a prompt: prompts: ["Once"]')
        if self.temperature == 0 and self.top_p is not None:
            yield Problem(("top_p",), "has no effect with temperature=0 (greedy); set it to null")
        if 0 < self.temperature < 0.001:
            yield Problem(("temperature",), "is too small to divide by; use 0 (greedy), or at least 0.001")


class Samples(Callback):
    every_rank = True

    def __init__(self, config: SamplesConfig):
        self.config = config
        self.prompts: list[str] = []
        self.sampled: int | None = None
        """The newest step that was."""

    def on_train_start(self, trainer: "Trainer") -> None:
        config = self.config
        self.prompts = [*config.prompts, *(_read(Path(config.prompts_file)) if config.prompts_file else ())]
        trainer.generator.check(self.prompts, config.max_new_tokens)
        if trainer.parallel.is_main:  # what came after the checkpoint is about to come again
            keep_lines(trainer.run_dir / FILE_NAME, lambda line: bool(trainer.step) and line["step"] <= trainer.step)

    def on_rollback(self, trainer: "Trainer") -> None:
        if trainer.parallel.is_main:
            keep_lines(trainer.run_dir / FILE_NAME, lambda line: line["step"] <= trainer.step)

    def on_ready(self, trainer: "Trainer") -> None:
        if self.config.at_start and trainer.step == 0:
            self._sample(trainer)

    def on_step_end(self, trainer: "Trainer") -> None:
        every = self.config.every_steps
        if (every and trainer.step % every == 0) or trainer.step == trainer.total_steps:
            self._sample(trainer)

    def on_train_end(self, trainer: "Trainer") -> None:
        if trainer.is_complete and self.sampled != trainer.step:  # a run that has ended early
            self._sample(trainer)

    def state(self) -> dict[str, Any]:
        return {"sampled": self.sampled}

    def load_state(self, state: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> None:
        self.sampled = state["sampled"]

    def _sample(self, trainer: "Trainer") -> None:
        import torch

        self.sampled = trainer.step
        config, parallel = self.config, trainer.parallel
        weights = None if parallel.mesh is None else parallel.whole(trainer.model.state_dict().items())
        if not parallel.is_main:
            return
        try:
            texts = trainer.generator(
                self.prompts, config.max_new_tokens, config.temperature, config.top_p, config.seed, weights
            )
        except (torch.OutOfMemoryError, ValueError) as error:  # a run does not end for want of a sample
            print(f"note: step {trainer.step:,}: no samples ({error})", file=sys.stderr)
            return
        samples = [
            Sample(prompt, text, config.seed + number)
            for number, (prompt, text) in enumerate(zip(self.prompts, texts, strict=True))
        ]
        place = {"step": trainer.step, "tokens": trainer.step * trainer.tokens_per_step}
        append_lines(trainer.run_dir / FILE_NAME, [place | sample._asdict() for sample in samples])
        trainer.publish_samples(samples)


def _read(path: Path) -> Sequence[str]:
    try:
        prompts = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); name a text file, a prompt a line") from None
    if not prompts:
        raise UserError(f"{path}: is empty; write a prompt on each line")
    return prompts
