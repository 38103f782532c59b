"""A training step: transformers, litgpt and nanoGPT beside ours, on the same weights and data.

    python -m benchmarks.training [--size small base] [--family gptj gpt_neox gpt2] [--precision fp32 bf16]
        [--allocator shipped keep] [--nanogpt DIR] [--alone] [--json FILE]
    python -m benchmarks.training --device cuda

On a CPU the arms of a table share a process and take turns (A B C A B C …), one process for each allocator, which take
turns too. On a GPU each arm has the device to itself, one after the other. After 20 steps the losses of all arms are
compared: a difference ends the program with exit code 1.
"""

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelzoo.compare.other_processes import OtherProcesses
from modelzoo.compare.speed import BUSY, MOST_ROUNDS
from modelzoo.compare.speed_ratios import median_interval

if TYPE_CHECKING:
    from benchmarks.training_arms import Case

BOUNDS = {"fp32": 1e-4, "bf16": 1e-2}
"""How far two losses may be apart, relative to the first. In bf16 each program rounds to 8 bits in other places."""
COMPARED = 20
"""Steps after which losses are compared."""
GEMM = "GEMM"
ALLOCATORS = {"shipped": False, "keep": True}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--size", nargs="+", help="small base, on a GPU 125M 1.3B 6B")
    parser.add_argument("--family", nargs="+", help="gptj gpt_neox gpt2, on a GPU gptj gpt_neox")
    parser.add_argument("--precision", nargs="+", choices=BOUNDS, help="fp32 bf16, on a GPU bf16")
    parser.add_argument("--allocator", nargs="+", default=["keep"], choices=ALLOCATORS, help="glibc's (%(default)s)")
    parser.add_argument("--nanogpt", metavar="DIR", help="a checkout of karpathy/nanoGPT")
    parser.add_argument("--ours", nargs="+", action="append", default=[], metavar="KEY=VALUE", help="a further arm")
    parser.add_argument("--only", nargs="+", metavar="ARM", help="these and the first arm")
    parser.add_argument("--rows", type=int, help="of a batch")
    parser.add_argument("--seq-len", type=int)
    parser.add_argument("--rounds", type=int, default=20, help="timed (%(default)s)")
    parser.add_argument("--compared", type=int, default=COMPARED, help="steps before losses are (%(default)s)")
    parser.add_argument("--threads", type=int, help="of each process")
    parser.add_argument("--alone", action="store_true", help="each arm alone too: start and peak memory")
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the process instead of the clock's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    found = parser.parse_args()
    on_gpu = found.device == "cuda"
    found.size = found.size or (["125M", "1.3B", "6B"] if on_gpu else ["small", "base"])
    found.family = found.family or (["gptj", "gpt_neox"] if on_gpu else ["gptj", "gpt_neox", "gpt2"])
    found.precision = found.precision or (["bf16"] if on_gpu else list(BOUNDS))
    return found


# ---------------------------------------------------------------------- a process that holds arms


def serve(pipe: Connection, case: "Case", names: Sequence[str], keep: bool, equal: bool, options: Mapping[str, Any]):
    """Answer each `i` from the pipe with the i-th step of every arm: {arm: (seconds, share of others, loss)}.

    `equal` gives all arms the same weights; else each draws its own, and starts without the others' programs.
    """
    import torch

    from benchmarks import training_arms
    from modelzoo.trainer.accelerator import Accelerator, keep_freed_memory

    warnings.filterwarnings("ignore")
    sys.stdout = sys.stderr  # nanoGPT prints the number of its parameters
    if keep:
        keep_freed_memory()
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    on_gpu = case.device == "cuda"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    clock = time.process_time if options["cpu_time"] else time.perf_counter
    data = training_arms.batches(case)
    weights = training_arms.weights_of(case) if equal else None
    steps = {name: training_arms.build(name, case, data, weights) for name in names}
    del weights
    gemm_flops = 0
    if equal:
        steps[GEMM], gemm_flops = _gemm(case)
    watch = OtherProcesses()

    def measured(name: str, index: int) -> tuple[float, float, float]:
        wait()
        watch.start()
        started = clock()
        loss = steps[name](index)
        wait()
        return clock() - started, watch.share() or 0.0, loss

    accelerator = Accelerator(torch.device(case.device), case.precision, compile=False, fused_optimizer=True)
    machine = {"threads": torch.get_num_threads(), "peak_flops": accelerator.peak_flops, "gemm_flops": gemm_flops}
    while (index := pipe.recv()) is not None:
        try:
            answer: Any = {name: measured(name, index) for name in steps}
        except torch.OutOfMemoryError:
            answer = "out of memory"
        pipe.send((answer, accelerator.peak_memory_bytes(), machine))


