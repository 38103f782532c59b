"""What became of each domain that a run was evaluated on: before, after, how sure, and whether it is new or old."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from modelzoo.report.roles import Role, Roles
from modelzoo.report.run_files import RunFiles, is_number
from modelzoo.report.statistics import paired_changes

TOLERANCE = 0.01
"""An old domain whose loss rises by no more than this part counts as kept."""
BITS, NATS = "bits per byte", "nats per token"
Verdict = Literal["better", "no change shown", "worse", "no interval", "not measured"]


@dataclass(frozen=True)
class Point:
    """One evaluation."""

    step: int
    tokens: int
    value: float
    change: float | None
    """From step 0, as a part of it; None where step 0 was not measured on the same text."""
    interval: tuple[float, float] | None
    """Of `change`."""


@dataclass(frozen=True)
class Domain:
    """One evaluation set, from before the first update to the newest evaluation."""

    name: str
    role: Role
    share: float
    """Of the training tokens that came from its source; 0 where it was not trained on."""
    unit: str
    points: tuple[Point, ...]
    num_tokens: int | None
    num_blocks: int | None
    num_better: int | None
    """Blocks of text on which the new model is better."""
    sign_test: float | None
    of_base: bool | None = None
    """Whether the base was trained on its dataset; None where that is not known."""
    unpaired: Literal["other data", "other rows"] | None = None
    """Why the newest evaluation is not compared with the first: it is not of the same text."""

    @property
    def before(self) -> float | None:
        """At step 0."""
        return self.points[0].value if self.points[0].step == 0 else None

    @property
    def after(self) -> float:
        """At the newest evaluation."""
        return self.points[-1].value

    @property
    def change(self) -> float | None:
        """after / before - 1: below zero is better."""
        return self.points[-1].change if len(self.points) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of `change`."""
        return self.points[-1].interval if len(self.points) > 1 else None

    @property
    def verdict(self) -> Verdict:
        """What the interval shows."""
        if self.change is None:
            return "not measured"
        if self.interval is None:
            return "no interval"
        low, high = self.interval
        return "better" if high < 0 else "worse" if low > 0 else "no change shown"

    @property
    def kept(self) -> bool:
        """Whether it is shown that the loss rose by no more than TOLERANCE."""
        return self.interval is not None and self.interval[1] <= TOLERANCE

    @property
    def lost(self) -> bool:
        """Whether it is shown that the loss rose by more than TOLERANCE."""
        return self.interval is not None and self.interval[0] > TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return {
            "name": self.name,
            "role": self.role,
            "share_of_training_tokens": self.share,
            "of_base": self.of_base,
            "unit": self.unit,
            "before": self.before,
            "after": self.after,
            "change": self.change,
            "interval": self.interval,
            "verdict": self.verdict,
            "kept": self.kept,
            "lost": self.lost,
            "tokens": self.num_tokens,
            "blocks": self.num_blocks,
            "blocks_better": self.num_better,
            "sign_test": self.sign_test,
            "curve": [vars(point) for point in self.points],
        }


def read_domains(files: RunFiles, new: Collection[str] = ()) -> list[Domain]:
    """Every evaluated set, new ones first. `new` names those that the run was to learn; empty finds out.

    What `evaluations.jsonl` has of a set is taken from there, with intervals; else the numbers of `metrics.jsonl`.
    """
    roles = Roles(files)
    blocks: dict[str, dict[int, Mapping[str, Any]]] = {}
    for line in files.evaluations:
        if is_number(line.get("step")) and line.get("loss_sums") and _fits(line):
            blocks.setdefault(str(line.get("set") or ""), {})[int(line["step"])] = line
    recorded = _recorded(files)
    domains = []
    for key in dict.fromkeys([*recorded, *blocks]):
        role = roles.role(key) if not new else "new" if _shown(key) in new else "old"
        share, of_base = roles.share(key), roles.of_base(key)
        if key in blocks:
            domains.append(_from_blocks(key, role, share, of_base, blocks[key], files))
        else:
            unit, points = recorded[key]
            domains.append(Domain(_shown(key), role, share, unit, points, None, None, None, None, of_base))
    return sorted(domains, key=lambda domain: domain.role == "old")


