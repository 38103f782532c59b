"""The report of a study: its plan and what its runs left, as the numbers of `report.json`.

`report.json` has the keys
    schema        1
    name, description
    answer        headline, sentences: the effects; the budget and what was held equal; the limits
    confidence    of all intervals of the study together
    comparisons   their number, m; each interval is of 1 - (1 - confidence) / m
    domains       names
    primary       the domain that verdicts are of: the only one, or the mean of all, each counting the same
    arms          a list: what the plan says of each, and bits_per_byte (domain -> mean over seeds), tokens_per_byte
                  (domain -> on the held-out text), from_baseline (relative, of the primary domain; null where a run of
                  either has diverged), seeds (a list: seed, dir, bits_per_byte), seconds of the updates,
                  tokens_per_second, peak_memory_bytes, missing_seeds, diverged_seeds (those of them that diverged),
                  command (of its first run by itself)
    effects       a list, by comparison and domain: arm, against, domain, before, after (bits per byte, means over the
                  seeds that both have), difference, relative, interval, interval_seeds, interval_text (of relative),
                  seeds, by_seed, seeds_better, seeds_sign_test, documents, documents_better, documents_sign_test,
                  verdict, parting (by seed: step, before, after: the first training losses that differ; or null).
                  Where a run of either arm has diverged, the verdict is "diverged" and interval is null: the seeds that
                  are left are no sample of the arms. With no seed left, before to relative are null too
    speed         arm -> training, generation (each null, or per_second: tokens, ratio against the arm that it is
                  compared with, interval, verdict), peak_memory_bytes, all_reduces; or null
    speed_of      of these timings: device, name, threads, precision, torch, rounds, quiet (false: other processes were
                  busy), overrides (of the arms as timed); or null
    tasks         a list, of lm-evaluation-harness: task, metric, arms (name -> mean, by_seed), differences (name ->
                  against, difference, interval over seeds)
    fairness      a list: check, held (null: cannot be known), detail
    sweep         arm -> points ([learning rate, bits per byte]), chosen, at_edge
    curves        arm -> domain -> a list: tokens, bytes, flops, seconds, mean, low, high (over seeds), from_baseline
                  (of the means, at the same tokens)
    baseline, seeds (planned), smallest_p (of the sign test over the most seeds that a comparison has), budget,
    versions, machine, commands
    missing       a list of sentences
What is null could not be measured. The page is drawn from the same object and shows nothing else.
"""

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from modelzoo.base_config import UserError
from modelzoo.compare.answer import answer
from modelzoo.compare.checks_after import checks_after
from modelzoo.compare.curves import arm_curves
from modelzoo.compare.effects import (
    NO_DIFFERENCE,
    Losses,
    effect,
    equal_weight,
    shared_confidence,
    smallest_p,
)
from modelzoo.compare.run_results import AGAIN, DIVERGED, PLAN, SPEED, RunResult, read_json, read_runs
from modelzoo.compare.speed_ratios import speed_ratios, tokens_per_second
from modelzoo.compare.task_results import task_results
from modelzoo.files import write_text
from modelzoo.report.run_files import is_number
from modelzoo.report.statistics import CONFIDENCE, FEWEST_BLOCKS

Json = dict[str, Any]
JSON_NAME, PAGE_NAME = "report.json", "report.html"
CONFIGS = "configs"
"""Folder of a study with the YAML of each run."""
SPEEDS = ("training", "generation")
SPEED_OF = ("device", "name", "threads", "precision", "torch", "rounds", "quiet")


def write_report(study_dir: Path) -> Json:
    """Write `report.json` and `report.html` into a study's folder, and return what the JSON holds.

    Raises UserError where there is no study, or a file of it is damaged.
    """
    from modelzoo.compare.page import compare_page

    report = collect(study_dir)
    write_text(study_dir / JSON_NAME, json.dumps(report, indent=1, allow_nan=False) + "\n")
    write_text(study_dir / PAGE_NAME, compare_page(report))
    return report


