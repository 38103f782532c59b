"""What can be known of a comparison's fairness only when the runs are there: what they read, and on what they ran."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelzoo.compare.run_results import RunResult

MACHINE = {"device": "device", "name": "processor", "threads": "threads", "ranks": "ranks", "precision": "precision",
           "torch": "torch"}  # fmt: skip
Check = dict[str, Any]
"""`check`, `held` (true, false, or null where it cannot be known), `detail`."""


def checks_after(plan: Mapping[str, Any], begun: Sequence[RunResult]) -> list[Check]:
    """Of the runs that have begun; all checks but the first are of those that have ended."""
    found, runs = [all_ended(plan, begun)], [run for run in begun if run.held_out is not None]
    if not runs:
        return found
    found += [same_batches(runs), tokens_seen(plan, runs), same_documents(runs), same_machine(runs)]
    return found + [check for arm in plan["arms"] for check in same_computation(plan, arm, runs)]


def all_ended(plan: Mapping[str, Any], begun: Sequence[RunResult]) -> Check:
    """That no outcome is of the runs that were left: those that diverge are no random ones."""
    planned = [(run["arm"], run["seed"]) for run in plan["runs"] if run["purpose"] == "compare"]
    known = {(run.arm, run.seed): run for run in begun}
    short: dict[str, dict[str, list[int]]] = {}
    for arm, seed in planned:
        run = known.get((arm, seed))
        if run is None or run.held_out is None:
            what = "not begun" if run is None else "diverged" if run.diverged else "not ended"
            short.setdefault(what, {}).setdefault(arm, []).append(seed)
    detail = "; ".join(
        f"{what}: "
        + ", ".join(f"{arm} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})" for arm, seeds in arms.items())
        for what, arms in short.items()
    )
    return _check("every planned run ended", not short, detail or f"all {len(planned)}")


def same_computation(plan: Mapping[str, Any], arm: Mapping[str, Any], runs: Sequence[RunResult]) -> Iterator[Check]:
    """Two arms that differ in nothing, from the same seeds, must lose the same at every step."""
    settings = plan["study"].get("arms", {})
    offsets = [settings.get(name, {}).get("seed_offset", 0) for name in (arm["name"], arm["against"])]
    if arm["against"] is None or arm["differences"] or len(set(offsets)) > 1:
        return
    losses = {(run.arm, run.seed): run.losses() for run in runs}
    apart = []
    for seed in plan["study"]["seeds"]:
        own, theirs = losses.get((arm["name"], seed), {}), losses.get((arm["against"], seed), {})
        if step := next((step for step in sorted(own.keys() & theirs.keys()) if own[step] != theirs[step]), None):
            apart.append(f"seed {seed}: {theirs[step]!r} and {own[step]!r} at step {step:,}")
    yield _check(
        f"{arm['name']} and {arm['against']}, which differ in nothing, compute the same",
        not apart,
        "; ".join(apart) + ": the code or the machine is not the same for both, or its sums depend on chance (GPUs)"
        if apart
        else "equal losses at every step",
    )


def same_batches(runs: Sequence[RunResult]) -> Check:
    """Arms that read one dataset in batches of one size: the chain of hashes over all batches, seed by seed."""
    groups: dict[tuple[int, str], list[RunResult]] = {}
    for run in runs:
        seed = run.files.setting("seed", default=run.seed)  # an arm may shift the seeds of a study
        groups.setdefault((seed, _data_of(run)), []).append(run)
    compared, apart, furthest = 0, [], 0
    for (seed, _), group in groups.items():
        chains = [_chains(run) for run in group]
        common = set.intersection(*map(set, chains))
        if len(group) > 1 and common:
            step = max(common)
            compared, furthest = compared + len(group), max(furthest, step)
            others = [run.arm for chain, run in zip(chains, group, strict=True) if chain[step] != chains[0][step]]
            if others:
                than = f"other batches than {group[0].arm} by step {step:,}"
                apart.append(f"seed {seed}: {', '.join(others)} had read {than}")
    name = "same batches, by their hashes"
    if apart:
        return _check(name, False, "; ".join(apart))
    if compared < 2:
        return _check(
            name, None, "no two runs of a seed read one dataset in batches of one size and noted their hashes"
        )
    rest = len(runs) - compared
    more = f"; {rest} with data of their own" if rest else ""
    return _check(name, True, f"one chain for each seed up to step {furthest:,}, in {compared} runs{more}")


def tokens_seen(plan: Mapping[str, Any], runs: Sequence[RunResult]) -> Check:
    """Against what the plan gave them."""
    planned = {arm["name"]: arm["tokens"] for arm in plan["arms"]}
    other = [
        f"{run.arm}, seed {run.seed}: {run.tokens:,} of {planned[run.arm]:,}"
        for run in runs
        if run.tokens != planned[run.arm]
    ]
    return _check("tokens seen are the tokens planned", not other, "; ".join(other) or f"in all {len(runs)} runs")


def same_documents(runs: Sequence[RunResult]) -> Check:
    """The held-out ones, by the hash of their text."""
    hashes = {
        json.dumps({name: losses.documents_sha256 for name, losses in (run.held_out or {}).items()}, sort_keys=True)
        for run in runs
    }
    num_bytes = [losses.num_bytes for losses in (runs[0].held_out or {}).values()]
    text = f"{sum(map(len, num_bytes)):,} documents of {sum(sizes.sum() for sizes in num_bytes):,.0f} bytes"
    equal = len(hashes) == 1
    detail = text if equal else f"the runs were measured on {len(hashes)} different sets of documents"
    return _check("measured on the same held-out documents", equal, detail)


def same_machine(runs: Sequence[RunResult]) -> Check:
    """Processor, threads, precision and torch: where they differ, so may the last digits, and speeds do not compare."""
    name = "same machine, precision and torch"
    if without := [run for run in runs if not run.files.machine]:
        return _check(name, None, f"of {len(without)} of {len(runs)} runs it is not known")
    apart = [
        f"{label}: {', '.join(values)}"
        for key, label in MACHINE.items()
        if len(values := list(dict.fromkeys(str(run.files.machine.get(key)) for run in runs))) > 1
    ]
    one = runs[0].files.machine
    shown = ", ".join(str(one[key]) for key in ("device", "name", "precision") if key in one)
    return _check(
        name, not apart, "; ".join(apart) or f"{shown}, {one.get('threads')} threads, torch {one.get('torch')}"
    )


def _data_of(run: RunResult) -> str:
    """What decides the batches, but for the seed."""
    data = run.files.setting("data", default={})
    read = {key: value for key, value in data.items() if key != "validation"}
    return json.dumps([read, run.files.setting("trainer", "global_batch_size")], sort_keys=True, default=str)


def _chains(run: RunResult) -> dict[int, str]:
    return {record["step"]: record["batches_sha256"] for record in run.files.metrics if record.get("batches_sha256")}


def _check(check: str, held: bool | None, detail: str) -> Check:
    return {"check": check, "held": held, "detail": detail}
