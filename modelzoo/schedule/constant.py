"""Constant after the warm-up."""

from typing import Literal

from modelzoo.schedule.base import ScheduleConfig


class ConstantConfig(ScheduleConfig):
    """`optimizer.lr` throughout, after the warm-up."""

    kind: Literal["constant"] = "constant"

    def after_warmup(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        return 1.0
