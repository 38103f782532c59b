"""Warm-up, stable, decay (Hu et al. 2024, MiniCPM): constant until a linear decay at the run's end."""

from collections.abc import Iterator
from typing import Literal

from modelzoo.base_config import Problem
from modelzoo.schedule.base import Count, Fraction, ScheduleConfig, in_steps


class WSDConfig(ScheduleConfig):
    """Constant after the warm-up; the last `decay_steps` of the run fall linearly to `final_lr_ratio`.

    The stable part does not depend on the run's length, so a run can be prolonged from before its decay.
    """

    kind: Literal["wsd"] = "wsd"
    decay_steps: Count | None = None
    """Steps of the final decay. Give this or `decay_tokens`; neither: the last tenth of the run."""
    decay_tokens: Count | None = None
    """Tokens of the final decay."""
    final_lr_ratio: Fraction = 0.0
    """Final learning rate as a fraction of `optimizer.lr`."""

    def problems_in_run(self, total_steps: int, tokens_per_step: int) -> Iterator[Problem]:
        yield from super().problems_in_run(total_steps, tokens_per_step)
        warmup = in_steps(self.warmup_steps, self.warmup_tokens, tokens_per_step) or 0
        decay = in_steps(self.decay_steps, self.decay_tokens, tokens_per_step) or 0
        if warmup < total_steps < warmup + decay:
            key = "decay_tokens" if self.decay_tokens is not None else "decay_steps"
            yield Problem(
                (key,),
                f"the decay takes {decay:,} steps, but the run has {total_steps - warmup:,} after its warm-up: it "
                "would begin in the middle of its fall; shorten it, or train longer",
            )

    def after_warmup(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        decay = in_steps(self.decay_steps, self.decay_tokens, tokens_per_step)
        decay = max(1, total_steps // 10) if decay is None else decay
        into_decay = step - (total_steps - decay)
        if into_decay < 0:
            return 1.0
        progress = min(1.0, (into_decay + 1) / max(1, decay))
        return 1.0 + (self.final_lr_ratio - 1.0) * progress
