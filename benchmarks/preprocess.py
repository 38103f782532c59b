"""JSONL to training files: `modelzoo preprocess` beside other programs that do it.

    python -m benchmarks.preprocess --input FILE.jsonl --tokenizer PATH --peers-python VENV/bin/python

Whole processes, start-up included, take turns (A B C A B C …); README.md says what is held equal.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.process_tree import Measured, busy_elsewhere, run
from modelzoo.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).resolve().parent / "peers"
PACKAGES = {  # script -> (label, packages that it needs)
    "datatrove_tokens": ("datatrove", ("datatrove", "tokenizers", "orjson")),
    "litdata_optimize": ("litdata", ("litdata", "tokenizers", "torch")),
    "nanogpt_prepare": ("nanoGPT-style", ("datasets", "tiktoken", "tokenizers")),
    "tokenizers_bare": ("tokenizers, bare", ("tokenizers",)),
    "gpt_neox_preprocess": ("gpt-neox", ("lm_dataformat", "ftfy", "transformers", "sentencepiece", "torch")),
    "cerebras_modelzoo_preprocess": (
        "ModelZoo",
        ("transformers", "datasets", "h5py", "psutil", "ftfy", "pydantic", "rich", "tqdm", "zstandard"),
    ),
}
CHECKOUTS = {"gpt_neox_preprocess": "gpt_neox", "cerebras_modelzoo_preprocess": "cerebras_modelzoo"}
"""script -> option with the directory of the peer's source."""
BUSY = 0.06
"""Above this share of the machine in other hands before a run, its time is in doubt."""


@dataclass
class Arm:
    """One program that takes part, and what its runs gave."""

    label: str
    command: list[str]
    num_tokens_of: Callable[[Path, str], int]
    """Output directory, printed text -> tokens written."""
    note: str = ""
    """Why it does not take part (any more); empty while it does."""
    environment: dict[str, str] = field(default_factory=dict)
    """Added to the variables of all."""
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    num_tokens: int | None = None
    busy: list[float] = field(default_factory=list)
    """Share of the machine that others used just before each timed run."""

    @property
    def median(self) -> float:
        """Of the timed runs, seconds."""
        return statistics.median(self.seconds)

    @property
    def latest(self) -> str:
        """What the latest run gave, for the progress lines."""
        if self.seconds:
            return f"{self.seconds[-1]:.2f} s"
        return "done" if self.peak_bytes is None else f"peak {self.peak_bytes / 1e6:,.0f} MB"

    def turn(self, work: Path, environment: dict[str, str], arguments: argparse.Namespace, timed: bool) -> None:
        """Run once, with an output directory that is removed again."""
        output = work / "output"
        output.mkdir()
        os.sync()  # or this run would pay for writing back the pages of the one before
        deadline = time.monotonic() + arguments.patience * timed
        while (busy := busy_elsewhere()) is not None and busy > BUSY and time.monotonic() < deadline:
            pass
        measured = run(self.command, environment | self.environment, work, arguments.timeout, sample_memory=not timed)
        try:
            self._record(measured, output, busy, timed)
        finally:
            shutil.rmtree(output)

    def _record(self, measured: Measured, output: Path, busy: float | None, timed: bool) -> None:
        if measured.returncode != 0:
            last = (measured.output.strip().splitlines() or ["no output"])[-1]
            self.note = f"failed with {measured.returncode} after {measured.seconds:.0f} s: {last}"
            print(measured.output, file=sys.stderr)
        elif not timed:
            self.peak_bytes = measured.peak_bytes
            self.num_tokens = self.num_tokens_of(output, measured.output)
            for answer in _answers(measured.output):
                self.label = answer.get("label", self.label)
        else:
            self.seconds.append(measured.seconds)
            if busy is not None:
                self.busy.append(busy)