def _gemm(case: "Case") -> tuple[Callable[[int], float], int]:
    """A product that takes a moment: what the machine can do in these minutes. And its FLOPs."""
    import torch

    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    for size in (512, 1024, 2048, 4096, 8192):
        a, b = (torch.randn(size, size, device=case.device).to(dtype) for _ in range(2))
        started = time.perf_counter()
        torch.mm(a, b)[0, 0].item()
        if time.perf_counter() - started > MOMENT:
            break

    def product(index: int) -> float:
        torch.mm(a, b)
        return 0.0

    return product, 2 * size**3


MOMENT = 0.02
"""Seconds."""


class Process:
    """One that holds arms, from here."""

    def __init__(self, *arguments: Any) -> None:
        context = get_context("spawn")
        self.started = time.perf_counter()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.peak: int | None = None
        self.machine: dict[str, Any] = {}

    def step(self, index: int) -> Any:
        """What every arm took and found, or why there is nothing."""
        try:
            self._pipe.send(index)
            found, self.peak, self.machine = self._pipe.recv()
        except (EOFError, BrokenPipeError):
            self._process.join()
            return f"ended with exit code {self._process.exitcode}"
        return found

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self._pipe.send(None)
        self._process.join()


# ---------------------------------------------------------------------- measuring


class Failed(Exception):
    """A process with arms ended, or lacked memory."""


def measure(arguments: argparse.Namespace, case: "Case", names: Sequence[str]) -> dict[str, Any]:
    """Every arm under every allocator: seconds and losses of each step."""
    options = {"threads": arguments.threads, "cpu_time": arguments.cpu_time}
    holders = {a: Process(case, names, ALLOCATORS[a], True, options) for a in arguments.allocator}
    rows = {(name, allocator): Row(name, allocator) for name in [*names, GEMM] for allocator in holders}
    index, enough = 0, max(1, arguments.compared)
    try:
        while True:
            for allocator, holder in holders.items():
                found = holder.step(index)
                if isinstance(found, str):
                    raise Failed(f"{case.family} {case.size} {case.precision}: {found}")
                for name, (seconds, share, loss) in found.items():
                    rows[name, allocator].add(seconds, 0.0 if arguments.cpu_time else share, loss)
            index += 1
            timed = index - WARMUP
            quiet = min(len(row.quiet) for row in rows.values())
            if index >= enough and (quiet >= arguments.rounds or timed >= MOST_ROUNDS * arguments.rounds):
                break
        machine = next(iter(holders.values())).machine
    finally:
        for holder in holders.values():
            holder.close()
    return result(case, list(rows.values()), machine, arguments)


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
            found = holder.step(index)
            if isinstance(found, str):
                rows[name].note = found
                break
            for each, (seconds, _, loss) in found.items():
                fresh[each].add(seconds, 0.0, loss)
        machine = holder.machine or machine
        rows[name].peak_bytes = holder.peak
        for each, row in fresh.items():
            rows[each].join(row)
        holder.close()
    return result(case, list(rows.values()), machine, arguments)


def alone(arguments: argparse.Namespace, case: "Case", found: dict[str, Any]) -> None:
    """Adds what a process with one arm takes to its first loss, and the most memory that it has in three steps."""
    for row in found["arms"]:
        if row["name"] == GEMM:
            continue
        options = {"threads": arguments.threads, "cpu_time": False}
        holder = Process(case, [row["name"]], ALLOCATORS.get(row["allocator"], False), False, options)
        first = holder.step(0)
        row["start_seconds"] = None if isinstance(first, str) else time.perf_counter() - holder.started
        for index in (1, 2):
            holder.step(index)
        row["peak_bytes"] = holder.peak
        holder.close()


WARMUP = 3
"""First steps, which compile and fault memory in."""