def collect(study_dir: Path) -> Json:
    """Everything that a study's files tell, as it stands in report.json. UserError where there is no plan."""
    again = "plan the study again with `modelzoo compare`"
    if not (study_dir / PLAN).is_file():
        raise UserError(f"{study_dir}: holds no {PLAN}, so there is no study here; {again}")
    plan = read_json(study_dir / PLAN, again)
    study = plan["study"]
    begun, missing = read_runs(study_dir, plan, "compare")
    ended = [run for run in begun if run.held_out is not None]
    missing += [f"{run.arm}, seed {run.seed}: {run.why_not} ({run.dir})." for run in begun if run.held_out is None]
    domains = list(dict.fromkeys(name for run in ended for name in run.held_out or {}))
    primary = domains[0] if len(domains) == 1 else "all" if "all" not in domains else "all domains"
    comparisons = sum(arm["against"] is not None for arm in plan["arms"])
    confidence = study.get("confidence", CONFIDENCE)
    each = shared_confidence(confidence, comparisons)
    fairness = plan["fairness"] + checks_after(plan, begun)
    one_machine = not any(c["held"] is False for c in fairness if c["check"].startswith("same machine"))
    timed = (study_dir / SPEED).is_file()
    speed = read_json(study_dir / SPEED, AGAIN) if timed else None
    effects = list(_effects(plan, begun, domains, primary, each))
    missing += _not_compared(plan, effects, domains, primary)
    if not one_machine:
        missing.append("The runs were not made on one machine, so their speeds and seconds are not compared.")
    sweep_runs, unswept = read_runs(study_dir, plan, "lr")
    report: Json = {
        "schema": 1,
        "name": study["name"],
        "description": study.get("description", ""),
        "answer": {},
        "confidence": confidence,
        "comparisons": comparisons,
        "domains": domains,
        "primary": primary,
        "arms": [
            _arm(arm, plan, begun, primary, one_machine) | {"command": _command(study_dir, plan, arm["name"])}
            for arm in plan["arms"]
        ],
        "effects": effects,
        "speed": None if speed is None else _speeds(plan, speed, each),
        "speed_of": speed and {**{key: speed.get(key) for key in SPEED_OF}, "overrides": _timed_otherwise(study)},
        "tasks": task_results(plan["arms"], {(run.arm, run.seed): run.tasks for run in ended}, each),
        "fairness": fairness,
        "sweep": _sweep(plan, sweep_runs),
        "curves": _curves(plan, ended, primary if len(domains) > 1 else None, one_machine),
        "baseline": study["baseline"],
        "seeds": study["seeds"],
        "smallest_p": smallest_p(max((len(effect["seeds"]) for effect in effects), default=0)),
        "budget": study["budget"],
        "versions": plan["versions"],
        "machine": dict(ended[0].files.machine) if ended and one_machine else {},
        "commands": plan["commands"],
        "missing": missing + unswept,
    }
    for arm in report["arms"]:
        arm["from_baseline"] = _from_baseline(report, arm, study["baseline"])
    return report | {"answer": answer(report)}


# ---------------------------------------------------------------------- effects


def _effects(
    plan: Json, runs: Sequence[RunResult], domains: Sequence[str], primary: str, confidence: float
) -> Iterator[Json]:
    """The primary domain's first. `runs` are those that have begun."""
    ended = [run for run in runs if run.held_out is not None]
    by_arm = {arm["name"]: {run.seed: run for run in ended if run.arm == arm["name"]} for arm in plan["arms"]}
    diverged = {run.arm for run in runs if run.diverged}
    for arm in plan["arms"]:
        other = arm["against"]
        if other is None:
            continue
        seeds = [seed for seed in plan["study"]["seeds"] if seed in by_arm[arm["name"]] and seed in by_arm[other]]
        theirs, own = ([by_arm[name][seed] for seed in seeds] for name in (other, arm["name"]))
        pairs = {domain: _pair(theirs, own, domain) for domain in domains} if seeds else {}
        shown = {domain: pair for domain, pair in pairs.items() if pair is not None}
        if len(domains) > 1 and len(shown) == len(domains):
            whole = equal_weight([a for a, _ in shown.values()]), equal_weight([b for _, b in shown.values()])
            shown = {primary: whole, **shown}
        survivors: Json = {"interval": None, "verdict": DIVERGED} if {arm["name"], other} & diverged else {}
        if survivors and primary not in shown:
            yield {"arm": arm["name"], "against": other, "domain": primary, **NOTHING_LEFT, **survivors}
        for domain, (before, after) in shown.items():
            found = asdict(effect(before, after, confidence)) | survivors
            yield {
                "arm": arm["name"],
                "against": other,
                "domain": domain,
                "difference": found["after"] - found["before"],
                "seeds": seeds,
                "parting": [_parting(a, b) for a, b in zip(theirs, own, strict=True)],
                **found,
            }


