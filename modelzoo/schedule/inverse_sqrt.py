"""Inverse square root of the step (Vaswani et al. 2017; Raffel et al. 2020, T5): falls for ever, ever slower."""

from collections.abc import Iterator
from typing import Literal

from modelzoo.base_config import Problem
from modelzoo.schedule.base import Count, ScheduleConfig, steps_of


class InverseSqrtConfig(ScheduleConfig):
    """√(t / (t + steps after the warm-up)), whatever the run's length: it may end, or go on, anywhere."""

    kind: Literal["inverse_sqrt"] = "inverse_sqrt"
    timescale_steps: Count | None = None
    """t: after three times as many steps the rate has halved. Neither this nor `timescale_tokens`: the warm-up's
    length, which is the schedule of the original Transformer."""
    timescale_tokens: Count | None = None
    """t in tokens."""

    def after_warmup(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        timescale = steps_of(self, "timescale", tokens_per_step)
        timescale = steps_of(self, "warmup", tokens_per_step) if timescale is None else timescale
        assert timescale, "problems() asks for one"
        return float((timescale / (timescale + step)) ** 0.5)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        given = [self.timescale_steps, self.timescale_tokens]
        if 0 in given or (given == [None, None] and not (self.warmup_steps or self.warmup_tokens)):
            key = "timescale_tokens" if self.timescale_tokens == 0 else "timescale_steps"
            yield Problem((key,), f"give {key} above 0, or a warm-up, whose length then takes its place")
