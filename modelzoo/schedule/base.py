"""What every learning-rate schedule is: a pure function of the step, so that resuming needs no state."""

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from modelzoo.base_config import Config, FromFloat, Problem

Count = Annotated[int, FromFloat, Field(ge=0, le=10**18)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]


class ScheduleConfig(Config):
    """Linear warm-up, then what the kind does. Durations are given in steps or in tokens."""

    warmup_steps: Count | None = None
    """Steps of linear warm-up. Give this or `warmup_tokens`; neither is no warm-up."""
    warmup_tokens: Count | None = None
    """Tokens of linear warm-up, rounded up to whole steps."""
    initial_lr_ratio: Fraction = 0.0
    """Where the warm-up begins, as a fraction of `optimizer.lr`. A run that continues from a model whose rate had
    decayed re-warms from there (Gupta et al. 2023, arXiv:2308.04014)."""

    def factor(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        """The learning rate of update `step` (0 is the first) as a fraction of `optimizer.lr`.

        `total_steps` is the run's length; `tokens_per_step` turns durations in tokens into steps.
        """
        warmup = steps_of(self, "warmup", tokens_per_step) or 0
        if step < warmup:
            return self.initial_lr_ratio + (1.0 - self.initial_lr_ratio) * ((step + 1) / warmup)
        return self.after_warmup(step - warmup, total_steps - warmup, tokens_per_step)

    def after_warmup(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        """The same, with both counts starting at the end of the warm-up."""
        raise NotImplementedError

    def turns(self, total_steps: int, tokens_per_step: int) -> list[int]:
        """The updates at which one part of the course passes into the next, for who wants to look at it."""
        warmup = steps_of(self, "warmup", tokens_per_step) or 0
        after = self.turns_after_warmup(total_steps - warmup, tokens_per_step)
        return [*([warmup - 1] if warmup else []), *(warmup + turn for turn in after)]

    def turns_after_warmup(self, total_steps: int, tokens_per_step: int) -> list[int]:
        """The same, counted from the end of the warm-up."""
        return []

    def problems_in_run(self, total_steps: int, tokens_per_step: int) -> Iterator[Problem]:
        """What does not fit a run of this length. Paths are relative to the schedule's section."""
        warmup = steps_of(self, "warmup", tokens_per_step) or 0
        if warmup < total_steps:
            yield from self.problems_after_warmup(total_steps - warmup, tokens_per_step)
            return
        key, remedy = written(self, "warmup", max(1, total_steps // 10), tokens_per_step)
        yield Problem(
            (key,),
            f"the warm-up takes {warmup:,} of {total_steps:,} steps: the learning rate never reaches its peak; use "
            f"{remedy} (a tenth), or train longer",
        )

    def problems_after_warmup(self, total_steps: int, tokens_per_step: int) -> Iterator[Problem]:
        """The same for so many steps after the warm-up."""
        return iter(())

    def problems(self) -> Iterator[Problem]:
        yield from given_twice(self)
        if self.initial_lr_ratio and not (self.warmup_steps or self.warmup_tokens):
            yield Problem(
                ("initial_lr_ratio",),
                "is where the warm-up begins, and there is none; give warmup_steps or warmup_tokens, or leave it out",
            )


def in_steps(steps: int | None, tokens: int | None, tokens_per_step: int) -> int | None:
    """A duration in steps, from whichever unit was given; None where none was."""
    if tokens is not None:
        return -(-tokens // tokens_per_step)
    return steps


def steps_of(config: Config, name: str, tokens_per_step: int) -> int | None:
    """The duration that a config's `<name>_steps` or `<name>_tokens` say, in steps; None where neither does."""
    return in_steps(getattr(config, f"{name}_steps"), getattr(config, f"{name}_tokens"), tokens_per_step)


def written(config: Config, name: str, steps: int, tokens_per_step: int) -> tuple[str, str]:
    """The key that gives a duration, and how it would give another one: ("decay_tokens", "decay_tokens=4096")."""
    in_tokens = getattr(config, f"{name}_tokens") is not None
    key = f"{name}_tokens" if in_tokens else f"{name}_steps"
    return key, f"{key}={steps * tokens_per_step if in_tokens else steps}"


def given_twice(config: Config) -> Iterator[Problem]:
    """Every duration that is given in steps and in tokens."""
    for tokens in type(config).model_fields:
        steps = tokens.removesuffix("_tokens") + "_steps"
        if tokens.endswith("_tokens") and getattr(config, tokens) is not None and getattr(config, steps) is not None:
            yield Problem((tokens,), f"give {steps} or {tokens}, not both ({tokens}=null drops this one)")
