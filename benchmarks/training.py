"""A training step: transformers, litgpt and nanoGPT beside ours, on the same weights and data.

    python -m benchmarks.training [--size small base] [--family gptj gpt_neox gpt2] [--precision fp32 bf16]
        [--allocator shipped keep] [--nanogpt DIR] [--only ARM …] [--alone [TIMES]] [--rounds 20] [--json FILE]
    python -m benchmarks.training --device cuda

On a CPU the arms of a table share a process and take turns (A B C A B C …), one process for each allocator, which take
turns too. On a GPU each arm has the device to itself, one after the other. Every arm is warm before the first round:
what it compiles is kept in TORCHINDUCTOR_CACHE_DIR, or where torch keeps it, so that `--rounds 0` prepares a short run.
After 20 steps the losses of all arms are compared: a difference ends the program with exit code 1.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.training_case import positive
from benchmarks.training_figures import BOUNDS, GEMM, WARMUP, Row, comparison, figures, label, table
from benchmarks.training_process import Process
from modelzoo.compare.other_processes import MOST_ROUNDS

if TYPE_CHECKING:
    from benchmarks.training_case import Case

ALLOCATORS = {"shipped": False, "keep": True}
CPU_ONLY = ("alone", "allocator", "cpu_time")
"""Options that mean nothing on a GPU."""


def parse() -> tuple[argparse.Namespace, list["Case"]]:
    """The command line and the cases that it asks for. Whatever is wrong with it ends the program, exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--size", nargs="+", help="small base, on a GPU 125M 1.3B 6B; or as 8x512x8: layers, hidden size, heads"
    )
    parser.add_argument("--family", nargs="+", help="gptj gpt_neox gpt2, on a GPU gptj gpt_neox")
    parser.add_argument("--precision", nargs="+", choices=BOUNDS, help="fp32 bf16, on a GPU bf16")
    parser.add_argument("--allocator", nargs="+", choices=ALLOCATORS, help="glibc's (keep)")
    parser.add_argument("--nanogpt", metavar="DIR", help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--ours", nargs="+", action="append", default=[], metavar="KEY=VALUE", help="a further arm")
    parser.add_argument("--only", nargs="+", metavar="ARM", help="these and the first arm")
    parser.add_argument("--rows", type=positive, help="of a batch")
    parser.add_argument("--seq-len", type=positive)
    parser.add_argument("--rounds", type=_count, default=20, help="timed (%(default)s); 0: warm up, no more")
    parser.add_argument("--compared", type=positive, default=20, help="steps before losses are (%(default)s)")
    parser.add_argument("--threads", type=positive, help="of each process")
    parser.add_argument(
        "--alone", nargs="?", type=positive, const=1, metavar="TIMES", help="each arm alone too: start and peak memory"
    )
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the process instead of the clock's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    found = parser.parse_args()
    on_gpu = found.device == "cuda"
    if on_gpu and (given := [name for name in CPU_ONLY if getattr(found, name)]):
        parser.error(f"--{given[0].replace('_', '-')} is of a CPU; leave it out with --device cuda")
    if on_gpu and not _has_cuda():
        parser.error("--device cuda: torch sees no such device here")
    if found.json and not found.json.absolute().parent.is_dir():
        parser.error(f"--json {found.json}: there is no such folder")
    found.size = found.size or (["125M", "1.3B", "6B"] if on_gpu else ["small", "base"])
    found.family = found.family or (["gptj", "gpt_neox"] if on_gpu else ["gptj", "gpt_neox", "gpt2"])
    found.precision = found.precision or (["bf16"] if on_gpu else list(BOUNDS))
    found.allocator = found.allocator or ["keep"]
    try:
        return found, cases_of(found)
    except ValueError as error:
        parser.error(str(error))


def cases_of(arguments: argparse.Namespace) -> list["Case"]:
    """Every table that is wanted. Raises ValueError for an option that no table can honour."""
    from benchmarks.training_case import FAMILIES, Case, own_arm, size_of

    for size in arguments.size:
        size_of(size)
    if unknown := [family for family in arguments.family if family not in FAMILIES]:
        raise ValueError(f"--family {unknown[0]}: choose from {', '.join(FAMILIES)}")
    if arguments.nanogpt is not None:
        if "gpt2" not in arguments.family:
            raise ValueError("--nanogpt: nanoGPT knows GPT-2 alone; add gpt2 to --family")
        if not (Path(arguments.nanogpt) / "model.py").is_file():
            raise ValueError(f"--nanogpt {arguments.nanogpt}: has no model.py; give a checkout of karpathy/nanoGPT")
    extra = dict(own_arm(pairs) for pairs in arguments.ours)
    shape = {"rows": arguments.rows, "seq_len": arguments.seq_len}
    cases = [
        Case(family, size, precision, arguments.device, **shape, nanogpt=arguments.nanogpt, extra=extra)
        for size in arguments.size
        for precision in arguments.precision
        for family in arguments.family
    ]
    arms, absent = dict[str, None](), dict[str, None]()
    for case in cases:
        for accelerator in case.ours.values():
            case.run(accelerator)
        for known, found in zip((arms, absent), case.arms(), strict=True):
            known |= dict.fromkeys(found)
    if unknown := [name for name in arguments.only or () if name not in arms]:
        raise ValueError("; ".join([f"--only {unknown[0]!r}: choose from {', '.join(map(repr, arms))}", *absent]))
    return cases


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _count(text: str) -> int:
    if (value := int(text)) < 0:
        raise ValueError(value)
    return value


class Failed(Exception):
    """A process with arms ended, or lacked memory."""


def measure(arguments: argparse.Namespace, case: "Case", names: Sequence[str]) -> dict[str, Any]:
    """Every arm under every allocator: seconds and losses of each step."""
    options = {"threads": arguments.threads, "cpu_time": arguments.cpu_time}
    holders = {a: Process(case, names, ALLOCATORS[a], True, options) for a in arguments.allocator}
    rows = {(name, allocator): Row(name, allocator) for name in [*names, GEMM] for allocator in holders}

    def step(index: int, allocator: str, arms: Sequence[str]) -> None:
        found = holders[allocator].step(index, arms)
        if isinstance(found, str):
            raise Failed(f"{case.family} {case.size} {case.precision}: {found}")
        for name, answer in found.items():
            if isinstance(answer, str):
                rows[name, allocator].note = answer
            else:
                seconds, share, loss = answer
                rows[name, allocator].add(seconds, 0.0 if arguments.cpu_time else share, loss)

    try:
        for (name, allocator), row in rows.items():
            for index in range(WARMUP):
                step(index, allocator, [name])
            _tell(row)
        index = WARMUP
        there = [row for row in rows.values() if not row.note]
        while index < arguments.compared or not _enough(there, index - WARMUP, arguments.rounds):
            for allocator in holders:
                step(index, allocator, [row.name for row in there if row.allocator == allocator])
            index += 1
        machine = next(iter(holders.values())).machine
    finally:
        for holder in holders.values():
            holder.close()
    return figures(case, list(rows.values()), machine, arguments.rounds)


def _enough(rows: Sequence[Row], timed: int, rounds: int) -> bool:
    return timed >= MOST_ROUNDS * rounds or min(len(row.quiet) for row in rows) >= rounds


def _tell(row: Row) -> None:
    """Says how long an arm took to warm up."""
    if row.name != GEMM and not row.note:
        name = label(row.name, row.allocator)
        print(f"{name}: {WARMUP} steps to warm up took {row.warm_up_seconds:.1f} s", file=sys.stderr, flush=True)


def measure_apart(arguments: argparse.Namespace, case: "Case", names: Sequence[str]) -> dict[str, Any]:
    """As `measure`, each arm in a process and with the device to itself, twice, the second time the other way round."""
    options = {"threads": arguments.threads, "cpu_time": False}
    rows, machine = {name: Row(name, "") for name in [*names, GEMM]}, dict[str, Any]()
    for name in [*names, *reversed(names)]:
        if rows[name].note:
            continue
        holder = Process(case, [name], False, True, options)
        fresh = {each: Row(each, "") for each in (name, GEMM)}
        for index in range(max(arguments.compared, WARMUP + arguments.rounds)):
            found = holder.step(index, list(fresh))
            if isinstance(found, str) or isinstance(found[name], str):
                rows[name].note = found if isinstance(found, str) else found[name]
                break
            for each, (seconds, _, loss) in found.items():
                fresh[each].add(seconds, 0.0, loss)
            if index == WARMUP - 1:
                _tell(fresh[name])
        machine = holder.machine or machine
        rows[name].peak_bytes = holder.peak
        for each, row in fresh.items():
            rows[each].join(row)
        holder.close()
    return figures(case, list(rows.values()), machine, arguments.rounds)


def alone(arguments: argparse.Namespace, case: "Case", found: dict[str, Any]) -> None:
    """Adds what a process with one arm takes to its first loss, and the most memory that it has in three steps."""
    options = {"threads": arguments.threads, "cpu_time": False}
    rows = [row for row in found["arms"] if row["name"] != GEMM and not row["note"]]
    for _ in range(arguments.alone):
        for row in rows:
            holder = Process(case, [row["name"]], ALLOCATORS[row["allocator"]], False, options)
            if not isinstance(holder.step(0, [row["name"]]), str):
                row["start_seconds"].append(time.perf_counter() - holder.started)
            for index in (1, 2):
                holder.step(index, [row["name"]])
            row["peak_bytes"] = holder.peak
            holder.close()


def main() -> None:
    """Measure and print. Exit code 1 where losses differ or nothing could be measured."""
    arguments, cases = parse()
    found, wrong = list[dict[str, Any]](), list[str]()
    packages = {name: _version(name) for name in ("torch", "transformers", "litgpt")}
    print(", ".join(f"{name} {number}" for name, number in packages.items()))
    for case in cases:
        names, absent = case.arms()
        names = [name for name in names if not arguments.only or name == names[0] or name in arguments.only]
        try:
            result = (measure if case.device == "cpu" else measure_apart)(arguments, case, names)
        except Failed as error:
            wrong.append(str(error))
            print(error, file=sys.stderr)
            continue
        if arguments.alone:
            alone(arguments, case, result)
        compared, lines = comparison(result, arguments.compared)
        about = {"absent": absent, "packages": packages, "losses_compared_after": arguments.compared}
        found.append(result | about | {"differences": lines})
        print("\n".join([*table(result, arguments.compared), *absent, compared, *lines]), flush=True)
        wrong += lines
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if wrong:
        sys.exit(1)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    main()
