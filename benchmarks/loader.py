"""Reading random rows for training: the whole loader against raw maps and other loaders, on the same tokens.

    python -m benchmarks.loader [--peers-python VENV/bin/python] [--cerebras-modelzoo DIR] [--rounds 40] [--json FILE]

All arms take turns within each round; what is printed are medians and quartiles over the
rounds, and ratios of them.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.loader_readers import OURS, Reader, readers_of_others, readers_of_ours, write_corpus

SCRIPT = Path(__file__).resolve().parent / "peers" / "loader_rows.py"
PEERS = ("litdata", "datatrove", "ModelZoo")
Arm = Callable[[], float]
"""Runs its batches once and returns the microseconds of one."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=float, default=50e6, help="in the corpus (%(default).0e)")
    parser.add_argument("--seq-len", type=int, default=2048, help="(%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="rows (%(default)s)")
    parser.add_argument("--batches", type=int, default=20, help="of each arm in a round (%(default)s)")
    parser.add_argument("--rounds", type=int, default=40, help="(%(default)s)")
    parser.add_argument("--peers-python", default=sys.executable, help="interpreter that has litdata and datatrove")
    parser.add_argument("--cerebras-modelzoo", type=Path, metavar="DIR", help="checkout of Cerebras/modelzoo")
    parser.add_argument("--keep-memory", action="store_true", help="in this process, as modelzoo train does on CPUs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    found = parser.parse_args()
    if found.rounds < 2:
        parser.error(f"--rounds {found.rounds}: expected at least 2, for quartiles")
    if found.tokens < (found.seq_len + 1) * found.batch_size:
        parser.error(f"--tokens {found.tokens:.0f}: expected no less than a batch has")
    return found


def timed(reader: Reader, batches: int) -> Arm:
    """The arm of a function of the step; steps go on from round to round."""
    step = 0

    def run() -> float:
        nonlocal step
        started = time.perf_counter()
        for _ in range(batches):
            reader(step)
            step += 1
        return (time.perf_counter() - started) / batches * 1e6

    return run


def outside(command: list[str]) -> Arm | None:
    """A peer in a process of its own, which works only while it is asked; None, and a line, where it cannot."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    if process.stdout.readline().strip() != "ready":
        reason = (process.stderr.read().strip().splitlines() or ["failed"])[-1]
        print(f"{command[2]}: skipped ({reason})")
        return None

    def run() -> float:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        return float(process.stdout.readline())  # type: ignore[union-attr]

    return run


def main() -> None:
    """Measure and print."""
    arguments = parse()
    if arguments.keep_memory:
        from modelzoo.allocator import keep_freed_memory

        keep_freed_memory()
    torch.set_num_threads(1)  # here as in the peers' processes: loading goes on beside a model that has the others
    sizes = (arguments.seq_len, arguments.batch_size)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tokens = write_corpus(folder, int(arguments.tokens), arguments.seq_len)
        readers = readers_of_ours(folder, *sizes) | readers_of_others(folder, tokens, *sizes)
        arms: dict[str, Arm] = {name: timed(reader, arguments.batches) for name, reader in readers.items()}
        options = ["--length", arguments.seq_len + 1, "--batch-size", arguments.batch_size]
        options += ["--batches", arguments.batches]
        if arguments.cerebras_modelzoo:
            options += ["--checkout", arguments.cerebras_modelzoo.resolve()]
        for name in PEERS if arguments.cerebras_modelzoo else PEERS[:-1]:
            command = [arguments.peers_python, SCRIPT, name, folder / "tokens.bin", *options]
            if arm := outside(list(map(str, command))):
                arms[name] = arm
        for arm in arms.values():
            arm()
        times: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(arguments.rounds):
            for name, arm in arms.items():
                times[name].append(arm())
    report(times, arguments)


def report(times: dict[str, list[float]], arguments: argparse.Namespace) -> None:
    """The table; a ratio above 1 says that ours is faster."""
    print(f"batches of {arguments.batch_size} × {arguments.seq_len} tokens, {arguments.rounds} rounds")
    print(f"{'':<30} {'µs a batch (quartiles)':>28} {'k rows/s':>10} {'ours ×':>8} {'of lower quartiles':>19}")
    best, ours, _ = statistics.quantiles(times[OURS], n=4)
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        spread = f"{median:,.0f} ({low:,.0f}–{high:,.0f})"
        rate, ratios = arguments.batch_size / median * 1e3, (median / ours, low / best)
        print(f"{name:<30} {spread:>28} {rate:>10,.1f} {ratios[0]:>8.2f} {ratios[1]:>19.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(times, indent=1) + "\n")


if __name__ == "__main__":
    main()
