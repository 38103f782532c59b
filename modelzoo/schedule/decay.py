"""Ways down from one learning rate to another, and the checks of a decay that begins after the warm-up."""

import math
from collections.abc import Callable, Iterator

from modelzoo.base_config import Config, Problem
from modelzoo.schedule.base import steps_of, written

STEEPNESS = 10.0
"""Of `inverse_sqrt`: at a tenth of its time it has come 0.42 of its way, where a line has come 0.1."""

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: progress,
    "cosine": lambda progress: 0.5 * (1.0 - math.cos(math.pi * progress)),
    "one_minus_sqrt": math.sqrt,
    "inverse_sqrt": lambda progress: (1.0 - (1.0 + STEEPNESS * progress) ** -0.5) / (1.0 - (1.0 + STEEPNESS) ** -0.5),
}
"""Which part of the way is behind, for a progress in time from 0 to 1."""


def fallen(shape: str, start: float, end: float, progress: float) -> float:
    """The value on the way from `start` to `end`."""
    return start + (end - start) * SHAPES[shape](progress)


def decay_progress(config: Config, step: int, total_steps: int, tokens_per_step: int) -> float:
    """How far a decay that starts at step 0, and takes the run where no length is given, has come: 1 after its end."""
    length = steps_of(config, "decay", tokens_per_step)
    length = total_steps if length is None else length
    return min(1.0, step / length) if length > 0 else 1.0


def decay_end(config: Config, total_steps: int, tokens_per_step: int) -> list[int]:
    """The update at which such a decay is over, where that is within the run."""
    length = steps_of(config, "decay", tokens_per_step)
    return [length] if length is not None and length < total_steps else []


def decay_problems(
    config: Config, final_lr_ratio: float, may_outlast_run: bool, total_steps: int, tokens_per_step: int
) -> Iterator[Problem]:
    """A decay that the run cuts off, and one to zero after which steps are left that would change nothing."""
    length = steps_of(config, "decay", tokens_per_step)
    if length is None or length == total_steps:
        return
    key, remedy = written(config, "decay", total_steps, tokens_per_step)
    if length > total_steps and not may_outlast_run:
        yield Problem(
            (key,),
            f"the decay takes {length:,} steps and {total_steps:,} are left for it: it would be cut off; use {remedy} "
            "(or null: until the end), train longer, or say that this is meant: may_outlast_run=true",
        )
    elif length < total_steps and final_lr_ratio == 0:
        yield Problem(
            (key,),
            f"the decay ends at zero after {length:,} of {total_steps:,} steps, and the rest would change nothing; use "
            f"{remedy} (or null: until the end), a final_lr_ratio above 0, or train for less",
        )


def final_steps(config: Config, name: str, total_steps: int, tokens_per_step: int) -> int:
    """The length of a phase that ends with the run: its `<name>_steps` or `<name>_tokens`, else the last tenth."""
    length = steps_of(config, name, tokens_per_step)
    return max(1, total_steps // 10) if length is None else length


def final_progress(config: Config, name: str, step: int, total_steps: int, tokens_per_step: int) -> float | None:
    """How far such a phase has come: 1 at the run's last step; None before it begins."""
    length = final_steps(config, name, total_steps, tokens_per_step)
    into = step - (total_steps - length)
    return None if into < 0 else min(1.0, (into + 1) / max(1, length))
