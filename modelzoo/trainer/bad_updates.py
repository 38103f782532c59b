"""Updates that must not reach the weights: which they are, and the batches left out because of them. No torch.

Update `step` (from 0) is made on the batch of number `guard.batch_number(step)`: the step-th of those that are not
left out. So the order of the data is a function of the ranges alone, which travel in every checkpoint; a run that is
given them as `trainer.skip_batches` makes the same updates.
"""

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from modelzoo.base_config import UserError
from modelzoo.trainer.config import BadUpdatesConfig, Range

LIMIT_BATCHES = 1000
"""`bad_updates.limit` holds for any so many batches in succession."""
MAD_TO_DEVIATION = 1.4826
"""A standard deviation in median absolute deviations, where numbers are normally distributed."""
SMALLEST_DEVIATION = 0.01
"""In medians. A loss that hardly moves has next to none, and any change would be a spike."""


class TrainingError(RuntimeError):
    """The run cannot go on by itself; its weights are good, and so are its checkpoints."""


class BadUpdateError(TrainingError):
    """One update is bad, and was not applied."""

    def __init__(self, step: int, batch: int, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"step {step + 1} (batch {batch}): {reason}; the update was not applied. Start the command again with "
            f"trainer.skip_batches=[[{batch},{batch}]] to pass this batch over, or with "
            "trainer.bad_updates.policy=skip (or rollback) to have that done for every such batch; if there are many, "
            "a new run needs a lower optimizer.lr, a longer warm-up, or another accelerator.precision"
        )


class UpdateGuard:
    """Tells bad updates from good ones, and remembers the batches that were left out."""

    def __init__(self, config: BadUpdatesConfig, skip_batches: Iterable[Range] = ()) -> None:
        self.config = config
        self.configured = merged(skip_batches)
        self.found: tuple[Range, ...] = ()
        """Left out because of bad updates of this run."""
        self.skipped = self.configured
        """All that is left out: [first, last] of batch numbers, apart from each other, in order."""
        self.bad_batches: list[int] = []
        window = 0 if config.spikes is None else config.spikes.window_steps
        self._recent = {"loss": deque[float](maxlen=window), "gradient norm": deque[float](maxlen=window)}

    def batch_number(self, step: int) -> int:
        """The batch that update `step` is made on."""
        number = step
        for first, last in self.skipped:
            if first > number:
                break
            number += last - first + 1
        return number

    def fault(self, loss: float, norm: float) -> str | None:
        """What is wrong with an update of this loss (nats a token) and gradient norm; None where nothing is."""
        if not (math.isfinite(loss) and math.isfinite(norm)):  # a finite norm's squares are finite in the moments too
            return f"loss {loss:.4g}, gradient norm {norm:.4g}"
        for (name, recent), value in zip(self._recent.items(), (loss, norm), strict=True):
            if recent and len(recent) == recent.maxlen and value > (limit := self._spike_limit(recent)):
                return f"{name} {value:.4g} is a spike: above {limit:.4g}, by those of the last {len(recent)} updates"
        return None

    def accept(self, loss: float, norm: float) -> None:
        """Take the numbers of a good update into the statistics."""
        for recent, value in zip(self._recent.values(), (loss, norm), strict=True):
            recent.append(value)

    def count_bad(self, batch: int) -> bool:
        """Count a bad update. False where there have been too many."""
        self.bad_batches = [bad for bad in self.bad_batches if bad > batch - LIMIT_BATCHES] + [batch]
        return len(self.bad_batches) <= self.config.limit

    def leave_out(self, first: int, last: int) -> None:
        """Make no update on the batches `first` … `last`."""
        self.found = merged([*self.found, (first, last)])
        self.skipped = merged([*self.skipped, *self.found])

    def state(self) -> dict[str, Any]:
        """For a checkpoint, as JSON."""
        return {
            "configured": self.configured,
            "found": self.found,
            "bad_batches": self.bad_batches,
            "recent": {name: list(values) for name, values in self._recent.items()},
        }

    def load_state(self, state: Mapping[str, Any], step: int) -> None:
        """Go on after a checkpoint of `step`. UserError where other batches are to be left out of its past."""
        if not state:  # it was written before there was such a state
            state = UpdateGuard(self.config).state()
        before = merged([*_ranges(state["configured"]), *_ranges(state["found"])])
        skipped = merged([*self.configured, *_ranges(state["found"])])
        past = UpdateGuard(self.config, before).batch_number(step - 1) + 1 if step else 0
        changed = first_difference(before, skipped)
        if changed is not None and changed < past:
            was = "left out" if any(first <= changed <= last for first, last in before) else "trained on"
            raise UserError(
                f"trainer.skip_batches: batch {changed} was {was} before the checkpoint of step {step}; only batches "
                f"from {past} on can still change: put the others back, or start a run of another name"
            )
        self.found, self.skipped = _ranges(state["found"]), skipped
        self.bad_batches = list(state["bad_batches"])
        for name, values in self._recent.items():
            values.clear()
            values.extend(state["recent"][name])

    def remember(self, found: Iterable[Range], bad_batches: Iterable[int]) -> None:
        """Take back what was found after the checkpoint that this was brought to."""
        self.bad_batches = list(bad_batches)
        for first, last in found:
            self.leave_out(first, last)

    def _spike_limit(self, recent: Iterable[float]) -> float:
        assert self.config.spikes is not None
        median = statistics.median(recent)
        mad = statistics.median(abs(value - median) for value in recent)
        return median + self.config.spikes.deviations * max(MAD_TO_DEVIATION * mad, SMALLEST_DEVIATION * median)


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same numbers in ranges [first, last] that neither overlap nor touch, in order."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)


def first_difference(a: tuple[Range, ...], b: tuple[Range, ...]) -> int | None:
    """The smallest number that only one of two sequences of `merged` ranges holds."""
    for (first_a, last_a), (first_b, last_b) in zip(a, b, strict=False):
        if first_a != first_b:
            return min(first_a, first_b)
        if last_a != last_b:
            return min(last_a, last_b) + 1
    rest = a[len(b) :] or b[len(a) :]
    return rest[0][0] if rest else None


def _ranges(lists: Iterable[Iterable[int]]) -> tuple[Range, ...]:
    return tuple((first, last) for first, last in lists)
