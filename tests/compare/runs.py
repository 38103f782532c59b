"""Folders of studies as they lie when their runs are done, with numbers made up for a test."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import yaml

SEEDS = (0, 1, 2)
STEPS, TOKENS_PER_STEP, BYTES_PER_TOKEN = 480, 2048, 3.42
MACHINE = {"device": "cpu", "name": "a processor of 2 cores", "threads": 2, "ranks": 1, "precision": "fp32",
           "system": "Linux", "python": "3.11.7", "torch": "2.13.0"}  # fmt: skip
DIVERGENCE = "step 193: the loss is nan."


@dataclass(frozen=True)
class Arm:
    """What an arm of a made-up study is and does."""

    name: str
    change: float = 0.0
    """Of bits per byte against the baseline."""
    against: str | None = None
    """None: the baseline."""
    overrides: Sequence[str] = ()
    description: str = ""
    speed: float = 1.0
    """Against the baseline's tokens per second."""
    bytes_per_token: float = BYTES_PER_TOKEN


TWO = [Arm("gptj"), Arm("gpt_neox", -0.021, overrides=["model=gpt_neox"], speed=0.97)]
LADDER = [
    Arm("gptj", description="GPT-J: tied LayerNorm, interleaved rotary, mesh_jax"),
    Arm("untied_norm", -0.004, "gptj", ["model.tied_norm=false"], "two LayerNorms in place of one", 0.98),
    Arm("half_rotary", -0.0042, "untied_norm", ["model.position.style=half"], "rotary by halves, not pairs", 0.99),
    Arm("attention_bias", -0.0051, "half_rotary", ["model.attention_bias=true"], "QKV and output get a bias", 0.97),
    Arm("no_head_bias", -0.003, "attention_bias", ["model.lm_head_bias=false"], "the output layer has no bias", 0.98),
    Arm("gelu_exact", -0.0035, "no_head_bias", ["model.activation=gelu"], "gelu by erf, not by tanh", 0.93),
    Arm("small_init", -0.0412, "gelu_exact", ["model.init.scheme=small_wang"], "small_init and wang_init", 0.93),
    Arm("neox_vocabulary", -0.062, "small_init", ["data.train.path=data/neox", "data.validation.path=data/neox"],
        "BPE that knows runs of spaces", 0.9, 3.81),
    Arm("sinusoidal_rest", 0.012, "half_rotary", ["model.position.rest=sinusoidal"],
        "side rung: fixed sinusoids in the unrotated 75 %", 0.96),
]  # fmt: skip