def _answers(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if line.startswith('{"'):
            yield json.loads(line)


def _printed_tokens(output: Path, text: str) -> int:
    return next(answer["tokens"] for answer in _answers(text) if "tokens" in answer)


def _manifest_tokens(output: Path, text: str) -> int:
    manifest = json.loads((output / "dataset" / "manifest.json").read_text())
    return sum(split["num_tokens"] for split in manifest["splits"].values())


def our_arms(settings: list[list[str]], source: Path, tokenizer: Path, work: Path) -> list[Arm]:
    """One arm for each list of overrides; the first is what the peers are compared with."""
    config = work / "benchmark.yaml"
    content = {
        "name": "benchmark",
        "reader": {"kind": "jsonl", "paths": str(source)},
        "tokenizer": str(tokenizer),
        "output": str(work / "output" / "dataset"),
        "validation_fraction": 0.01,
    }
    config.write_text(yaml.safe_dump(content, sort_keys=False))
    start = "from modelzoo.cli.main import main; main()"
    return [
        Arm(
            "modelzoo" if number == 1 else f"modelzoo ({number})",
            [sys.executable, "-c", start, "preprocess", str(config), *overrides],
            _manifest_tokens,
            environment={"PYTHONPATH": str(ROOT)},
        )
        for number, overrides in enumerate(settings, start=1)
    ]


def peer_arms(python: str, checkouts: dict[str, Path | None], arguments: list[str]) -> tuple[list[Arm], dict[str, str]]:
    """The peers, those that cannot run with the reason as their note; and the packages' versions. `checkouts` by the
    names of their options."""
    versions = _versions(python, sorted({package for _, packages in PACKAGES.values() for package in packages}))
    arms = []
    for script, (label, packages) in PACKAGES.items():
        missing = [package for package in packages if package not in versions]
        command = [python, str(PEERS / f"{script}.py"), *arguments]
        note = f"not installed ({', '.join(missing)})" if missing else ""
        if script in CHECKOUTS:
            option = CHECKOUTS[script]
            command += ["--checkout", str(checkouts.get(option))]
            note = note if checkouts.get(option) else f"not run (--{option.replace('_', '-')} DIR)"
        arms.append(Arm(label, command, _printed_tokens, note))
    return arms, versions


def _versions(python: str, packages: list[str]) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, importlib.util as u, json, sys\n"
        "print(json.dumps({p: m.version(p) for p in sys.argv[1:] if u.find_spec(p)}))"
    )
    # -P: the current directory may hold a folder that is called like a package
    found = subprocess.run([python, "-P", "-c", code, *packages], capture_output=True, text=True, check=True)
    return dict(json.loads(found.stdout))


def split_in_parts(source: Path, directory: Path, num_parts: int) -> None:
    """The lines of `source`, in order, in `num_parts` files of about the same size."""
    directory.mkdir()
    share = source.stat().st_size / num_parts
    with source.open("rb") as lines:
        for part in range(num_parts):
            with (directory / f"{part}.jsonl").open("wb") as out:
                while (part == num_parts - 1 or lines.tell() < share * (part + 1)) and (line := lines.readline()):
                    out.write(line)


def take_turns(
    arms: list[Arm], source: Path, work: Path, environment: dict[str, str], arguments: argparse.Namespace
) -> None:
    """One round for memory, which also warms the caches, then the timed ones. Raises SystemExit where ours fails."""
    for number in range(arguments.rounds + 1):
        for arm in arms:
            if arm.note:
                continue
            source.read_bytes()  # in the page cache for everybody
            arm.turn(work, environment, arguments, timed=number > 0)
            print(f"round {number}/{arguments.rounds} {arm.label}: {arm.note or arm.latest}", file=sys.stderr)
            if arm.note and arm.label.startswith("modelzoo"):
                raise SystemExit(f"{arm.label} {arm.note}")


def table(arms: list[Arm], num_bytes: int) -> str:
    """At most 80 columns."""
    ours = arms[0]
    lines = [f"{'':19} {'seconds (min–max)':>20} {'MB/s':>6} {'ours ×':>7} {'peak MB':>8} {'tokens':>12}"]
    for arm in arms:
        if arm.note:
            lines.append(textwrap.shorten(f"{arm.label:<19} {arm.note}", 80))
            continue
        spread = f"{arm.median:.2f} ({min(arm.seconds):.2f}–{max(arm.seconds):.2f})"
        peak = "n/a" if arm.peak_bytes is None else f"{arm.peak_bytes / 1e6:,.0f}"
        lines.append(
            f"{arm.label:<19} {spread:>20} {num_bytes / 1e6 / arm.median:>6.2f} {arm.median / ours.median:>7.2f} "
            f"{peak:>8} {arm.num_tokens:>12,}"
        )
    return "\n".join(lines)


