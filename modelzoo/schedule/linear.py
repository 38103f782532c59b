"""Linear decay, then constant."""

from typing import Literal

from modelzoo.schedule.base import Count, Fraction, ScheduleConfig, decay_progress


class LinearConfig(ScheduleConfig):
    """Falls in a straight line to `final_lr_ratio`, and stays there."""

    kind: Literal["linear"] = "linear"
    decay_steps: Count | None = None
    """Steps of decay after the warm-up. Neither this nor `decay_tokens`: until the run's end."""
    decay_tokens: Count | None = None
    """Tokens of decay after the warm-up."""
    final_lr_ratio: Fraction = 0.0
    """Final learning rate as a fraction of `optimizer.lr`."""

    def after_warmup(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        progress = decay_progress(self.decay_steps, self.decay_tokens, step, total_steps, tokens_per_step)
        return 1.0 + (self.final_lr_ratio - 1.0) * progress