def _shown(key: str) -> str:
    return key or "validation"


def _fits(line: Mapping[str, Any]) -> bool:
    sums, tokens = line["loss_sums"], line.get("num_tokens") or []
    return len(sums) == len(tokens) and all(map(is_number, sums)) and all(map(is_number, tokens)) and sum(tokens) > 0


def _text_of(line: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Which text was evaluated; None where an older version wrote the line."""
    return (line["dataset"], line.get("split")) if line.get("dataset") else None


def _from_blocks(
    key: str, role: Role, share: float, of_base: bool | None, lines: Mapping[int, Mapping[str, Any]], files: RunFiles
) -> Domain:
    """Those evaluations that are not of the first one's text and blocks are passed over, but for the last."""
    steps = sorted(lines)
    tokens = np.array(lines[steps[0]]["num_tokens"])
    counted = tokens > 0
    bytes_per_token = lines[steps[0]].get("bytes_per_token")
    unit = BITS if bytes_per_token else NATS
    text = next((found for step in steps if (found := _text_of(lines[step]))), None)
    of_text = [step for step in steps if _text_of(lines[step]) in (None, text)]
    same = [step for step in of_text if list(lines[step]["num_tokens"]) == tokens.tolist()]
    sums = np.array([lines[step]["loss_sums"] for step in same])[:, counted]
    changes = paired_changes(sums[0], sums, tokens[counted]) if same[0] == 0 else []
    per_step = files.tokens_per_step or 1
    points = []
    for step in same if same[-1] == steps[-1] else [*same, steps[-1]]:
        line = lines[step]
        nats = math.log(2) * (line.get("bytes_per_token") or bytes_per_token) if bytes_per_token else 1.0
        if is_number(line.get("loss")):  # of the sums before they were rounded
            value = float(line["loss"]) / nats
        else:
            value = sum(line["loss_sums"]) / sum(line["num_tokens"]) / nats
        change = changes[same.index(step)] if changes and step in same else None
        points.append(
            Point(
                step=step,
                tokens=step * per_step,
                value=value,
                change=None if change is None else change.relative,
                interval=None if change is None else (0.0, 0.0) if step == 0 else change.interval,
            )
        )
    last = changes[-1] if changes and len(same) > 1 and same[-1] == steps[-1] else None
    return Domain(
        name=_shown(key),
        role=role,
        share=share,
        unit=unit,
        points=tuple(points),
        num_tokens=int(tokens.sum()),
        num_blocks=last.num_blocks if last else None,
        num_better=last.num_better if last else None,
        sign_test=last.sign_test if last else None,
        of_base=of_base,
        unpaired=None if same[-1] == steps[-1] else "other rows" if of_text[-1] == steps[-1] else "other data",
    )


def _recorded(files: RunFiles) -> dict[str, tuple[str, tuple[Point, ...]]]:
    """The sets in metrics.jsonl, by name: bits per byte where there are any, else the loss."""
    found: dict[str, tuple[str, tuple[Point, ...]]] = {}
    for metric, unit in (("validation_bits_per_byte", BITS), ("validation_loss", NATS)):
        keys = dict.fromkeys(k for record in files.metrics for k in record if k.partition("/")[0] == metric)
        for key in keys:
            taken = {r["step"]: (r["tokens"], float(r[key])) for r in files.metrics if is_number(r.get(key))}
            if taken:
                first = taken.get(0)
                points = tuple(
                    Point(step, tokens, value, value / first[1] - 1 if first else None, None)
                    for step, (tokens, value) in sorted(taken.items())
                )
                found.setdefault(key.partition("/")[2], (unit, points))
    return found
