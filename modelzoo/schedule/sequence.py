"""Schedules one after the other: re-warm and re-decay, another corpus at another rate, any course in pieces."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field

from modelzoo.base_config import Config, FromFloat, Problem, union_of_kinds
from modelzoo.schedule.base import PositiveFraction, ScheduleConfig, given_twice

if TYPE_CHECKING:
    PhaseSchedule = ScheduleConfig
else:  # every other kind: this one is not defined yet, and a sequence in a sequence would say nothing new
    PhaseSchedule = union_of_kinds("modelzoo.schedule", ScheduleConfig)

Positive = Annotated[int, FromFloat, Field(gt=0, le=10**18)]


class PhaseConfig(Config):
    """One schedule of a sequence. It begins at its own step 0, with its own warm-up, and its end is its run's end."""

    duration_steps: Positive | None = None
    """How long it lasts, warm-up included. Give this or `duration_tokens`; the last phase may take what is left."""
    duration_tokens: Positive | None = None
    """How long it lasts in tokens; phases begin at the first whole step."""
    peak_lr_ratio: PositiveFraction = 1.0
    """What the phase calls the peak, as a fraction of `optimizer.lr`; its own ratios are fractions of that."""
    schedule: PhaseSchedule
    """Any other kind."""

    def problems(self) -> Iterator[Problem]:
        return given_twice(self)

    def tokens(self, tokens_per_step: int) -> int | None:
        """Its length; None: what is left."""
        return self.duration_steps * tokens_per_step if self.duration_steps is not None else self.duration_tokens


class SequenceConfig(ScheduleConfig):
    """The phases in their order, after the warm-up. Between two of them the rate may jump."""

    kind: Literal["sequence"] = "sequence"
    phases: dict[str, PhaseConfig | None] = {}  # noqa: RUF012 (pydantic copies defaults)
    """By a name of your choice; null drops one that an included file brings. Together they take the whole run."""

    def after_warmup(self, step: int, total_steps: int, tokens_per_step: int) -> float:
        parts = list(self._parts(total_steps, tokens_per_step))
        part = next((part for part in parts if step < part.end), parts[-1])
        factor = part.phase.schedule.factor(step - part.start, part.end - part.start, tokens_per_step)
        return part.phase.peak_lr_ratio * factor

    def turns_after_warmup(self, total_steps: int, tokens_per_step: int) -> list[int]:
        turns = []
        for _, phase, start, end in self._parts(total_steps, tokens_per_step):
            within = phase.schedule.turns(end - start, tokens_per_step)
            turns += [start, *(start + turn for turn in within), end - 1]
        return turns

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        phases = {name: phase for name, phase in self.phases.items() if phase is not None}
        if not phases:
            yield Problem(("phases",), "needs a phase, e.g. phases: {first: {schedule: {kind: cosine}}}")
        for name, phase in list(phases.items())[:-1]:
            if phase.duration_steps is None and phase.duration_tokens is None:
                yield Problem(
                    ("phases", name),
                    "needs duration_steps or duration_tokens: only the last phase can take what is left of the run",
                )

    def problems_after_warmup(self, total_steps: int, tokens_per_step: int) -> Iterator[Problem]:
        if any(self.problems()):  # then the lengths are not known
            return
        end = 0
        for name, phase, start, end in self._parts(total_steps, tokens_per_step):
            if end > total_steps or start >= end:
                yield Problem(
                    ("phases", name),
                    f"runs from step {start:,} to step {end:,} of the {total_steps:,} that are there for all phases; "
                    "shorten it or those before it, or train longer",
                )
                return
            for problem in phase.schedule.problems_in_run(end - start, tokens_per_step):
                yield Problem(("phases", name, "schedule", *problem.path), problem.message)
        if end < total_steps:
            yield Problem(
                ("phases",),
                f"end after {end:,} of {total_steps:,} steps; leave out the duration of the last one, which then takes "
                "what is left, or train for less",
            )

    def _parts(self, total_steps: int, tokens_per_step: int) -> Iterator["_Part"]:
        """The phases with their first step, and the one after their last, counted from the end of the warm-up."""
        tokens, start = 0, 0
        for name, phase in self.phases.items():
            if phase is not None:
                length = phase.tokens(tokens_per_step)
                tokens = total_steps * tokens_per_step if length is None else tokens + length
                end = -(-tokens // tokens_per_step)
                yield _Part(name, phase, start, end)
                start = end


class _Part(NamedTuple):
    name: str
    phase: PhaseConfig
    start: int
    end: int
