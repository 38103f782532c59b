"""What `benchmarks.training` makes of its timings: ratios of speed, differences of losses, and the table. No torch."""

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelzoo.compare.other_processes import BUSY
from modelzoo.compare.speed_ratios import median_interval

if TYPE_CHECKING:
    from benchmarks.training_case import Case

BOUNDS = {"fp32": 1e-4, "bf16": 1e-2}
"""How far two losses may be apart, relative to the first. In bf16 each program rounds to 8 bits in other places."""
GEMM = "GEMM"
"""The name of the matrix product that takes turns with the arms."""
WARMUP = 3
"""First steps, which compile and fault memory in."""


class Row:
    """An arm under one allocator."""

    def __init__(self, name: str, allocator: str) -> None:
        self.name, self.allocator, self.note = name, allocator, ""
        self.seconds, self.losses, self.quiet = list[float](), list[float](), list[int]()
        self.first: float | None = None
        self.warm_up_seconds = 0.0
        self.peak_bytes: int | None = None

    def add(self, seconds: float, share: float, loss: float) -> None:
        """A step: its seconds count after the warm-up, and where others left the machine alone."""
        self.losses.append(loss)
        if len(self.losses) == 1:
            self.first = seconds
        if len(self.losses) <= WARMUP:
            self.warm_up_seconds += seconds
        else:
            self.seconds.append(seconds)
            if share <= BUSY:
                self.quiet.append(len(self.seconds) - 1)

    def join(self, other: "Row") -> None:
        """The steps of another process of the same arm."""
        self.quiet += [index + len(self.seconds) for index in other.quiet]
        self.seconds += other.seconds
        self.losses = self.losses or other.losses
        if self.first is None:
            self.first, self.warm_up_seconds = other.first, other.warm_up_seconds

    def kept(self, rounds: int) -> list[int]:
        """The steps that count: quiet ones; all of them where fewer than half of what was wanted were quiet."""
        return self.quiet if len(self.quiet) >= max(2, rounds / 2) else list(range(len(self.seconds)))


