"""Cosine decay, then constant (Loshchilov and Hutter 2016, one cycle; GPT-3, GPT-J and GPT-NeoX)."""

import math
from typing import Literal

from modelzoo.schedule.base import Count, Fraction, ScheduleConfig, decay_progress


class CosineConfig(ScheduleConfig):
    """Falls along half a cosine to `final_lr_ratio`, and stays there."""

    kind: Literal["cosine"] = "cosine"
    decay_steps: Count | None = None
    """Steps of decay after the warm-up. Neither this nor `decay_tokens`: until the run's end."""
    decay_tokens: Count | None = None
    """Tokens of decay after the warm-up."""
    final_lr_ratio: Fraction = 0.1
    """Final learning rate as a fraction of `optimizer.lr`."""

    def after_warmup(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        progress = decay_progress(self.decay_steps, self.decay_tokens, step, total_steps, tokens_per_step)
        return self.final_lr_ratio + (1.0 - self.final_lr_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))
