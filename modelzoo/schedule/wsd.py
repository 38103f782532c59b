"""Warm-up, stable, decay (Hu et al. 2024, MiniCPM): constant until a decay at the run's end."""

from collections.abc import Iterator
from typing import Literal

from modelzoo.base_config import Problem
from modelzoo.schedule.base import Count, Fraction, ScheduleConfig, written
from modelzoo.schedule.decay import fallen, final_progress, final_steps


class WSDConfig(ScheduleConfig):
    """Constant after the warm-up; the last `decay_steps` of the run fall to `final_lr_ratio`.

    The stable part does not depend on the run's length, so a run can be prolonged from before its decay.
    """

    kind: Literal["wsd"] = "wsd"
    decay_steps: Count | None = None
    """Steps of the final decay. Give this or `decay_tokens`; neither: the last tenth of the run."""
    decay_tokens: Count | None = None
    """Tokens of the final decay."""
    decay_shape: Literal["linear", "cosine", "one_minus_sqrt"] = "linear"
    """How the final decay falls. one_minus_sqrt: fast at first, 1 - √progress (Hägele et al. 2024, arXiv:2405.18392,
    who find it best)."""
    final_lr_ratio: Fraction = 0.0
    """Final learning rate as a fraction of `optimizer.lr`."""

    def after_warmup(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        progress = final_progress(self, "decay", step, total_steps, tokens_per_step)
        return 1.0 if progress is None else fallen(self.decay_shape, 1.0, self.final_lr_ratio, progress)

    def turns_after_warmup(self, total_steps: int, tokens_per_step: int) -> list[int]:
        return [total_steps - final_steps(self, "decay", total_steps, tokens_per_step)]

    def problems_after_warmup(self, total_steps: int, tokens_per_step: int) -> Iterator[Problem]:
        decay = final_steps(self, "decay", total_steps, tokens_per_step)
        if decay > total_steps:
            key, remedy = written(self, "decay", max(1, total_steps // 10), tokens_per_step)
            yield Problem(
                (key,),
                f"the decay takes {decay:,} steps and {total_steps:,} are left for it: it would begin in the middle of "
                f"its fall; use {remedy} (a tenth), or train longer",
            )