def figures(case: "Case", rows: Sequence[Row], machine: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """The figures of a table."""
    model, (num_rows, seq_len) = case.model, case.shape
    tokens = num_rows * seq_len
    by_key = {(row.name, row.allocator): row for row in rows}
    unit = next((row for row in rows if not row.note), rows[0])
    arms = list[dict[str, Any]]()
    for row in rows:
        kept = row.kept(rounds)
        each: dict[str, Any] = {
            "name": row.name,
            "allocator": row.allocator,
            "is_ours": row.name in case.ours,
            "note": row.note,
            "step_seconds": [row.seconds[index] for index in kept],
            "steps_dropped": len(row.seconds) - len(kept),
            "is_quiet": kept == row.quiet,
            "losses": row.losses,
            "first_seconds": row.first,
            "warm_up_seconds": row.warm_up_seconds,
            "start_seconds": [],
            "peak_bytes": row.peak_bytes,
        }
        if row.name != GEMM and len(kept) > 1:
            each["tokens_per_second"] = tokens / statistics.median(each["step_seconds"])
            each["ratio"] = ratio(unit, row, rounds)
            peers = [name for name, own in by_key if own == row.allocator and name not in (GEMM, *case.ours)]
            each["ratio_to"] = {name: ratio(by_key[name, row.allocator], row, rounds) for name in peers}
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


def comparison(found: Mapping[str, Any], compared: int) -> tuple[str, list[str]]:
    """What the losses after the first and after `compared` steps were compared to, and a line on every arm whose loss
    is another one. An arm that did not come so far has a note in the table."""
    bound = BOUNDS[found["precision"]]
    rows = [row for row in found["arms"] if row["name"] != GEMM and len(row["losses"]) >= compared]
    steps = sorted({1, compared})
    when = f"after {' and '.join(map(str, steps))} step{'s' * (compared > 1)}"
    if len(rows) < 2:
        return f"losses {when}: compared with nothing, one arm has them", []
    wrong = list[str]()
    first, *others = [(label(row["name"], row["allocator"]), row["losses"]) for row in rows]
    for name, losses in others:
        for step in steps:
            expected, loss = first[1][step - 1], losses[step - 1]
            if not abs(loss - expected) <= bound * abs(expected):
                wrong.append(
                    f"{found['family']} {found['size']} {found['precision']}: after {step} steps the loss of "
                    f"{name} is {loss:.6f}, of {first[0]} {expected:.6f}: more than {bound:g} apart"
                )
    agree = f"{len(rows)} arms within {bound:g}, relative, of {first[0]}" if not wrong else "arms differ"
    return f"losses {when} of this run: {agree}", wrong


def label(name: str, allocator: str) -> str:
    """An arm's name, and its allocator where it has one."""
    return f"{name} [{allocator}]" if allocator else name


def table(found: Mapping[str, Any], compared: int) -> Iterator[str]:
    """The lines of a case."""
    load = ", ".join(f"{value:.1f}" for value in found["load"])
    yield (
        f"\n{found['family']} {found['size']} {found['precision']}: {found['parameters']:,} parameters, "
        f"{found['rows']} × {found['seq_len']} tokens, {found['threads']} threads, load {load}"
    )
    yield (
        f"{'':<34} {'tokens/s (quartiles)':>25} {'ratio':>6} {'low q.':>6} {'95 %':>11} {'MFU':>5} "
        f"{f'loss {compared}':>8} {'first s':>7} {'start s':>7} {'peak MB':>8}"
    )
    arms = [row for row in found["arms"] if row["name"] != GEMM]
    for row in arms:
        yield _line(row, found["rows"] * found["seq_len"], compared)
    for row in arms:
        others = {name: each for name, each in row.get("ratio_to", {}).items() if each and name != row["name"]}
        if row["is_ours"] and others:
            ratios = [f"{each['of_medians']:.2f} ({_interval(each)}) times {name}" for name, each in others.items()]
            yield f"{label(row['name'], row['allocator'])}, same allocator: {', '.join(ratios)}"
    if rate := next((row["gemm_flops_per_second"] for row in arms if "gemm_flops_per_second" in row), None):
        of = "of the device's data sheet" if found["has_peak"] else "of a product"
        yield f"MFU is {of}; a product had {rate / 1e9:,.0f} GFLOP/s in these minutes"
    noisy = sum(not row["is_quiet"] for row in found["arms"])
    dropped = sum(row["steps_dropped"] for row in found["arms"])
    yield f"{dropped} steps dropped, in which other processes used more than {BUSY:.0%} of the machine" + (
        f"; {noisy} arms had too few others, so that all of their steps count" if noisy else ""
    )


def _line(row: Mapping[str, Any], tokens: int, compared: int) -> str:
    """An arm's line in the table; what was not measured is a dash."""
    name, overall = label(row["name"], row["allocator"]), row.get("ratio")
    if row["note"]:
        return f"{name:<34} {row['note']}"
    rates = ratios = low = spread = mfu = "–"
    if overall:
        quartiles = statistics.quantiles(row["step_seconds"], n=4)
        rates = "{:,.0f} ({:,.0f}–{:,.0f})".format(*(tokens / quartiles[i] for i in (1, 2, 0)))
        ratios, low = f"{overall['of_medians']:.2f}", f"{overall['of_lower_quartiles']:.2f}"
        spread, mfu = _interval(overall), f"{row['mfu_of_gemm'] if row['mfu'] is None else row['mfu']:.0%}"
    start = f"{statistics.median(row['start_seconds']):.1f}" if row["start_seconds"] else "–"
    peak = f"{row['peak_bytes'] / 1e6:,.0f}" if row["peak_bytes"] else "–"
    return (
        f"{name:<34} {rates:>25} {ratios:>6} {low:>6} {spread:>11} {mfu:>5} {row['losses'][compared - 1]:>8.4f} "
        f"{row['first_seconds']:>7.1f} {start:>7} {peak:>8}"
    )


def _interval(found: Mapping[str, Any]) -> str:
    return "–".join(f"{value:.2f}" for value in found["interval"]) if found["interval"] else "–"
