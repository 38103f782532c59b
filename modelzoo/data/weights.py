"""How much of a run each source of a mixture gets: a number, or one that changes over the run. No torch."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Discriminator, Field, Tag

from modelzoo.base_config import Config, FromFloat, FromList, Problem, UserError

CLOSE = 1e-9
"""Shares that miss 1 by less are taken to sum to it: 0.1 + 0.2 + 0.7 does not, to the last digit."""


class Changing(Config):
    """A number that goes from value to value in straight lines, and keeps the last. The points are spread evenly
    over the whole run, or stand at the `steps` or `tokens` given."""

    values: Annotated[tuple[Annotated[float, Field(ge=0, le=1e9)], ...], FromList, Field(min_length=2)]
    """The number at each point: [0.5, 0.1] falls from the run's first step to its last."""
    steps: Annotated[tuple[Annotated[int, FromFloat, Field(ge=0)], ...], FromList] | None = None
    """The points in updates; before the first, its value holds. The same twice makes a jump."""
    tokens: Annotated[tuple[Annotated[int, FromFloat, Field(ge=0)], ...], FromList] | None = None
    """The points in tokens of the run, rounded up to whole updates."""

    def problems(self) -> Iterator[Problem]:
        if self.steps is not None and self.tokens is not None:
            yield Problem(("tokens",), "give steps or tokens, not both (tokens=null drops these)")
        if not any(self.values):
            yield Problem(("values",), "are all 0; to leave a source out, set it to null")
        for key in ("steps", "tokens"):
            points = getattr(self, key)
            if points is None:
                continue
            if len(points) != len(self.values):
                yield Problem((key,), f"holds {len(points)} points for {len(self.values)} values; give as many")
            elif any(after < before for before, after in pairwise(points)):
                yield Problem((key,), "must not go back: give the points in the order of the run")

    def unreached(self, total_steps: int, tokens_per_step: int) -> str | None:
        """What a run of this length does not come to, in words; None where it comes to the last point."""
        points = self.points(total_steps, tokens_per_step)
        if (self.steps is None and self.tokens is None) or points[-1][0] <= total_steps:
            return None
        return (
            f"the last point is at step {points[-1][0]:,}, beyond the run's {total_steps:,}: it ends at "
            f"{_value(points, total_steps, total_steps):g} instead of {self.values[-1]:g}"
        )

    def points(self, total_steps: int, tokens_per_step: int) -> tuple[tuple[int, float], ...]:
        """(step, value) at each point of a run of `total_steps`."""
        if self.tokens is not None:
            steps = [-(-tokens // tokens_per_step) for tokens in self.tokens]
        elif self.steps is not None:
            steps = list(self.steps)
        else:
            last = len(self.values) - 1
            steps = [total_steps * number // last for number in range(last + 1)]
        return tuple(zip(steps, self.values, strict=True))


def _form(value: Any) -> str:
    """Which of its forms a weight is written in."""
    if isinstance(value, dict | Changing):
        return "changing"
    return "word" if isinstance(value, str) else "number"


Weight = Annotated[
    Annotated[float, Field(le=1e9), Tag("number")]
    | Annotated[Literal["proportional"], Tag("word")]
    | Annotated[Changing, Tag("changing")],
    Discriminator(_form),
]
Share = Annotated[
    Annotated[float, Field(gt=0, le=1), Tag("number")] | Annotated[Changing, Tag("changing")],
    Discriminator(lambda value: "changing" if _form(value) == "changing" else "number"),
]


class Rate(NamedTuple):
    """What one source gets."""

    points: tuple[tuple[int, float], ...]
    """(step, value), in straight lines between, the outer values beyond."""
    is_share: bool = False
    """Of all tokens; else relative to the other weights, which divide what the shares leave."""


class Stretch(NamedTuple):
    """Some steps of a run over which every source's share goes in a straight line."""

    first: int
    stop: int | None
    """None: without end."""
    start: tuple[float, ...]
    """Each source's share of the tokens; they sum to 1."""
    end: tuple[float, ...]

    def at(self, step: float) -> tuple[float, ...]:
        """The shares at a step of the stretch."""
        if self.stop is None or self.start == self.end:
            return self.start
        part = (step - self.first) / (self.stop - self.first)
        return tuple(a + (b - a) * part for a, b in zip(self.start, self.end, strict=True))


def stretches(rates: Mapping[str, Rate]) -> list[Stretch]:
    """The shares over a run without end: a stretch between any two points of any source, and one after the last.

    Raises:
        UserError: at some step there is nothing to read, or more than all.
    """
    knots = sorted({0, *(step for rate in rates.values() for step, _ in rate.points)})
    found = []
    for first, stop in [*pairwise(knots), (knots[-1], None)]:
        at_end = first if stop is None else stop
        ends = [
            _shares({name: _value(rate.points, first, step) for name, rate in rates.items()}, rates, step)
            for step in (first, at_end)
        ]
        found.append(Stretch(first, stop, *ends))
    return found


def _value(points: tuple[tuple[int, float], ...], first: int, step: int) -> float:
    """The value at `step`, on the line that holds right after `first`: at a jump both are asked for."""
    after = bisect_right([at for at, _ in points], first)
    if after in (0, len(points)):
        return points[min(after, len(points) - 1)][1]
    (low, a), (high, b) = points[after - 1], points[after]
    return a + (b - a) * ((step - low) / (high - low))


def _shares(values: Mapping[str, float], rates: Mapping[str, Rate], step: int) -> tuple[float, ...]:
    """Values as shares of 1, in the order of `rates`."""
    shares = sum(value for name, value in values.items() if rates[name].is_share)
    weights = sum(value for name, value in values.items() if not rates[name].is_share)
    described = ", ".join(f"{name} {value:g}" for name, value in values.items() if rates[name].is_share)
    rest = 1 - shares if abs(1 - shares) > CLOSE else 0.0
    if rest < 0:
        raise UserError(f"at step {step:,} the shares sum to {shares:g} ({described}); they must not exceed 1")
    if rest > 0 and weights == 0:
        if not described:
            raise UserError(f"at step {step:,} the weights sum to 0: there is nothing to read; raise one of them")
        raise UserError(
            f"at step {step:,} the shares sum to {shares:g} ({described}), and no source has a weight above 0 to take "
            "the rest; give one a weight in place of its share"
        )
    if rest == 0:
        return tuple(value / shares if rates[name].is_share else 0.0 for name, value in values.items())
    return tuple(value if rates[name].is_share else value / weights * rest for name, value in values.items())
