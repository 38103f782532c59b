"""Infinite learning rate (Ibrahim et al. 2024, arXiv:2403.08763): cooldown, constant, annealing."""

from collections.abc import Iterator
from typing import Literal

from modelzoo.base_config import Problem
from modelzoo.schedule.base import Count, PositiveFraction, ScheduleConfig, steps_of, written
from modelzoo.schedule.decay import fallen, final_progress, final_steps


class InfiniteConfig(ScheduleConfig):
    """Falls from the peak to a constant rate that no run's length enters, and anneals exponentially at the run's end.

    A later corpus continues from a checkpoint before the annealing, at the constant rate: this kind with the same
    rates and `cooldown_steps: 0`; or kind wsd with the constant rate as its `optimizer.lr`.
    """

    kind: Literal["infinite"] = "infinite"
    cooldown_steps: Count | None = None
    """Steps from the peak to the constant rate. Give this or `cooldown_tokens`."""
    cooldown_tokens: Count | None = None
    """Tokens from the peak to the constant rate."""
    cooldown_shape: Literal["cosine", "inverse_sqrt"] = "cosine"
    """How the cooldown falls; inverse_sqrt is fast at first."""
    constant_lr_ratio: PositiveFraction = 0.5
    """The constant rate as a fraction of `optimizer.lr`."""
    annealing_steps: Count | None = None
    """Steps of the final annealing. Give this or `annealing_tokens`; neither: the last tenth of the run; 0: none."""
    annealing_tokens: Count | None = None
    """Tokens of the final annealing."""
    final_lr_ratio: PositiveFraction = 0.1
    """Final learning rate as a fraction of `optimizer.lr`. Above 0, which an exponential never reaches."""

    def after_warmup(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        cooldown = self._cooldown(tokens_per_step)
        if step < cooldown:
            return fallen(self.cooldown_shape, 1.0, self.constant_lr_ratio, step / cooldown)
        progress = final_progress(self, "annealing", step, total_steps, tokens_per_step) or 0.0
        return float(self.constant_lr_ratio * (self.final_lr_ratio / self.constant_lr_ratio) ** progress)

    def turns_after_warmup(self, total_steps: int, tokens_per_step: int) -> list[int]:
        annealing = final_steps(self, "annealing", total_steps, tokens_per_step)
        return [self._cooldown(tokens_per_step), total_steps - annealing]

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.final_lr_ratio > self.constant_lr_ratio:
            yield Problem(
                ("final_lr_ratio",),
                f"is above constant_lr_ratio={self.constant_lr_ratio}, from which the annealing falls; use less",
            )

    def problems_after_warmup(self, total_steps: int, tokens_per_step: int) -> Iterator[Problem]:
        cooldown = steps_of(self, "cooldown", tokens_per_step)
        annealing = final_steps(self, "annealing", total_steps, tokens_per_step)
        key, remedy = written(self, "cooldown", max(1, total_steps // 4), tokens_per_step)
        if cooldown is None:
            yield Problem((key,), f"give cooldown_steps or cooldown_tokens, e.g. {remedy}, a quarter of this run")
        elif cooldown + annealing > total_steps:
            yield Problem(
                (key,),
                f"cooldown and annealing take {cooldown:,} + {annealing:,} steps and {total_steps:,} are left for "
                f"them; shorten one (e.g. {remedy}), or train longer",
            )

    def _cooldown(self, tokens_per_step: int) -> int:
        cooldown = steps_of(self, "cooldown", tokens_per_step)
        assert cooldown is not None, "problems_after_warmup asks for it"
        return cooldown