NOTHING_LEFT: Json = {
    **dict.fromkeys(("before", "after", "difference", "relative", "interval_seeds", "interval_text")),
    "seeds": [],
    "by_seed": [],
    "parting": [],
    "seeds_better": 0,
    "seeds_sign_test": None,
    "documents": 0,
    "documents_better": 0,
    "documents_sign_test": None,
}
"""The numbers of an effect, where the diverged runs leave no pair."""


def _parting(before: RunResult, after: RunResult) -> Json | None:
    """Where the training losses of a pair part: whether two arms compute the same shows there, long before it shows
    in quality. None where they never do."""
    theirs, own = before.losses(), after.losses()
    step = next((step for step in sorted(theirs.keys() & own.keys()) if theirs[step] != own[step]), None)
    return None if step is None else {"step": step, "before": theirs[step], "after": own[step]}


def _pair(others: Sequence[RunResult], owns: Sequence[RunResult], domain: str) -> tuple[Losses, Losses] | None:
    """Losses of the same documents; None where they are not the same."""
    found = [(run.held_out or {}).get(domain) for run in (*others, *owns)]
    known = [losses for losses in found if losses is not None]
    first = known[0] if known else None
    if first is None or len(known) < len(found):
        return None
    if any(losses.documents_sha256 != first.documents_sha256 or len(losses.num_bytes) != len(first.num_bytes)
           for losses in known):  # fmt: skip
        return None
    sums = np.stack([losses.loss_sums for losses in known])
    return Losses(sums[: len(others)], first.num_bytes), Losses(sums[len(others) :], first.num_bytes)


def _not_compared(plan: Json, effects: Sequence[Json], domains: Sequence[str], primary: str) -> Iterator[str]:
    found = {(effect["arm"], effect["domain"]): effect for effect in effects}
    for arm in plan["arms"]:
        own = found.get((arm["name"], primary))
        if arm["against"] is not None and own is None and domains:
            yield (
                f"{arm['name']} is not compared with {arm['against']}: they have no seed in common with losses of the "
                "same held-out documents."
            )
        elif own is not None and own["verdict"] != DIVERGED and own["interval_text"] is None:
            yield (
                f"{arm['name']} against {arm['against']} has no interval: {own['documents']} held-out documents are "
                f"fewer than {FEWEST_BLOCKS}."
            )


def _from_baseline(report: Json, arm: Json, baseline: str) -> float | None:
    """Of the primary domain, over the seeds that both have; no interval of its own, as no comparison asks for it. None
    where a run of either has diverged."""
    base = next(other for other in report["arms"] if other["name"] == baseline)
    if base["diverged_seeds"] or arm["diverged_seeds"]:
        return None
    theirs, own = (
        {s["seed"]: s["bits_per_byte"].get(report["primary"], math.nan) for s in one["seeds"]} for one in (base, arm)
    )
    pairs = [(theirs[seed], own[seed]) for seed in own if math.isfinite(theirs.get(seed, math.nan) + own[seed])]
    return sum(b for _, b in pairs) / sum(a for a, _ in pairs) - 1 if pairs else None


# ---------------------------------------------------------------------- arms


def _command(study_dir: Path, plan: Json, arm: str) -> str:
    """That makes the first run of an arm by itself, at the study's length, seed and learning rate."""
    name = next(run["name"] for run in plan["runs"] if (run["arm"], run["purpose"]) == (arm, "compare"))
    return shlex.join(["modelzoo", "train", str(study_dir / CONFIGS / f"{name}.yaml")])


