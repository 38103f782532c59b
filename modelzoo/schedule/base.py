"""What every learning-rate schedule is: a pure function of the step, so that resuming needs no state."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from modelzoo.base_config import Config, FromFloat, Problem

Count = Annotated[int, FromFloat, Field(ge=0, le=10**18)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class ScheduleConfig(Config):
    """Linear warm-up from 0, then what the kind does. Durations are given in steps or in tokens."""

    warmup_steps: Count | None = None
    """Steps of linear warm-up. Give this or `warmup_tokens`; neither is no warm-up."""
    warmup_tokens: Count | None = None
    """Tokens of linear warm-up, rounded up to whole steps."""

    def factor(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        """The learning rate of update `step` (0 is the first) as a fraction of `optimizer.lr`.

        `total_steps` is the run's length; `tokens_per_step` turns durations in tokens into steps.
        """
        warmup = in_steps(self.warmup_steps, self.warmup_tokens, tokens_per_step) or 0
        if step < warmup:
            return (step + 1) / warmup
        return self.after_warmup(step - warmup, total_steps - warmup, tokens_per_step)

    def after_warmup(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        """The same, with both counts starting at the end of the warm-up."""
        raise NotImplementedError

    def problems_in_run(self, total_steps: int, tokens_per_step: int) -> Iterator[Problem]:
        """What does not fit a run of this length. Paths are relative to the schedule's section."""
        warmup = in_steps(self.warmup_steps, self.warmup_tokens, tokens_per_step) or 0
        key, unit = ("warmup_tokens", tokens_per_step) if self.warmup_tokens is not None else ("warmup_steps", 1)
        if warmup >= total_steps:
            yield Problem(
                (key,),
                f"the warm-up takes {warmup:,} steps and the run has {total_steps:,}: the learning rate never reaches "
                f"its peak; use schedule.{key}={total_steps // 10 * unit} (a tenth of the run), or train longer",
            )

    def problems(self) -> Iterator[Problem]:
        yield from both_given(self, "warmup")
        yield from both_given(self, "decay")


def in_steps(steps: int | None, tokens: int | None, tokens_per_step: int) -> int | None:
    """A duration in steps, from whichever unit was given; None where none was."""
    if tokens is not None:
        return -(-tokens // tokens_per_step)
    return steps


def both_given(config: Config, prefix: str) -> Iterator[Problem]:
    """The problem of a duration given twice, in steps and in tokens."""
    steps, tokens = getattr(config, f"{prefix}_steps", None), getattr(config, f"{prefix}_tokens", None)
    if steps is not None and tokens is not None:
        message = f"give {prefix}_steps or {prefix}_tokens, not both ({prefix}_tokens=null drops this one)"
        yield Problem((f"{prefix}_tokens",), message)


def decay_progress(
    decay_steps: int | None, decay_tokens: int | None, step: int, total_steps: int, tokens_per_step: int
) -> float:
    """How far a decay that starts at step 0 has come: 0 at its start, 1 at its end and after."""
    length = in_steps(decay_steps, decay_tokens, tokens_per_step)
    length = total_steps if length is None else length
    return min(1.0, step / length) if length > 0 else 1.0
