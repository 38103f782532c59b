"""Linear decay, then constant."""

from collections.abc import Iterator
from typing import Literal

from modelzoo.base_config import Problem
from modelzoo.schedule.base import Count, Fraction, ScheduleConfig
from modelzoo.schedule.decay import decay_end, decay_problems, decay_progress


class LinearConfig(ScheduleConfig):
    """Falls in a straight line to `final_lr_ratio`, and stays there."""

    kind: Literal["linear"] = "linear"
    decay_steps: Count | None = None
    """Steps of decay after the warm-up. Neither this nor `decay_tokens`: until the run's end."""
    decay_tokens: Count | None = None
    """Tokens of decay after the warm-up."""
    final_lr_ratio: Fraction = 0.0
    """Final learning rate as a fraction of `optimizer.lr`."""
    may_outlast_run: bool = False
    """The run may end before the decay does, and then at a higher rate; else that is an error."""

    def after_warmup(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        progress = decay_progress(self, step, total_steps, tokens_per_step)
        return 1.0 + (self.final_lr_ratio - 1.0) * progress

    def turns_after_warmup(self, total_steps: int, tokens_per_step: int) -> list[int]:
        return decay_end(self, total_steps, tokens_per_step)

    def problems_after_warmup(self, total_steps: int, tokens_per_step: int) -> Iterator[Problem]:
        return decay_problems(self, self.final_lr_ratio, self.may_outlast_run, total_steps, tokens_per_step)