class Row:
    """An arm under one allocator."""

    def __init__(self, name: str, allocator: str) -> None:
        self.name, self.allocator, self.note = name, allocator, ""
        self.seconds, self.losses, self.quiet = list[float](), list[float](), list[int]()
        self.first: float | None = None
        self.peak_bytes: int | None = None

    def add(self, seconds: float, share: float, loss: float) -> None:
        """A step: its seconds count after the warm-up, and where others left the machine alone."""
        self.losses.append(loss)
        if len(self.losses) == 1:
            self.first = seconds
        if len(self.losses) > WARMUP:
            self.seconds.append(seconds)
            if share <= BUSY:
                self.quiet.append(len(self.seconds) - 1)

    def join(self, other: "Row") -> None:
        """The steps of another process of the same arm."""
        self.quiet += [index + len(self.seconds) for index in other.quiet]
        self.seconds += other.seconds
        self.losses = self.losses or other.losses
        self.first = other.first if self.first is None else self.first

    def kept(self, rounds: int) -> list[int]:
        """The steps that count: quiet ones; all of them where fewer than half of what was wanted were quiet."""
        return self.quiet if len(self.quiet) >= max(2, rounds / 2) else list(range(len(self.seconds)))


def result(case: "Case", rows: Sequence[Row], machine: Mapping[str, Any], arguments: argparse.Namespace):
    """The figures of a table."""
    model, (num_rows, seq_len) = case.model, case.shape
    tokens = num_rows * seq_len
    by_key = {(row.name, row.allocator): row for row in rows}
    unit = rows[0]
    arms = list[dict[str, Any]]()
    for row in rows:
        kept = row.kept(arguments.rounds)
        each: dict[str, Any] = {
            "name": row.name,
            "allocator": row.allocator,
            "note": row.note,
            "step_seconds": [row.seconds[index] for index in kept],
            "steps_dropped": len(row.seconds) - len(kept),
            "is_quiet": kept == row.quiet,
            "losses": row.losses,
            "first_seconds": row.first,
            "peak_bytes": row.peak_bytes,
        }
        if row.name != GEMM and len(kept) > 1:
            each["tokens_per_second"] = tokens / statistics.median(each["step_seconds"])
            each["ratio"] = ratio(unit, row, arguments.rounds)
            each["ratio_same_allocator"] = ratio(by_key[unit.name, row.allocator], row, arguments.rounds)
            gemm = by_key[GEMM, row.allocator]
            rate = machine["gemm_flops"] / statistics.median(gemm.seconds[i] for i in gemm.kept(1))
            used = model.flops_per_token(seq_len) * each["tokens_per_second"]
            each["gemm_flops_per_second"], each["mfu_of_gemm"] = rate, used / rate
            each["mfu"] = used / machine["peak_flops"] if machine["peak_flops"] else None
        arms.append(each)
    about = {"family": case.family, "size": case.size, "precision": case.precision, "device": case.device}
    sizes = {"rows": num_rows, "seq_len": seq_len, "parameters": model.num_parameters()}
    return (
        about
        | sizes
        | {"load": os.getloadavg(), "threads": machine.get("threads"), "arms": arms}
        | {"has_peak": bool(machine.get("peak_flops"))}
    )


def ratio(unit: Row, row: Row, rounds: int) -> dict[str, Any] | None:
    """How many times as fast a row is: of medians, of lower quartiles, and the interval of 95 % of the median of the
    rounds' own ratios."""
    theirs, ours = ([each.seconds[index] for index in each.kept(rounds)] for each in (unit, row))
    if min(len(theirs), len(ours)) < 2:
        return None
    common = sorted(set(unit.kept(rounds)) & set(row.kept(rounds)))
    low = [statistics.quantiles(seconds, n=4)[0] for seconds in (theirs, ours)]
    return {
        "of_medians": statistics.median(theirs) / statistics.median(ours),
        "of_lower_quartiles": low[0] / low[1],
        "interval": median_interval([unit.seconds[index] / row.seconds[index] for index in common]),
    }


def differences(found: Mapping[str, Any], compared: int) -> Iterator[str]:
    """A line on every arm whose loss is another one."""
    bound, rows = BOUNDS[found["precision"]], [row for row in found["arms"] if row["name"] != GEMM and row["losses"]]
    for row in rows[1:]:
        for step in {0, compared - 1}:
            expected, loss = rows[0]["losses"][step], row["losses"][step]
            if not abs(loss - expected) <= bound * abs(expected):
                yield (
                    f"{found['family']} {found['size']} {found['precision']}: after {step + 1} steps the loss of "
                    f"{label(row)} is {loss:.6f}, of {label(rows[0])} {expected:.6f}: more than {bound:g} apart"
                )


# ---------------------------------------------------------------------- printing


def label(row: Mapping[str, Any]) -> str:
    """An arm's name, and its allocator where there are several."""
    return f"{row['name']} [{row['allocator']}]" if row["allocator"] else row["name"]


