"""What the runs of a study left, as far as its report reads it. What is not there is named, not guessed."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modelzoo.base_config import UserError
from modelzoo.report.run_files import METRICS, RunFiles, is_number, read_run

PLAN, SPEED, HELD_OUT, TASKS = "plan.json", "speed.json", "held_out.json", "tasks.json"
ONE_SET = "text"
"""What the domain of a single validation set, which has no name, is called."""
BITS = "validation_bits_per_byte"
DIVERGED = "diverged"
"""Key of a held_out.json in place of losses, with the reason; and the verdict on what such a run is compared with."""
AGAIN = "delete it, and run the same command again"


@dataclass(frozen=True)
class HeldOut:
    """A run's losses on the held-out documents of a domain."""

    num_bytes: np.ndarray
    """(documents,)"""
    num_tokens: np.ndarray
    """(documents,)"""
    loss_sums: np.ndarray
    """(documents,), nats."""
    documents_sha256: str
    """Of the text, whatever the tokenizer."""

    @property
    def bits_per_byte(self) -> float:
        """All losses over all bytes."""
        return float(self.loss_sums.sum() / math.log(2) / self.num_bytes.sum())


@dataclass(frozen=True)
class RunResult:
    """One run of the plan."""

    arm: str
    seed: int
    lr: float
    dir: str
    """As the plan names it."""
    files: RunFiles
    held_out: Mapping[str, HeldOut] | None
    """By domain; None where the run has not ended, or its losses are no numbers."""
    why_not: str = ""
    """Of `held_out`."""
    diverged: bool = False
    """Whether that is why."""
    tasks: Mapping[str, Any] = field(default_factory=dict)
    """What lm-evaluation-harness said of it; empty where it was not asked."""

    @property
    def tokens(self) -> int:
        """Trained on, by the newest record."""
        return max((record["tokens"] for record in self.files.metrics), default=0)

    @cached_property
    def seconds(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, and the seconds of the updates up to there: without evaluation, saves and warm-up."""
        known = [(r["tokens"], r["tokens_per_second"]) for r in self.files.metrics if is_number(r.get("lr"))]
        speeds = [speed for _, speed in known if is_number(speed) and speed > 0]
        usual = float(np.median(speeds)) if speeds else math.nan
        tokens, seconds = [0], [0.0]
        for at, speed in known:
            own = speed if is_number(speed) and speed > 0 else usual
            seconds.append(seconds[-1] + max(0, at - tokens[-1]) / own)
            tokens.append(at)
        return np.array(tokens), np.array(seconds)

    def losses(self) -> dict[int, float]:
        """Training loss of each record, by step."""
        return {r["step"]: float(r["loss"]) for r in self.files.metrics if is_number(r.get("loss"))}

    def validation(self) -> Iterator[tuple[str, int, float]]:
        """(domain, tokens, bits per byte) of each evaluation during the run."""
        for record in self.files.metrics:
            for key, value in record.items():
                name, _, domain = key.partition("/")
                if name == BITS and is_number(value):
                    yield domain or ONE_SET, record["tokens"], float(value)


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """An object of a file. UserError where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {remedy}") from None
    if not isinstance(value, dict) or value.get("schema") != 1:
        raise UserError(f"{path}: is of another version; {remedy}")
    return value


def read_runs(study_dir: Path, plan: Mapping[str, Any], purpose: str) -> tuple[list[RunResult], list[str]]:
    """The runs of a purpose that have begun, and a sentence on each of which there is nothing."""
    results, missing = [], []
    for run in plan["runs"]:
        if run["purpose"] == purpose:
            folder = _folder(study_dir, run)
            steps = next(arm["steps"] for arm in plan["arms"] if arm["name"] == run["arm"])
            held_out, why_not, diverged = _held_out(folder / HELD_OUT, steps)
            recorded = (folder / METRICS).is_file()
            if recorded or diverged:  # a run may diverge before its first record
                files = read_run(folder) if recorded else RunFiles(folder, {}, [], [], [], {}, {})
                tasks = read_json(folder / TASKS, AGAIN) if (folder / TASKS).is_file() else {}
                results.append(
                    RunResult(run["arm"], run["seed"], run["lr"], run["dir"], files, held_out, why_not, diverged, tasks)
                )
            else:
                missing.append(f"{run['arm']}, seed {run['seed']}: has not begun ({run['dir']}).")
    _check_sets(results)
    return results, missing


def _check_sets(runs: Sequence[RunResult]) -> None:
    """That all runs were measured on sets of the same names. UserError names one that was not."""
    names = {run.files.path: sorted(run.held_out) for run in runs if run.held_out is not None}
    if not names:
        return
    usual = list(Counter(map(tuple, names.values())).most_common(1)[0][0])
    for path, own in names.items():
        if own != usual:
            raise UserError(
                f"{path / HELD_OUT}: holds the sets {', '.join(own)}, and of other runs {', '.join(usual)}; {AGAIN}"
            )


def _folder(study_dir: Path, run: Mapping[str, Any]) -> Path:
    """Beside the study, wherever that was moved to; else where the plan says."""
    beside = study_dir.resolve().parent / "runs" / Path(run["dir"]).name
    return beside if beside.is_dir() else Path(run["dir"])


def held_out_problem(found: Any) -> str | None:
    """What is wrong with the content of a held_out.json; None where it is whole."""
    if not isinstance(found, dict) or found.get("schema") != 1:
        return "is of another version"
    if not _is_size(found.get("step")):
        return "`step` is no whole number"
    sets = found.get("sets")
    if DIVERGED in found:
        told = isinstance(found[DIVERGED], str) and found[DIVERGED].strip()
        return None if told and sets == {} else f"`{DIVERGED}` is no reason, or has sets beside it"
    if not isinstance(sets, dict) or not sets:
        return "`sets` holds no sets by name"
    problems = ((name or ONE_SET, _set_problem(content)) for name, content in sets.items())
    return next((f"in the set {name} {problem}" for name, problem in problems if problem), None)


def _set_problem(content: Any) -> str | None:
    if not isinstance(content, dict):
        return "there is no object"
    for key, is_valid in (("num_bytes", _is_size), ("num_tokens", _is_size), ("loss_sums", _is_loss)):
        values = content.get(key)
        if not isinstance(values, list) or not all(map(is_valid, values)):
            return f"`{key}` is no list of numbers of at least 0"
    num_bytes, sums = content["num_bytes"], content["loss_sums"]
    if (
        not len(num_bytes) == len(content["num_tokens"]) == len(sums)
        or not any(num_bytes)
        or sums.count(0) == len(sums)
    ):
        return "there are no bytes, tokens and loss for each document"
    sha256 = content.get("documents_sha256")
    return None if isinstance(sha256, str) and sha256 else "`documents_sha256` is no text"


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_loss(value: Any) -> bool:
    """Also one that is no number, which a diverged run has."""
    return value is None or _is_size(value) or (type(value) is float and not value < 0)


def _held_out(path: Path, steps: int) -> tuple[dict[str, HeldOut] | None, str, bool]:
    """Losses by domain, or None, why not, and whether that is since it has diverged."""
    if not path.is_file():
        return None, "has not ended", False
    found = read_json(path, AGAIN)
    if problem := held_out_problem(found):
        raise UserError(f"{path}: {problem}; {AGAIN}")
    if DIVERGED in found:
        return None, f"has diverged: {' '.join(found[DIVERGED].split()).rstrip('.')}", True
    if found["step"] != steps:
        return None, f"was measured at step {found['step']:,} of {steps:,}", False
    sets = {name or ONE_SET: _losses(content) for name, content in found["sets"].items()}
    if not all(math.isfinite(losses.bits_per_byte) for losses in sets.values()):
        return None, "has diverged: its losses are no numbers", True
    return sets, "", False


def _losses(content: Mapping[str, Any]) -> HeldOut:
    num_bytes, num_tokens, sums = (
        np.array([math.nan if value is None else value for value in content[key]], dtype=np.float64)
        for key in ("num_bytes", "num_tokens", "loss_sums")
    )
    return HeldOut(num_bytes, num_tokens, sums, content["documents_sha256"])
