"""The plan of a study: its runs, each known by a hash of all that decides its result, and what they will cost."""

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from modelzoo.compare.arms import Arm, changed, compose_arms, fit_budget, fit_size
from modelzoo.compare.config import CompareConfig
from modelzoo.compare.fairness import Check, check_fairness, differences
from modelzoo.data.modelzoo_files import h5_files
from modelzoo.data.schema import MANIFEST, file_sha256
from modelzoo.files import write_text
from modelzoo.run_config import RunConfig, dump_yaml

RUN_CODE = (
    "data", "model", "optimizer", "schedule", "trainer", "launch.py", "continuing.py", "run_length.py",
)  # fmt: skip
"""What of this package decides what a run comes to; a change there makes runs anew."""
MEASURE_CODE = ("data", "evaluate", "model", "tokenizer.py", "compare/held_out.py")
"""What decides the losses of the held-out text; a change there measures again."""
PLAN_NAME, CONFIGS_NAME, HELD_OUT = "plan.json", "configs", "held_out.json"
HASH_LENGTH = 10
"""Of the hex digits that name a run."""


@dataclass(frozen=True)
class PlannedRun:
    """A run of an arm from a seed."""

    arm: str
    seed: int
    """The study's; the arm's seed_offset comes on top."""
    purpose: str
    """`compare`, or `lr`: it looks for the arm's learning rate."""
    config: RunConfig
    """As it is trained, but for its name."""
    folder: Path
    """Of all runs."""
    named_after: str
    """The arm in its name: the first one that has this very run."""

    @property
    def lr(self) -> float:
        """The peak."""
        return self.config.optimizer.lr

    @cached_property
    def sha256(self) -> str:
        """Of config, data and code: two runs of one hash come to the same weights on one machine."""
        settings = self.config.model_dump(mode="json", exclude={"name", "description", "output_dir"})
        known = [settings, data_sha256(self.config), base_sha256(self.config), code_sha256()]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    @cached_property
    def name(self) -> str:
        """Of the run's folder: that of the same run of another study, where there is one."""
        mark = self.sha256[:HASH_LENGTH]
        there = sorted(self.folder.glob(f"*-{mark}"), key=lambda path: (not (path / HELD_OUT).is_file(), path.name))
        return there[0].name if there else f"{self.named_after}-seed_{self.config.seed}-{mark}"

    @property
    def dir(self) -> Path:
        """The run's folder."""
        return self.folder / self.name

    @property
    def named_config(self) -> RunConfig:
        """With its name and place."""
        description = f"{self.arm}, seed {self.config.seed}"
        return changed(
            self.config,
            {"name": self.name, "output_dir": str(self.folder), "description": description},
            f"arm {self.arm}",
        )


@dataclass(frozen=True)
class Plan:
    """A study with its arms at their lengths, found to be fair."""

    study: CompareConfig
    arms: list[Arm]
    checks: list[Check]
    command: Sequence[str]
    """What the user typed."""

    @property
    def dir(self) -> Path:
        """The study's folder."""
        return Path(self.study.output_dir, self.study.name)

    @property
    def runs_dir(self) -> Path:
        """Where all studies of this folder have their runs."""
        return Path(self.study.output_dir, "runs")

    def lr_runs(self) -> list[PlannedRun]:
        """One for each arm and rate of the grid."""
        runs = [
            self._run(arm, self.study.lr_seed, "lr", {"optimizer.lr": rate})
            for rate in self.study.lr_grid or ()
            for arm in self.arms
        ]
        return _named(runs)

    def runs(self, rates: Mapping[str, float]) -> list[PlannedRun]:
        """One for each arm and seed, seed by seed, so that a study that is stopped has pairs. `rates` are the learning
        rates that a grid gave."""
        runs = [
            self._run(arm, seed, "compare", {"optimizer.lr": rates[arm.name]} if arm.name in rates else {})
            for seed in self.study.seeds
            for arm in self.arms
        ]
        return _named(runs)

    def _run(self, arm: Arm, seed: int, purpose: str, more: Mapping[str, Any]) -> PlannedRun:
        own_seed = seed + self.study.used_arms[arm.name].seed_offset
        config = changed(arm.config, {"seed": own_seed, **more}, f"arm {arm.name}")
        return PlannedRun(arm.name, seed, purpose, config, self.runs_dir, arm.name)

    def write_config(self, run: PlannedRun) -> Path:
        """The YAML that the run is started with."""
        path = self.dir / CONFIGS_NAME / f"{run.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, dump_yaml(run.named_config))
        return path

    def to_json(self, runs: Sequence[PlannedRun], finished: Sequence[bool]) -> dict[str, Any]:
        """What plan.json holds: the whole definition, of which the report is made."""
        by_name = {arm.name: arm for arm in self.arms}
        chosen = {run.arm: run.lr for run in runs if run.purpose == "compare"}
        return {
            "schema": 1,
            "study": {**self.study.model_dump(mode="json"), "baseline": self.study.baseline_name},
            "arms": [
                _arm_json(self.study, arm, by_name, chosen.get(arm.name, arm.config.optimizer.lr)) for arm in self.arms
            ],
            "fairness": [check.to_json() for check in self.checks],
            "runs": [
                {
                    "arm": run.arm, "seed": run.seed, "purpose": run.purpose, "lr": run.lr, "name": run.name,
                    "dir": str(run.dir), "sha256": run.sha256, "reused": was_there,
                }
                for run, was_there in zip(runs, finished, strict=True)
            ],
            "commands": [" ".join(self.command)],
            "versions": versions(),
        }  # fmt: skip


