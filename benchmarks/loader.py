"""Reading random rows for training: the whole loader against raw maps and other loaders, on the same tokens.

    python -m benchmarks.loader [--peers-python VENV/bin/python] [--rounds 40] [--json FILE]

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
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from modelzoo.data.dataset import TokenDataset
from modelzoo.data.loader import BatchLoader
from modelzoo.data.mixture import MixtureLoader, Source
from modelzoo.data.modelzoo_files import open_modelzoo_files
from modelzoo.data.schema import (
    SCHEMA_VERSION,
    LedgerInfo,
    Manifest,
    Pieces,
    ShardHeader,
    ShardInfo,
    SplitInfo,
    TokenizerInfo,
    file_sha256,
    write_manifest,
    write_shard,
)

VOCAB_SIZE = 50_257
SCRIPT = Path(__file__).resolve().parent / "peers" / "loader_rows.py"
OURS = "ours: BatchLoader"
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
    parser.add_argument("--keep-memory", action="store_true", help="in this process, as modelzoo train does on CPUs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    return parser.parse_args()


def write_dataset(folder: Path, tokens: np.ndarray, num_shards: int) -> None:
    """A dataset of documents of about 500 tokens, without preprocessing."""
    ends = np.flatnonzero(tokens == 0) + 1
    cuts = [0, *(ends[len(ends) * part // num_shards - 1] for part in range(1, num_shards + 1))]
    shards = []
    folder.mkdir()
    for number, (start, stop) in enumerate(pairwise(cuts)):
        lengths = np.diff(ends[(ends > start) & (ends <= stop)], prepend=start)
        counts = {"num_documents": len(lengths), "num_tokens": int(stop - start), "num_bytes": len(lengths)}
        file = folder / f"{number:05}.h5"
        header = ShardHeader(SCHEMA_VERSION, "-", VOCAB_SIZE, 0, "lm", **counts, source_config="{}")
        write_shard(file, header, [Pieces(lengths, np.ones_like(lengths), tokens[start:stop])], has_loss_mask=False)
        shards.append(ShardInfo(file=file.name, sha256=file_sha256(file), **counts))
    names = ("num_documents", "num_tokens", "num_bytes")
    sums = {name: sum(getattr(shard, name) for shard in shards) for name in names}
    nothing = dict.fromkeys(LedgerInfo.model_fields, 0)  # it was not preprocessed
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        settings={},
        inputs=(),
        tokenizer=TokenizerInfo(sha256="-", vocab_size=VOCAB_SIZE, end_of_document_id=0),
        splits={"train": SplitInfo(shards=tuple(shards), **sums)},
        ledger=LedgerInfo.model_validate(nothing | {"rejected_by_reason": {}, "rejected_sha256": "", "sources": {}}),
    )
    write_manifest(folder, manifest)


def arms_of_ours(folder: Path, seq_len: int, batch_size: int) -> dict[str, Callable[[int], object]]:
    """Our loaders, as functions of the step."""

    def dataset(name: str, *options: object) -> TokenDataset:
        return TokenDataset(folder / name, "train", seq_len, *options)  # type: ignore[arg-type]

    mixture = {name: Source(dataset("one"), weight) for name, weight in {"a": 4.0, "b": 2.0, "c": 1.0}.items()}
    samples = open_modelzoo_files(folder / "samples", seq_len, False, VOCAB_SIZE)
    return {
        OURS: BatchLoader(dataset("one"), batch_size, 0).batch,
        "ours: 16 shards": BatchLoader(dataset("many"), batch_size, 0).batch,
        "ours: mixture of 3": MixtureLoader(mixture, batch_size, 0).batch,
        "ours: isolated": BatchLoader(dataset("one", "stream", True), batch_size, 0).batch,
        "ours: best_fit, isolated": BatchLoader(dataset("one", "best_fit", True), batch_size, 0).batch,
        "ours: ModelZoo's sample files": BatchLoader(samples, batch_size, 0).batch,
    }


def arms_in_process(
    folder: Path, tokens: np.ndarray, length: int, batch_size: int
) -> dict[str, Callable[[int], object]]:
    """What needs numpy and h5py only. Each takes random rows by its own `draw`."""
    draw = np.random.default_rng(0)
    path = folder / "tokens.bin"
    mapped = np.memmap(path, dtype=np.uint16, mode="r")
    stored = h5py.File(folder / "one" / "00000.h5", "r")["tokens"]
    sample_file = h5py.File(folder / "samples" / "a.h5", "r")["data"]

    def starts(limit: int = len(tokens) - length) -> list[int]:
        return draw.integers(0, limit, batch_size).tolist()

    def nanogpt(_: int) -> object:  # its get_batch, without torch: the map is made anew for every batch
        data = np.memmap(path, dtype=np.uint16, mode="r")
        chosen = starts()
        x = np.stack([data[i : i + length - 1].astype(np.int64) for i in chosen])
        return x, np.stack([data[i + 1 : i + length].astype(np.int64) for i in chosen])

    return {
        "memmap rows, as stored": lambda _: [np.array(mapped[i : i + length]) for i in starts()],
        "memmap rows, int64": lambda _: [mapped[i : i + length].astype(np.int64) for i in starts()],
        "nanoGPT get_batch": nanogpt,
        "h5py d[i:j]": lambda _: np.stack([stored[i : i + length] for i in starts()]),
        "h5py (N, 3, MSL) gzip": lambda _: np.stack([sample_file[i] for i in starts(len(sample_file))]),
    }


def timed(batch: Callable[[int], object], batches: int) -> Arm:
    """The arm of a function of the step; steps go on from round to round."""
    step = 0

    def run() -> float:
        nonlocal step
        started = time.perf_counter()
        for _ in range(batches):
            batch(step)
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
        from modelzoo.trainer.accelerator import keep_freed_memory

        keep_freed_memory()
    length, batch_size = arguments.seq_len + 1, arguments.batch_size
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw = np.random.default_rng(0)
        tokens = draw.integers(1, VOCAB_SIZE, int(arguments.tokens), dtype=np.uint16)
        tokens[draw.random(len(tokens)) < 1 / 500] = 0
        tokens[-1] = 0
        tokens.tofile(folder / "tokens.bin")
        write_dataset(folder / "one", tokens, 1)
        write_dataset(folder / "many", tokens, 16)
        (folder / "samples").mkdir()
        with h5py.File(folder / "samples" / "a.h5", "w") as file:
            rows = tokens[: 2000 * arguments.seq_len].reshape(-1, arguments.seq_len)
            data = np.stack([rows, np.ones_like(rows), rows], axis=1).astype(np.int32)
            file.create_dataset("data", data=data, chunks=(1, *data.shape[1:]), compression="gzip", compression_opts=4)
        functions = arms_of_ours(folder, arguments.seq_len, batch_size)
        functions |= arms_in_process(folder, tokens, length, batch_size)
        arms: dict[str, Arm] = {name: timed(function, arguments.batches) for name, function in functions.items()}
        sizes = ["--length", length, "--batch-size", batch_size, "--batches", arguments.batches]
        for name in ("litdata", "datatrove"):
            command = [arguments.peers_python, SCRIPT, name, folder / "tokens.bin", *sizes]
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
