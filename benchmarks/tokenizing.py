"""Bare tokenizing: the rates of several packages on the same text, and whether their ids are the same.

    python -m benchmarks.tokenizing --input FILE.jsonl --tokenizer PATH --peers-python VENV/bin/python

Each figure comes from a process of its own, and the packages take turns; no start-up, no reading, no writing.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from benchmarks.peers.encoders import ENCODERS
from modelzoo.tokenizer import Tokenizer

SCRIPT = Path(__file__).resolve().parent / "peers" / "encoders.py"
REFERENCE = "tokenizers.encode"
"""Its ids are the right ones, and its rate is the unit."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--input", type=Path, required=True, help="JSONL with the key `text`")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json, or GPT-2's encoder.json")
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has the packages (this one)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="threads and cores (%(default)s)")
    parser.add_argument("--max-bytes", type=float, default=10e6, help="take no more text than this (%(default).0e)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    arguments = parse()
    cases = [(name, threads) for threads in arguments.threads for name in ENCODERS]
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {case: [] for case in cases}
    notes: dict[tuple[str, int], str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer = Path(temporary, "tokenizer.json")
        Tokenizer.load(arguments.tokenizer).save(tokenizer)
        common = ["--input", arguments.input, "--tokenizer", tokenizer, "--max-bytes", arguments.max_bytes]
        for _ in range(arguments.rounds):
            for name, threads in cases:
                if (name, threads) in notes:
                    continue
                command = [arguments.peers_python, SCRIPT, name, "--threads", threads, *common]
                found = subprocess.run(list(map(str, command)), capture_output=True, text=True)
                if found.returncode:
                    notes[name, threads] = (found.stderr.strip().splitlines() or ["failed"])[-1]
                else:
                    runs[name, threads].append(json.loads(found.stdout.splitlines()[-1]))
    if notes.get((REFERENCE, arguments.threads[0])):
        raise SystemExit(f"{REFERENCE}: {notes[REFERENCE, arguments.threads[0]]}")
    first = runs[REFERENCE, arguments.threads[0]][0]
    print(f"\n{arguments.input.name}: {first['bytes'] / 1e6:.1f} MB of text, {first['tokens']:,} tokens")
    for threads in arguments.threads:
        print(f"\n{f'threads: {threads}':<32} {'MB/s (min–max)':>24} {'ratio':>8}  ids")
        for name in ENCODERS:
            if note := notes.get((name, threads)):
                print(textwrap.shorten(f"{name:<32} {note}", 80))
                continue
            rates = [run["bytes"] / 1e6 / run["seconds"] for run in runs[name, threads]]
            unit = statistics.median(run["bytes"] / 1e6 / run["seconds"] for run in runs[REFERENCE, threads])
            rate = statistics.median(rates)
            same = all(run["sha256"] == first["sha256"] for run in runs[name, threads])
            spread = f"{rate:.1f} ({min(rates):.1f}–{max(rates):.1f})"
            print(f"{name:<32} {spread:>24} {rate / unit:>8.1f}  {'equal' if same else 'DIFFERENT'}")
    if arguments.json:
        figures = [{"name": name, "threads": threads, "runs": runs[name, threads]} for name, threads in cases]
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