def _arm(arm: Json, plan: Json, begun: Sequence[RunResult], primary: str, one_machine: bool) -> Json:
    own = [run for run in begun if run.arm == arm["name"] and run.held_out is not None]
    seeds: list[Json] = [{"seed": run.seed, "dir": run.dir, "bits_per_byte": _bits(run, primary)} for run in own]
    times = [(float(tokens[-1]), float(seconds[-1])) for tokens, seconds in (run.seconds for run in own)]
    timed = [(tokens, seconds) for tokens, seconds in times if np.isfinite(seconds) and seconds > 0]
    memory = [r["peak_memory_bytes"] for run in own for r in run.files.metrics if is_number(r.get("peak_memory_bytes"))]
    first = own[0].held_out if own else None
    names = list(seeds[0]["bits_per_byte"]) if seeds else []
    return {
        **arm,
        "bits_per_byte": {n: float(np.mean([s["bits_per_byte"][n] for s in seeds if n in s["bits_per_byte"]]))
                          for n in names},
        "tokens_per_byte": {n: float(d.num_tokens.sum() / d.num_bytes.sum()) for n, d in (first or {}).items()},
        "seeds": seeds,
        "seconds": float(np.mean([seconds for _, seconds in timed])) if timed and one_machine else None,
        "tokens_per_second": float(np.mean([t / s for t, s in timed])) if timed and one_machine else None,
        "peak_memory_bytes": max(memory, default=None),
        "missing_seeds": [s for s in plan["study"]["seeds"] if s not in [run.seed for run in own]],
        "diverged_seeds": [run.seed for run in begun if run.arm == arm["name"] and run.diverged],
    }  # fmt: skip


def _bits(run: RunResult, primary: str) -> dict[str, float]:
    own = {domain: losses.bits_per_byte for domain, losses in (run.held_out or {}).items()}
    return {primary: float(np.mean(list(own.values()))), **own} if len(own) > 1 else own


def _curves(plan: Json, runs: Sequence[RunResult], all_domains: str | None, one_machine: bool) -> Json:
    curves = {
        arm["name"]: arm_curves(arm, [run for run in runs if run.arm == arm["name"]], all_domains)
        for arm in plan["arms"]
    }
    if not one_machine:
        for points in (points for domains in curves.values() for points in domains.values()):
            for point in points:
                point["seconds"] = None
    base = {
        domain: {point["tokens"]: point["mean"] for point in points}
        for domain, points in curves[plan["study"]["baseline"]].items()
    }
    for domains in curves.values():
        for domain, points in domains.items():
            for point in points:
                theirs, mean = base.get(domain, {}).get(point["tokens"]), point["mean"]
                point["from_baseline"] = mean / theirs - 1 if theirs and mean else None
    return curves


def _sweep(plan: Json, runs: Sequence[RunResult]) -> Json:
    """Bits per byte of the held-out text, mean of the domains, by learning rate: what the rate was chosen by."""
    found = {}
    for arm in plan["arms"]:
        points: dict[float, list[float]] = {}
        for run in runs:
            if run.arm == arm["name"] and run.held_out is not None:
                of_domains = [losses.bits_per_byte for losses in run.held_out.values()]
                points.setdefault(run.lr, []).append(float(np.mean(of_domains)))
        if points:
            rates = sorted(points)
            found[arm["name"]] = {
                "points": [[rate, float(np.mean(points[rate]))] for rate in rates],
                "chosen": arm["lr"],
                "at_edge": len(rates) > 1 and arm["lr"] in (rates[0], rates[-1]),
            }
    return found


# ---------------------------------------------------------------------- speed


def _timed_otherwise(study: Json) -> list[str]:
    """What the study changes in the arms before it times them."""
    return list((study.get("speed") or {}).get("overrides") or ())


def _speeds(plan: Json, speed: Json, confidence: float) -> Json:
    """Tokens per second, and how many times the other's they are, round by round."""
    timed = speed["training"]
    pairs = [(arm["name"], arm["against"]) for arm in plan["arms"] if arm["name"] in timed and arm["against"] in timed]
    ratios, per_second = speed_ratios(speed, pairs, confidence), tokens_per_second(speed)
    return {
        name: {
            **{what: _speed(per_second[name][what], ratios.get(name, {}).get(what)) for what in SPEEDS},
            "peak_memory_bytes": own.get("peak_memory_bytes"),
            "all_reduces": (speed.get("all_reduces") or {}).get(name),
        }
        for name, own in timed.items()
    }


def _speed(per_second: float | None, ratio: Json | None) -> Json | None:
    if per_second is None:
        return None
    found = {"per_second": per_second, "ratio": None, "interval": None, "verdict": None, **(ratio or {})}
    if ratio is not None:
        low, high = ratio["interval"] or (0.0, math.inf)
        found["verdict"] = "faster" if low > 1 else "slower" if high < 1 else NO_DIFFERENCE
    return found
