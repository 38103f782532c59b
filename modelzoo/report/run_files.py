"""What a run leaves in its directory, as far as a report reads it. Whatever is absent is empty here."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modelzoo.base_config import UserError

CONFIG, METRICS, SAMPLES, EVALUATIONS, MACHINE, BASE = (
    "config.yaml", "metrics.jsonl", "samples.jsonl", "evaluations.jsonl", "machine.json", "base_check.json",
)  # fmt: skip


@dataclass(frozen=True)
class RunFiles:
    """The contents of a run directory."""

    path: Path
    config: Mapping[str, Any]
    """The resolved RunConfig, as its YAML stands; not validated, so that older runs can be read."""
    metrics: list[dict[str, Any]]
    """Records with `step` and `tokens`, in the order of the run."""
    evaluations: list[dict[str, Any]]
    """`step`, `set`, its `dataset` (a fingerprint) and `split`, the `loss`, and the blocks' `loss_sums` (nats) and
    `num_tokens`; `bytes_per_token` may be null, and older runs name no dataset."""
    samples: list[dict[str, Any]]
    """`step`, `prompt`, `text`, `seed`."""
    machine: Mapping[str, Any]
    """What it ran on, from the `report` callback."""
    base: Mapping[str, Any]
    """What is known of the model it began with; `trained_on` are the datasets that taught it, as `path` and
    `fingerprint` (of older runs a path alone); `sources` are the fingerprints of the run's own, by name;
    `had_another_tokenizer` is the checkpoint that it was before `modelzoo vocab`, null where it was none."""

    def setting(self, *keys: str, default: Any = None) -> Any:
        """A value of the config; `default` where it has none."""
        value: Any = self.config
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return default if value is None else value

    def series(self, key: str) -> list[tuple[int, float]]:
        """(tokens, value) of a metric, at every record that has a finite one."""
        return [(r["tokens"], float(r[key])) for r in self.metrics if is_number(r.get(key))]

    @property
    def step(self) -> int:
        """The newest recorded step."""
        return max((record["step"] for record in self.metrics), default=0)

    @property
    def tokens_per_step(self) -> int | None:
        """From the config; None where it does not tell."""
        rows, length = self.setting("trainer", "global_batch_size"), self.setting("data", "seq_len")
        return rows * length if rows and length else None

    @property
    def total_steps(self) -> int | None:
        """The length that the config gives the run."""
        per_step, tokens = self.tokens_per_step, self.setting("trainer", "max_tokens")
        planned = -(-tokens // per_step) if tokens and per_step else None
        return self.setting("trainer", "max_steps", default=planned)


def read_run(path: Path) -> RunFiles:
    """Read a run directory. UserError where there is none, or where no run has written anything."""
    if not path.is_dir():
        raise UserError(f"{path}: there is no such directory; name a run's, such as runs/my_run")
    if not (path / METRICS).is_file():
        raise UserError(
            f"{path}: holds no {METRICS}, so there is nothing to report; name a run's directory (the one with "
            f"{CONFIG} and checkpoints/), of a run with the callback `metrics`"
        )
    return RunFiles(
        path=path,
        config=_read_yaml(path / CONFIG),
        metrics=[r for r in _lines(path / METRICS) if is_number(r.get("step")) and is_number(r.get("tokens"))],
        evaluations=list(_lines(path / EVALUATIONS)),
        samples=[r for r in _lines(path / SAMPLES) if is_number(r.get("step"))],
        machine=next(_lines(path / MACHINE), {}),
        base=_read_json(path / BASE),
    )


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _read_yaml(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no YAML ({error}); put back what the run wrote there") from None
    return found if isinstance(found, Mapping) else {}


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        raise UserError(f"{path}: is no JSON; put back what the run wrote there, or remove it") from None
    return found if isinstance(found, Mapping) else {}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a file of JSON lines; a last line that a killed process left unfinished is passed over."""
    if path.is_file():
        lines = path.read_bytes().splitlines()
        for number, line in enumerate(lines, 1):
            try:
                value = json.loads(line)
            except ValueError:
                if number == len(lines):
                    return
                raise UserError(
                    f"{path}: line {number} is no JSON; remove it, or put back what the run wrote"
                ) from None
            if isinstance(value, dict):
                yield value