def _named(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Runs of one hash under one name, as a config against itself has them."""
    first: dict[str, str] = {}
    return [replace(run, named_after=first.setdefault(run.sha256, run.arm)) for run in runs]


def make_plan(
    study: CompareConfig, command: Sequence[str], seconds_per_step: Mapping[str, float] | None = None
) -> Plan:
    """Compose the arms, give them their budget, check that they compare. UserError with all that is wrong.

    `seconds_per_step` by arm is what a budget of seconds is turned into updates with; without it, for a look at the
    plan, each arm has its own length.
    """
    arms = fit_budget(study, fit_size(study, compose_arms(study)), seconds_per_step)
    checks = check_fairness(study, arms)
    if study.speed is not None:
        timed_arms(study)  # its overrides may be wrong, which should not show when all is trained
    return Plan(study, arms, checks, command)


def timed_arms(study: CompareConfig) -> dict[str, RunConfig]:
    """The arms as they are timed, with `speed.overrides`."""
    arms = fit_size(study, compose_arms(study, study.speed.overrides if study.speed is not None else ()))
    return {arm.name: arm.config for arm in fit_budget(study, arms)}


def _arm_json(study: CompareConfig, arm: Arm, arms: Mapping[str, Arm], lr: float) -> dict[str, Any]:
    own, against = study.used_arms[arm.name], study.against(arm.name)
    return {
        "name": arm.name,
        "config": arm.source,
        "builds_on": own.builds_on,
        "against": against,
        "overrides": list(arm.overrides),
        "description": own.description,
        "differences": [] if against is None else [list(each) for each in differences(study, arm, arms[against])],
        "ffn_size_was": arm.ffn_size_was,
        "parameters": arm.parameters("all"),
        "parameters_without_embeddings": arm.parameters("without_embeddings"),
        "vocab_size": arm.config.model.vocab_size,
        "flops_per_token": arm.flops_per_token,
        "bytes_per_token": arm.bytes_per_token,
        "lr": lr,
        "steps": arm.steps,
        "tokens": arm.tokens,
        "bytes": arm.num_bytes,
        "flops": arm.flops,
    }


def data_sha256(config: RunConfig) -> list[str]:
    """Of each source's manifest, or of what ModelZoo's files look like from outside; and of a named tokenizer."""
    found = []
    for source in config.data.used_sources():
        manifest = Path(source.path, MANIFEST)
        found += [file_sha256(manifest)] if manifest.is_file() else _stamps(h5_files(Path(source.path)))
    named = Path(config.data.tokenizer) if config.data.tokenizer else None
    return found + [file_sha256(path) for path in _files(named) if path.suffix in (".json", ".bpe")]


def base_sha256(config: RunConfig) -> list[str]:
    """Of the weights that a run continues from: hashes of what describes them, sizes and times of the rest."""
    base = Path(config.continue_from) if config.continue_from else None
    files = _files(base)
    small = [file_sha256(path) for path in files if path.suffix == ".json"]
    return small + _stamps(path for path in files if path.suffix in (".safetensors", ".bin"))


def _files(path: Path | None) -> list[Path]:
    if path is None or not path.exists():
        return []
    return [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())


def _stamps(paths: Iterable[Path]) -> list[str]:
    return [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in paths]


@cache
def code_sha256(parts: tuple[str, ...] = RUN_CODE) -> str:
    """Of files of this package, and of all in its folders."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for part in parts:
        for path in [package / part] if part.endswith(".py") else sorted((package / part).rglob("*.py")):
            digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Of what the runs are made with."""
    from importlib.metadata import version

    return {
        "modelzoo": version("modelzoo"),
        "torch": re.sub(r"\+.*", "", version("torch")),
        "python": platform.python_version(),
        "code_sha256": code_sha256(),
    }
