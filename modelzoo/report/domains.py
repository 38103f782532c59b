"""What became of each domain that a run was evaluated on: before, after, how sure, and whether it is new or old."""

import math
import os.path
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from modelzoo.report.run_files import RunFiles, is_number
from modelzoo.report.statistics import paired_changes

TOLERANCE = 0.01
"""An old domain whose loss rises by no more than this part counts as kept."""
BITS, NATS = "bits per byte", "nats per token"
Role = Literal["new", "old"]
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
    shares, replayed = _training_shares(files), _replayed(files)
    learned = {name: 0.0 if name in replayed else share for name, share in shares.items()}
    most = max(learned.values(), default=0.0)
    blocks: dict[str, dict[int, Mapping[str, Any]]] = {}
    for line in files.evaluations:
        if is_number(line.get("step")) and line.get("loss_sums") and _fits(line):
            blocks.setdefault(str(line.get("set") or ""), {})[int(line["step"])] = line
    recorded = _recorded(files)
    domains = []
    for key in dict.fromkeys([*recorded, *blocks]):
        share = _share_of(key, files, shares)
        is_new = _shown(key) in new if new else 0 < most / 2 <= _share_of(key, files, learned)
        role: Role = "new" if is_new else "old"
        if key in blocks:
            domains.append(_from_blocks(key, role, share, blocks[key], files))
        else:
            unit, points = recorded[key]
            domains.append(Domain(_shown(key), role, share, unit, points, None, None, None, None))
    return sorted(domains, key=lambda domain: domain.role == "old")


def roles_are_guessed(files: RunFiles) -> bool:
    """Whether nothing but the shares of several sources tells which of them the run was to learn."""
    known = _replayed(files) or files.base.get("trained_on")
    return files.setting("continue_from") is not None and len(_sources(files, "train")) > 1 and not known


def _shown(key: str) -> str:
    return key or "validation"


def _fits(line: Mapping[str, Any]) -> bool:
    sums, tokens = line["loss_sums"], line.get("num_tokens") or []
    return len(sums) == len(tokens) and all(map(is_number, sums)) and all(map(is_number, tokens)) and sum(tokens) > 0


def _from_blocks(key: str, role: Role, share: float, lines: Mapping[int, Mapping[str, Any]], files: RunFiles) -> Domain:
    """Those evaluations that are not of the first one's blocks are passed over, but for the last."""
    steps = sorted(lines)
    tokens = np.array(lines[steps[0]]["num_tokens"])
    counted = tokens > 0
    bytes_per_token = lines[steps[0]].get("bytes_per_token")
    unit = BITS if bytes_per_token else NATS
    nats = math.log(2) * bytes_per_token if bytes_per_token else 1.0
    same = [step for step in steps if list(lines[step]["num_tokens"]) == tokens.tolist()]
    sums = np.array([lines[step]["loss_sums"] for step in same])[:, counted]
    changes = paired_changes(sums[0], sums, tokens[counted]) if same[0] == 0 else []
    per_step = files.tokens_per_step or 1
    points = []
    for step in same if same[-1] == steps[-1] else [*same, steps[-1]]:
        line = lines[step]
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


def _replayed(files: RunFiles) -> set[str]:
    """The sources of a mixture that are what a run replays of the old: those that its base was trained on, and those
    that are given a share of all tokens beside others that divide the rest. None, where these were all."""
    sources = _sources(files, "train")
    taught = {os.path.normpath(str(path)) for path in files.base.get("trained_on") or ()}
    named = {
        name
        for name, own in sources.items()
        if own.get("share") is not None or os.path.normpath(str(own.get("path"))) in taught
    }
    return named if len(named) < len(sources) else set()


def _training_shares(files: RunFiles) -> dict[str, float]:
    """Each training source's part of the tokens: as counted, else as the weights say. One source has no name."""
    sources = _sources(files, "train")
    seen: dict[str, float] = {}
    for name in sources:
        counted = files.series(f"tokens_seen/{name}")
        weight = sources[name].get("weight", 1.0)
        seen[name] = counted[-1][1] if counted else float(weight) if is_number(weight) else 0.0
    total = sum(seen.values())
    return {name: value / total for name, value in seen.items()} if total > 0 else seen


def _share_of(key: str, files: RunFiles, shares: Mapping[str, float]) -> float:
    """Of those training sources in `shares` that read the same dataset as this evaluation set, or bear its name."""
    own = _sources(files, "validation").get(key, {}).get("path")
    return sum(
        shares.get(name, 0.0)
        for name, source in _sources(files, "train").items()
        if (key and name == key) or (own and os.path.normpath(str(source.get("path"))) == os.path.normpath(str(own)))
    )


def _sources(files: RunFiles, part: str) -> dict[str, Mapping[str, Any]]:
    """data.train or data.validation of the config: by name, a single one under an empty one."""
    section = files.setting("data", part, default={})
    if isinstance(section, Mapping) and isinstance(section.get("sources"), Mapping):
        return {name: source for name, source in section["sources"].items() if isinstance(source, Mapping)}
    return {"": section} if isinstance(section, Mapping) and section else {}
