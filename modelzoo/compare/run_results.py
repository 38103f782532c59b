"""What the runs of a study left, as far as its report reads it. What is not there is named, not guessed."""

import json
import math
from collections.abc import Iterator, Mapping
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
            if (folder / METRICS).is_file():
                steps = next(arm["steps"] for arm in plan["arms"] if arm["name"] == run["arm"])
                held_out, why_not = _held_out(folder / HELD_OUT, steps)
                files = read_run(folder)
                again = "delete it, and run the same command again"
                tasks = read_json(folder / TASKS, again) if (folder / TASKS).is_file() else {}
                results.append(
                    RunResult(run["arm"], run["seed"], run["lr"], run["dir"], files, held_out, why_not, tasks)
                )
            else:
                missing.append(f"{run['arm']}, seed {run['seed']}: has not begun ({run['dir']}).")
    return results, missing


def _folder(study_dir: Path, run: Mapping[str, Any]) -> Path:
    """Beside the study, wherever that was moved to; else where the plan says."""
    beside = study_dir.resolve().parent / "runs" / Path(run["dir"]).name
    return beside if beside.is_dir() else Path(run["dir"])


def _held_out(path: Path, steps: int) -> tuple[dict[str, HeldOut] | None, str]:
    if not path.is_file():
        return None, "has not ended"
    found = read_json(path, "delete it, and run the same command again")
    if found["step"] != steps:
        return None, f"was measured at step {found['step']:,} of {steps:,}"
    sets = {name or ONE_SET: _losses(path, content) for name, content in found["sets"].items()}
    if not all(np.isfinite(held_out.loss_sums).all() for held_out in sets.values()):
        return None, "has diverged: its losses are no numbers"
    return sets, ""


def _losses(path: Path, content: Mapping[str, Any]) -> HeldOut:
    num_bytes, num_tokens, sums = (
        np.array([math.nan if value is None else value for value in content[key]], dtype=np.float64)
        for key in ("num_bytes", "num_tokens", "loss_sums")
    )
    if not (len(num_bytes) == len(sums) == len(num_tokens) > 0 and num_bytes.sum() > 0):
        raise UserError(f"{path}: holds no bytes and loss for each document; delete it, and run the same command again")
    return HeldOut(num_bytes, num_tokens, sums, str(content["documents_sha256"]))
