"""What does replay cost and save when a small model goes on to another domain? Arm against arm, over seeds.

    python -m benchmarks.replay --old wiki.jsonl --new medquad.jsonl --seeds 0 1 2 --out DIR [--plot FILE.png]

A `gptj_tiny` is trained on the old domain and continued on the new one, for each seed once in each arm. The naive arm
warms the learning rate up to the base's peak again and reads new text alone. `replay0.25` reads a quarter of old text,
`peak0.3` warms up to three tenths of the peak. Every arm has the same number of tokens, so that replay takes from the
new ones; `_same_new` replays beside as many new tokens as the naive arm reads.

Everything is written below DIR, as YAMLs and runs that `modelzoo` reads by itself. Begun again, it goes on: finished
runs are kept, and more seeds or arms can be added.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from benchmarks.replay_report import NAIVE, draw, table

ROOT = Path(__file__).resolve().parents[1]
SEQ_LEN, BATCH, VOCAB = 256, 8, 4096
EVAL_BATCH = 8
"""Rows: a batch is a block of the report's intervals, which need ten."""
PEAK_LR, FINAL = 3e-3, 0.1
"""The base's highest learning rate, and where every schedule ends, as a part of its own."""
NAME = re.compile(r"naive|(?:replay(?P<share>\d*\.?\d+))?(?:(?:^|_)peak(?P<peak>\d*\.?\d+))?(?P<same_new>_same_new)?")