def remarks(arms: list[Arm]) -> Iterator[str]:
    """What a reader of the table has to know besides."""
    for arm in arms:
        if not arm.note and arm.num_tokens != arms[0].num_tokens:
            yield f"{arm.label}: {arm.num_tokens - arms[0].num_tokens:+,} tokens against {arms[0].label}."
        if arm.note.startswith("failed"):
            yield f"{arm.label} {arm.note}"
    before = [share for arm in arms for share in arm.busy]
    if before and (doubtful := sum(share > BUSY for share in before)):
        yield f"{doubtful} of {len(before)} timed runs began while others used more than {BUSY:.0%} of the machine."


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--input", type=Path, required=True, help="JSONL with the key `text`")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json, or GPT-2's encoder.json")
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has the peers (this one)")
    parser.add_argument("--gpt-neox", type=Path, metavar="DIR", help="checkout of EleutherAI/gpt-neox")
    parser.add_argument("--cerebras-modelzoo", type=Path, metavar="DIR", help="checkout of Cerebras/modelzoo")
    labels = [label for label, _ in PACKAGES.values()]
    parser.add_argument("--only", nargs="*", default=labels, choices=labels, metavar="PEER", help=", ".join(labels))
    parser.add_argument(
        "--ours",
        nargs="*",
        action="append",
        metavar="KEY=VALUE",
        help="overrides of our config; given again, a further arm with those (the first is compared with)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (%(default)s), after one for memory")
    parser.add_argument("--workers", type=int, default=2, help="of each peer, and cores for all (%(default)s)")
    parser.add_argument(
        "--patience",
        type=float,
        default=30,
        help="seconds to wait before a timed run for a quiet machine (%(default)s)",
    )
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for one run (%(default)s)")
    parser.add_argument("--work", type=Path, help="directory for outputs, on the disk to be used (temporary)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the running arm and removes the outputs, as Ctrl-C
    source = arguments.input.resolve()
    if hasattr(os, "sched_setaffinity"):  # children inherit it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.workers])
        cores = f"{len(os.sched_getaffinity(0))} cores"
    else:
        cores = f"{os.cpu_count()} cores (cannot be limited here)"
    with tempfile.TemporaryDirectory(dir=arguments.work) as temporary:
        work = Path(temporary)
        tokenizer = work / "tokenizer.json"
        loaded = Tokenizer.load(arguments.tokenizer)
        if loaded.vocab_size > 2**16:
            raise SystemExit(f"{arguments.tokenizer}: {loaded.vocab_size:,} ids; the peers' files here take 65,536")
        loaded.save(tokenizer)
        split_in_parts(source, work / "parts", arguments.workers)
        common = [
            *("--input", str(source), "--parts", str(work / "parts"), "--tokenizer", str(tokenizer)),
            *("--output", str(work / "output"), "--workers", str(arguments.workers)),
        ]
        given = {option: getattr(arguments, option) for option in CHECKOUTS.values()}
        checkouts = {option: path.resolve() if path else None for option, path in given.items()}
        peers, versions = peer_arms(arguments.peers_python, checkouts, common)
        arms = our_arms(arguments.ours or [[]], source, tokenizer, work)
        arms += [arm for arm in peers if arm.label in arguments.only]
        environment = os.environ | {
            "HF_HOME": str(work / "hf"),  # nothing is kept from one benchmark to the next
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPYCACHEPREFIX": str(work / "bytecode"),  # of all, as installed packages have it
        }
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        take_turns(arms, source, work, environment, arguments)

    num_bytes = source.stat().st_size
    print(f"\n{source.name}, {num_bytes / 1e6:.1f} MB; {cores}; {arguments.rounds} rounds\n")
    print(table(arms, num_bytes) + "\n")
    for number, overrides in enumerate(arguments.ours or [[]]):
        print(f"{arms[number].label}: {' '.join(overrides) or 'as it comes'}")
    for remark in [*remarks(arms), "Versions: " + ", ".join(f"{name} {versions[name]}" for name in versions)]:
        print(textwrap.fill(remark, 80))
    if arguments.json:
        content = {
            "input": {"name": source.name, "bytes": num_bytes},
            "machine": {"cores": cores, "system": platform.platform(), "python": platform.python_version()},
            "versions": versions,
            "arms": [
                {name: value for name, value in vars(arm).items() if name != "num_tokens_of"}
                | ({} if arm.note else {"ours_times": arm.median / arms[0].median})
                for arm in arms
            ],
        }
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