@dataclass
class Study:
    """A made-up study; `write` puts it into a folder."""

    arms: Sequence[Arm] = field(default_factory=lambda: TWO)
    name: str = "gptj_vs_neox_tiny"
    description: str = "GPT-J against GPT-NeoX at 1.9 M parameters, on Python's own sources"
    seeds: Sequence[int] = SEEDS
    domains: Sequence[str] = ("",)
    documents: int = 60
    seed_noise: float = 0.0012
    steps: int = STEPS
    lr_grid: Sequence[float] | None = None
    missing: Sequence[tuple[str, int]] = ()
    """(arm, seed) of runs that never ended."""
    diverged: Sequence[tuple[str, int]] = ()
    """(arm, seed) of runs whose training ended with an error."""
    machines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By arm, what is other on its machine."""
    speed: bool = True

    def write(self, output_dir: Path) -> Path:
        """Write plan, runs and speed; returns the study's folder."""
        folder = output_dir / self.name
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text(json.dumps(self._plan()), encoding="utf-8")
        if self.speed:
            (folder / "speed.json").write_text(json.dumps(self._speed()), encoding="utf-8")
        for run in self._runs():
            self._write_run(output_dir / "runs" / run["name"], run)
        return folder

    def _plan(self) -> dict[str, Any]:
        base = self.arms[0].name
        arms = []
        for number, arm in enumerate(self.arms):
            tokens = self.steps * TOKENS_PER_STEP
            differences = [[part.partition("=")[0], "as it was", part.partition("=")[2]] for part in arm.overrides]
            arms.append(
                {"name": arm.name, "config": "gptj_tiny" if number == 0 else None, "builds_on": arm.against,
                 "against": None if number == 0 else arm.against or base, "overrides": list(arm.overrides),
                 "description": arm.description, "differences": differences, "family_hint": "",
                 "parameters": 3_356_160 + 768 * number, "parameters_without_embeddings": 1_783_296 + 768 * number,
                 "vocab_size": 4096, "flops_per_token": 16_146_432 + 4_608 * number,
                 "bytes_per_token": arm.bytes_per_token, "lr": 3e-3, "steps": self.steps, "tokens": tokens,
                 "bytes": tokens * arm.bytes_per_token, "flops": tokens * (16_146_432 + 4_608 * number)}
            )  # fmt: skip
        fairness = [
            ("nothing differs but what the study is about", True, "model.* (may: model.*)"),
            ("same documents in the same order", True, "one dataset, data/python_stdlib (train)"),
            ("same held-out text", True, "validation: data/python_stdlib (validation)"),
            ("same budget in tokens", True, f"{self.steps * TOKENS_PER_STEP:,} tokens"),
            ("parameters alike (all)", True, "at most 0.18% apart, 2.00% allowed"),
            ("same schedule in relative terms", True, "cosine, warm-up 6.1% of the run"),
            ("learning rates", True, "0.003 for all; not the best one for each"),
            ("same seeds", True, f"{len(self.seeds)}: {', '.join(map(str, self.seeds))}, paired"),
        ]
        budget = {"unit": "tokens", "amount": self.steps * TOKENS_PER_STEP}
        return {
            "schema": 1,
            "study": {"name": self.name, "description": self.description, "baseline": base, "seeds": list(self.seeds),
                      "budget": budget, "batch": "tokens", "lr_grid": self.lr_grid, "confidence": 0.95,
                      "parameters": {"count": "all", "within": 0.02}},
            "arms": arms,
            "fairness": [{"check": check, "held": held, "detail": detail} for check, held, detail in fairness],
            "runs": self._runs(),
            "commands": [f"modelzoo compare compare/{self.name}"],
            "versions": {"modelzoo": "1.0", "torch": "2.13.0", "python": "3.11.7", "code_sha256": "c0de" * 16},
        }  # fmt: skip

    def _runs(self) -> list[dict[str, Any]]:
        runs = []
        wanted = [("compare", seed, 3e-3) for seed in self.seeds] + [("lr", 1000, lr) for lr in self.lr_grid or ()]
        for purpose, seed, lr in wanted:
            for arm in self.arms:
                mark = hashlib.sha256(f"{arm.name} {seed} {lr}".encode()).hexdigest()
                name = f"{arm.name}-seed_{seed}-{mark[:10]}"
                runs.append({"arm": arm.name, "seed": seed, "purpose": purpose, "lr": lr, "name": name,
                             "dir": f"runs/compare/runs/{name}", "sha256": mark, "reused": False})  # fmt: skip
        return runs

    def _write_run(self, folder: Path, run: Mapping[str, Any]) -> None:
        arm = next(arm for arm in self.arms if arm.name == run["arm"])
        diverged = (arm.name, run["seed"]) in self.diverged
        ended = (arm.name, run["seed"]) not in self.missing and not diverged
        folder.mkdir(parents=True)
        train = {"kind": "dataset", "path": "data/stdlib" if arm.bytes_per_token == BYTES_PER_TOKEN else "data/neox"}
        config = {"name": run["name"], "seed": run["seed"], "data": {"train": train, "seq_len": 256},
                  "trainer": {"global_batch_size": 8}}  # fmt: skip
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        machine = MACHINE | dict(self.machines.get(arm.name, {}))
        (folder / "machine.json").write_text(json.dumps(machine), encoding="utf-8")
        level = (1 + arm.change) * (1 + 0.04 * math.log(run["lr"] / 3e-3) ** 2)
        level *= 1 + self.seed_noise * np.random.default_rng([run["seed"], crc32(arm.name.encode())]).standard_normal()
        lines = self._metrics(arm, run["seed"], level, 1.0 if ended else 0.4, train["path"])
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        if ended:
            (folder / "held_out.json").write_text(json.dumps(self._held_out(arm, run["seed"], level)))
        if diverged:
            found = {"schema": 1, "step": 192, "max_bytes": 10**6, "diverged": DIVERGENCE, "sets": {}}
            (folder / "held_out.json").write_text(json.dumps(found))

    def _metrics(self, arm: Arm, seed: int, level: float, part: float, data: str) -> list[dict[str, Any]]:
        draw, lines = np.random.default_rng([seed, 7, crc32(arm.name.encode())]), []
        for step in range(0, int(part * self.steps) + 1, max(1, self.steps // 24)):
            tokens = step * TOKENS_PER_STEP
            if step:
                chain = hashlib.sha256(f"{data} {seed} {step}".encode()).hexdigest()
                lines.append(
                    {"step": step, "tokens": tokens, "loss": 3.0, "lr": 3e-3, "batches_sha256": chain,
                     "tokens_per_second": 9_400 * arm.speed * (1 + 0.02 * draw.standard_normal()),
                     "peak_memory_bytes": 610_000_000}
                )  # fmt: skip
            now = level * (1.62 + 1.4 * math.exp(-5 * step / self.steps)) * (1 + 0.001 * draw.standard_normal())
            bits = {f"validation_bits_per_byte{'/' + name if name else ''}": now * (1 + 0.1 * number)
                    for number, name in enumerate(self.domains)}  # fmt: skip
            lines.append({"step": step, "tokens": tokens, **bits})
        return lines

    def _held_out(self, arm: Arm, seed: int, level: float) -> dict[str, Any]:
        sets = {}
        for number, name in enumerate(self.domains):
            text = np.random.default_rng([number, 1])
            num_bytes = text.integers(400, 9_000, self.documents)
            hard = num_bytes * 1.63 * (1 + 0.1 * number) * (1 + 0.2 * text.standard_normal(self.documents))
            own = np.random.default_rng([number, seed, crc32(arm.name.encode())]).standard_normal(self.documents)
            sums = hard * level * (1 + 0.004 * own) * math.log(2)
            sets[name] = {"num_bytes": num_bytes.tolist(), "loss_sums": sums.tolist(),
                          "num_tokens": (num_bytes / arm.bytes_per_token).astype(int).tolist(),
                          "documents_sha256": hashlib.sha256(name.encode()).hexdigest()}  # fmt: skip
        return {"schema": 1, "step": self.steps, "checkpoint": f"step_{self.steps:08}", "sets": sets}

    def _speed(self) -> dict[str, Any]:
        training, generation, rounds = {}, {}, 20
        load = 1 + 0.05 * np.random.default_rng(5).random(rounds)  # of the machine, felt by every arm of a round
        for number, arm in enumerate(self.arms):
            noise = 1 + 0.01 * np.random.default_rng([6, number]).standard_normal((2, rounds))
            training[arm.name] = {
                "step_seconds": (0.218 / arm.speed * load * noise[0]).tolist(),
                "tokens_per_step": TOKENS_PER_STEP,
                "peak_memory_bytes": 610e6 + 4e6 * number,
            }
            generation[arm.name] = {"seconds": (0.31 / arm.speed**0.5 * load * noise[1]).tolist(), "new_tokens": 64}
        return {"schema": 1, "device": "cpu", "threads": 2, "precision": "fp32", "rounds": rounds,
                "training": training, "generation": generation,
                "all_reduces": {arm.name: {"forward": 1, "backward": 1} for arm in self.arms}}  # fmt: skip


def runs_of(folder: Path, arm: str) -> list[Path]:
    """The folders of an arm's runs, in the order of their seeds."""
    return sorted((folder.parent / "runs").glob(f"{arm}-seed_?-*"))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Another content of a file of JSON: `change` takes the old one, and changes it in place."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def check(report: Mapping[str, Any], start: str) -> dict[str, Any]:
    """The one check of fairness of a report whose name begins with `start`."""
    (found,) = [entry for entry in report["fairness"] if entry["check"].startswith(start)]
    return found