@dataclass(frozen=True)
class Arm:
    """A way to continue, as its name says: `naive`, `replay0.25`, `peak0.3`, `replay0.25_peak0.3_same_new` …"""

    name: str
    """Also a part of the runs' names."""
    share: float
    """Of all tokens, replayed from the old domain."""
    peak: float
    """To which part of the base's peak the learning rate is warmed up again."""
    same_new: bool
    """As many new tokens as the naive arm, and the replayed ones besides; else as many in all."""

    @classmethod
    def of(cls, name: str) -> "Arm":
        """Raises argparse.ArgumentTypeError where a name says nothing, or a share or a peak that cannot be."""
        found = NAME.fullmatch(name)
        arm = (
            cls(name, float(found["share"] or 0), float(found["peak"] or 1), bool(found["same_new"])) if found else None
        )
        if not name or arm is None or (arm.same_new and not arm.share):
            raise argparse.ArgumentTypeError(f"{name!r}: expected a name like replay0.25, peak0.3, replay0.25_same_new")
        if arm.share >= 1 or arm.peak < FINAL:
            raise argparse.ArgumentTypeError(f"{name}: a share is below 1, and a peak at least {FINAL}")
        return arm

    def tokens(self, budget: int) -> int:
        """In all."""
        return round(budget / (1 - self.share)) if self.same_new else budget


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--old", type=Path, required=True, help="JSONL with the key text: what the base learns")
    parser.add_argument("--new", type=Path, required=True, help="JSONL with the key text: what it is continued on")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--base-seed", type=int, help="all seeds continue from one base, of this seed; else from their own"
    )
    arms = "replay0.25_same_new replay0.25 replay0.1 peak0.3"
    parser.add_argument("--arms", type=Arm.of, nargs="+", default=[*map(Arm.of, arms.split())], help=f"({arms})")
    parser.add_argument("--base-tokens", type=int, default=600_000, help="(%(default)s)")
    parser.add_argument("--tokens", type=int, default=160_000, help="of a continuation (%(default)s)")
    parser.add_argument("--eval-rows", type=int, default=128, help="of each domain, a multiple of 8 (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, on one thread each (%(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()  # it enters the runs' configs, which have to stay what they are
    return arguments


def main() -> None:
    """Train what is missing, print the table and write replay.json."""
    arguments = parse()
    prepare(arguments)
    arms = list(dict.fromkeys([Arm.of(NAIVE), *arguments.arms]))
    with ThreadPoolExecutor(arguments.processes) as pool:
        bases = sorted({base_of(seed, arguments) for seed in arguments.seeds})
        list(pool.map(lambda seed: train_base(seed, arguments), bases))
        configs = {arm.name: written(arguments.out, continued_config(arm, arguments)) for arm in arms}
        jobs = product(configs.items(), arguments.seeds)
        runs = list(pool.map(lambda job: continued(*job[0], job[1], arguments), jobs))
    settings = vars(arguments) | {"arms": [arm.name for arm in arms]}
    found = {"settings": settings, "runs": runs}
    (arguments.out / "replay.json").write_text(json.dumps(found, indent=1, default=str) + "\n")
    print("\n".join(table(runs)))
    if arguments.plot:
        draw(runs, arguments.plot)
        print(f"wrote {arguments.plot}")


def prepare(arguments: argparse.Namespace) -> None:
    """A tokenizer of the old domain, and both domains in its tokens, a twentieth of the documents held out."""
    out, tokenizer = arguments.out, arguments.out / "tokenizer.json"
    (out / "logs").mkdir(parents=True, exist_ok=True)

    def reader(corpus: Path) -> dict[str, Any]:
        return {"kind": "jsonl", "paths": [str(corpus.resolve())]}

    if not tokenizer.exists():
        config = {"name": "tokenizer", "reader": reader(arguments.old), "output": str(tokenizer)}
        modelzoo(out, "tokenizer", "tokenizer", "train", written(out, config | {"vocab_size": VOCAB, "style": "gpt2"}))
    for name, corpus in (("old", arguments.old), ("new", arguments.new)):
        config = {
            "name": name,
            "reader": reader(corpus),
            "tokenizer": str(tokenizer),
            "output": str(out / "data" / name),
            "validation_fraction": 0.05,
            "shuffle_seed": 0,
            "deduplication": {"kind": "exact"},
        }
        modelzoo(out, name, "preprocess", written(out, config))


def base_of(seed: int, arguments: argparse.Namespace) -> int:
    """The seed of the base that this seed's runs continue from."""
    return seed if arguments.base_seed is None else arguments.base_seed


def train_base(seed: int, arguments: argparse.Namespace) -> None:
    """The run `base_<seed>`."""
    train(arguments.out, f"base_{seed}", seed, written(arguments.out, base_config(arguments)))


def continued(arm: str, config: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train the run `<arm>_<seed>`; what its report says."""
    out: Path = arguments.out
    name = f"{arm}_{seed}"
    # another seed than the base's, whose order of the old text would come again
    train(out, name, seed + 1000, config, f"continue_from={out / 'runs' / f'base_{base_of(seed, arguments)}'}")
    report = json.loads((out / "runs" / name / "report.json").read_text())
    domains = {
        domain["name"]: {key: domain[key] for key in ("before", "after", "change", "interval")}
        for domain in report["domains"]
    }
    tokens = {source["name"]: source["tokens"] for source in report["sources"]}
    print(f"{name}: old {domains['old']['after']:.4f}, new {domains['new']['after']:.4f}", file=sys.stderr)
    return {"arm": arm, "seed": seed, **domains, "tokens": tokens}


def base_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """`gptj_tiny` on the old domain, each row once."""
    return {
        "defaults": ["gptj_tiny", {"override data": None}, "_self_"],
        "name": "base",
        "optimizer": {"lr": PEAK_LR},
        "schedule": {"warmup_steps": warmup(arguments.base_tokens), "final_lr_ratio": FINAL},
        **common(arguments, {"old": old_source(arguments) | {"weight": 1}}, arguments.base_tokens),
    }


def continued_config(arm: Arm, arguments: argparse.Namespace) -> dict[str, Any]:
    """The same model from the base's weights. The rate begins where the base's ended, whatever its peak."""
    sources = {"new": source(arguments, "new", "train") | {"weight": 1}}
    if arm.share:
        sources["old"] = old_source(arguments) | {"share": arm.share}
    tokens = arm.tokens(arguments.tokens)
    config = common(arguments, sources, tokens)
    config["callbacks"]["report"] = {"new": ["new"]}
    return {
        "defaults": [
            "gptj_tiny",
            {"override data": None},
            {"override schedule": "rewarm_cosine"},
            {"override callbacks": "continuation"},
            "_self_",
        ],
        "name": arm.name,
        "optimizer": {"lr": PEAK_LR * arm.peak},
        "schedule": {
            "warmup_steps": warmup(tokens),
            "initial_lr_ratio": FINAL / arm.peak,
            "final_lr_ratio": FINAL,
        },
        **config,
    }


def common(arguments: argparse.Namespace, sources: dict[str, Any], tokens: int) -> dict[str, Any]:
    """What base and continuations have in common. Evaluation sees the same rows in all runs of all seeds."""
    return {
        "output_dir": str(arguments.out / "runs"),
        "trainer": {"max_tokens": tokens, "global_batch_size": BATCH},
        "data": {
            "seq_len": SEQ_LEN,
            "train": {"sources": sources},
            "validation": {"sources": {name: source(arguments, name, "validation") for name in ("old", "new")}},
        },
        "callbacks": {
            "evaluate": {
                "every_steps": None,
                "batch_size": EVAL_BATCH,
                "max_batches": arguments.eval_rows // EVAL_BATCH,
            }
        },
    }


def warmup(tokens: int) -> int:
    """A tenth of the run, in steps."""
    return -(-tokens // (10 * BATCH * SEQ_LEN))


def source(arguments: argparse.Namespace, name: str, split: str) -> dict[str, Any]:
    """A split of a domain."""
    return {"path": str(arguments.out / "data" / name), "split": split}


def old_source(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the base is trained on, and nothing else, is what is replayed."""
    return source(arguments, "old", "train") | {"max_tokens": arguments.base_tokens}


def written(out: Path, config: dict[str, Any]) -> str:
    """The path of the config's YAML."""
    path = out / f"{config['name']}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return str(path)


def train(out: Path, name: str, seed: int, config: str, *overrides: str) -> None:
    """`modelzoo train`, which goes on with a run of this name, or finds it at its end."""
    modelzoo(out, name, "train", config, f"name={name}", f"seed={seed}", *overrides)


def modelzoo(out: Path, log: str, *arguments: str) -> None:
    """Run a command on one thread. SystemExit with its last words where it fails."""
    command = [sys.executable, "-c", "from modelzoo.cli.main import main; main()", *arguments]
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path)}
    file = out / "logs" / f"{log}.log"
    with file.open("w") as output:
        code = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment).returncode
    if code:
        raise SystemExit(f"modelzoo {' '.join(arguments)} ended with {code} ({file}):\n{file.read_text()[-2000:]}")


if __name__ == "__main__":
    main()