def table(found: Mapping[str, Any], compared: int) -> Iterator[str]:
    """The lines of a case."""
    load = ", ".join(f"{value:.1f}" for value in found["load"])
    yield (
        f"\n{found['family']} {found['size']} {found['precision']}: {found['parameters']:,} parameters, "
        f"{found['rows']} × {found['seq_len']} tokens, {found['threads']} threads, load {load}"
    )
    yield (
        f"{'':<34} {'tokens/s (quartiles)':>25} {'ratio':>6} {'low q.':>6} {'95 %':>11} {'same a.':>7} {'MFU':>5} "
        f"{'loss':>8} {'first s':>7} {'start s':>7} {'peak MB':>8}"
    )
    for row in found["arms"]:
        if row["name"] == GEMM:
            continue
        if "ratio" not in row:
            yield f"{label(row):<34} {row['note'] or 'nothing measured'}"
            continue
        quartiles = statistics.quantiles(row["step_seconds"], n=4)
        tokens = found["rows"] * found["seq_len"]
        rates = "{:,.0f} ({:,.0f}–{:,.0f})".format(*(tokens / quartiles[i] for i in (1, 2, 0)))
        overall, same = row["ratio"], row["ratio_same_allocator"]
        spread = "–".join(f"{value:.2f}" for value in overall["interval"]) if overall["interval"] else "–"
        mfu = row["mfu"] if row["mfu"] is not None else row["mfu_of_gemm"]
        start, peak = row.get("start_seconds"), row["peak_bytes"]
        yield (
            f"{label(row):<34} {rates:>25} {overall['of_medians']:>6.2f} {overall['of_lower_quartiles']:>6.2f} "
            f"{spread:>11} {same['of_medians']:>7.2f} {mfu:>5.0%} {row['losses'][compared - 1]:>8.4f} "
            f"{row['first_seconds']:>7.1f} {f'{start:.1f}' if start else '–':>7} "
            f"{f'{peak / 1e6:,.0f}' if peak else '–':>8}"
        )
    rate = next((row["gemm_flops_per_second"] for row in found["arms"] if "gemm_flops_per_second" in row), 0.0)
    of = "of the device's data sheet" if found["has_peak"] else "of a product"
    yield f"MFU is {of}; a product had {rate / 1e9:,.0f} GFLOP/s in these minutes"
    noisy = sum(not row["is_quiet"] for row in found["arms"])
    dropped = sum(row["steps_dropped"] for row in found["arms"])
    yield f"{dropped} steps dropped, in which other processes used more than {BUSY:.0%} of the machine" + (
        f"; {noisy} arms had too few others, so that all of their steps count" if noisy else ""
    )


def _value(text: str) -> Any:
    return {"true": True, "false": False}.get(text, int(text) if text.isdigit() else text)


def main() -> None:
    """Measure and print. Exit code 1 where losses differ or nothing could be measured."""
    from benchmarks.training_arms import FAMILIES, SIZES, Case

    arguments = parse()
    for name, known in (("size", SIZES), ("family", FAMILIES)):
        if unknown := [each for each in getattr(arguments, name) if each not in known]:
            sys.exit(f"--{name} {unknown[0]}: choose from {', '.join(known)}")
    extra = {f"ours, {' '.join(pairs)}": dict(pair.split("=", 1) for pair in pairs) for pairs in arguments.ours}
    extra = {name: {key: _value(value) for key, value in fields.items()} for name, fields in extra.items()}
    found, wrong = list[dict[str, Any]](), list[str]()
    packages = {name: _version(name) for name in ("torch", "transformers", "litgpt")}
    print(", ".join(f"{name} {number}" for name, number in packages.items()))
    for size in arguments.size:
        for precision in arguments.precision:
            for family in arguments.family:
                shape = {"rows": arguments.rows, "seq_len": arguments.seq_len}
                case = Case(family, size, precision, arguments.device, **shape, nanogpt=arguments.nanogpt, extra=extra)
                names, absent = case.arms()
                if arguments.only:
                    names = [name for name in names if name == names[0] or name in arguments.only]
                try:
                    result = (measure if arguments.device == "cpu" else measure_apart)(arguments, case, names)
                except Failed as error:
                    wrong.append(str(error))
                    print(error, file=sys.stderr)
                    continue
                if arguments.alone and arguments.device == "cpu":
                    alone(arguments, case, result)
                found.append(result | {"absent": absent, "packages": packages})
                print("\n".join([*table(result, arguments.compared), *absent]), flush=True)
                wrong += (lines := list(differences(result, arguments.compared)))
                print("\n".join(lines), end="\n" if lines else "", flush=True)
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
