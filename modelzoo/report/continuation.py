"""The report of a continued run: what its directory holds, as numbers (`report.json`) and as a page (`report.html`).

`report.json` has the keys
    schema       1
    answer       verdict (yes, no, open), headline, sentences
    tolerance    part by which an old domain's loss may rise and count as kept
    confidence   of the intervals
    run          name, description, base, steps, total_steps, tokens, complete, seconds, tokens_per_second,
                 parameters, machine, settings (dotted key -> value of config.yaml)
    domains      a list, new ones first: name, role (new, old), share_of_training_tokens, of_base (whether the base was
                 trained on its dataset; null: not known), unit, before, after, change (after / before - 1, so below
                 zero is better), interval (of change: [low, high], or null), verdict, kept, lost, tokens, blocks,
                 blocks_better, sign_test, and curve: at each evaluation step, tokens, value, change, interval
    sources      a list: name, tokens, share, epochs (null where the run has not counted them)
    training     loss, lr, gradient_norm, tokens_per_second: lists of [tokens, value], thinned to what the page draws
    samples      a list: prompt, seed, before and after, each null or {step, text}
    advice       a list: do, why, source
    missing      a list of sentences: what the run does not hold, and what would fill it
What is null could not be measured. The page is drawn from the same object and shows nothing else.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelzoo.base_config import UserError
from modelzoo.files import write_text
from modelzoo.report.advice import Seen, Step, advice
from modelzoo.report.answer import Answer, answer
from modelzoo.report.charts import thinned
from modelzoo.report.domains import TOLERANCE, Domain, read_domains
from modelzoo.report.roles import Roles
from modelzoo.report.run_files import RunFiles, is_number, read_run
from modelzoo.report.statistics import CONFIDENCE

JSON_NAME, PAGE_NAME = "report.json", "report.html"
CURVES = ("loss", "lr", "gradient_norm", "tokens_per_second")


@dataclass(frozen=True)
class Source:
    """What was read of one training source."""

    name: str
    tokens: int
    share: float
    epochs: float | None


@dataclass(frozen=True)
class Sample:
    """A prompt and how it was continued; (step, text)."""

    prompt: str
    seed: int | None
    before: tuple[int, str] | None
    after: tuple[int, str] | None


@dataclass(frozen=True)
class Report:
    """All that the page shows."""

    answer: Answer
    run: Mapping[str, Any]
    domains: list[Domain]
    sources: list[Source]
    training: dict[str, list[tuple[float, float]]]
    samples: list[Sample]
    advice: list[Step]
    missing: dict[str, str]
    """By what it is: roles, domains, intervals, sources, samples, machine."""

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return {
            "schema": 1,
            "answer": asdict(self.answer),
            "tolerance": TOLERANCE,
            "confidence": CONFIDENCE,
            "run": dict(self.run),
            "domains": [domain.to_json() for domain in self.domains],
            "sources": [asdict(source) for source in self.sources],
            "training": self.training,
            "samples": [
                {"prompt": s.prompt, "seed": s.seed, "before": _step_text(s.before), "after": _step_text(s.after)}
                for s in self.samples
            ],
            "advice": [asdict(step) for step in self.advice],
            "missing": list(self.missing.values()),
        }


def write_report(run_dir: Path, new: Collection[str] = ()) -> dict[str, Any]:
    """Write `report.json` and `report.html` into a run's directory, and return what the JSON holds.

    `new` names the evaluation sets that the run was to learn; empty takes what the run's callback `report` says, and
    where that says nothing those trained on most.

    Raises:
        UserError: there is no run, or no evaluation set of such a name.
    """
    from modelzoo.report.continuation_page import continuation_page

    report = collect(read_run(run_dir), new)
    numbers = report.to_json()
    write_text(run_dir / JSON_NAME, json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    write_text(run_dir / PAGE_NAME, continuation_page(report))
    return numbers


def collect(files: RunFiles, new: Collection[str] = ()) -> Report:
    """Everything that a run's files tell."""
    new = new or _said_to_be_new(files)
    domains = read_domains(files, new)
    names = [domain.name for domain in domains]
    if unknown := [name for name in new if name not in names]:
        raise UserError(
            f"{files.path}: evaluated no set of the name {', '.join(unknown)}; there are: {', '.join(names) or 'none'}"
        )
    sources = _sources(files)
    continued = files.setting("continue_from") is not None
    training = {key: thinned(files.series(key)) for key in CURVES}
    samples = _samples(files)
    ended_early = files.machine.get("ended_early") is not None
    complete = files.total_steps is None or files.step >= files.total_steps or ended_early
    seen = Seen(
        domains, {s.name: s.epochs for s in sources if s.epochs is not None}, files.series("lr"), continued, complete
    )
    return Report(
        answer=answer(domains, continued, complete, files.base.get("had_another_tokenizer")),
        run=_run(files, complete),
        domains=domains,
        sources=sources,
        training=training,
        samples=samples,
        advice=advice(seen),
        missing=dict(_missing(files, domains, sources, samples, not new and Roles(files).guessed)),
    )


def _said_to_be_new(files: RunFiles) -> Collection[str]:
    callbacks = files.setting("callbacks", default={})
    found = [c.get("new") for c in callbacks.values() if isinstance(c, Mapping) and c.get("kind") == "report"]
    return next((names for names in found if names), ())


def _run(files: RunFiles, complete: bool) -> dict[str, Any]:
    records = [r for r in files.metrics if is_number(r.get("tokens_per_second")) and r["tokens_per_second"] > 0]
    seconds, before = 0.0, 0
    for record in records:  # each speaks of the tokens since the one before it
        seconds += max(0, record["tokens"] - before) / record["tokens_per_second"]
        before = record["tokens"]
    return {
        "name": files.setting("name", default=files.path.resolve().name),
        "description": files.setting("description", default=""),
        "base": files.setting("continue_from"),
        "steps": files.step,
        "total_steps": files.total_steps,
        "tokens": max((record["tokens"] for record in files.metrics), default=0),
        "complete": complete,
        "seconds": seconds or None,
        "tokens_per_second": before / seconds if seconds else None,
        "machine": dict(files.machine),
        "settings": {key: value for key, value in _flat(files.config) if not isinstance(value, dict)},
    }


def _sources(files: RunFiles) -> list[Source]:
    """As the run counted them. A single dataset needs no counting."""
    counted = {
        key.partition("/")[2]: int(files.series(key)[-1][1])
        for key in dict.fromkeys(k for record in files.metrics for k in record if k.startswith("tokens_seen"))
        if files.series(key)
    }
    train = files.setting("data", "train", default={})
    if not counted and isinstance(train, Mapping) and "path" in train and files.metrics:
        counted = {str(train["path"]): max(record["tokens"] for record in files.metrics)}
    total = sum(counted.values())
    epochs = {name: files.series(f"epochs/{name}") or files.series("epochs") for name in counted}
    return [
        Source(name, tokens, tokens / total if total else 0.0, epochs[name][-1][1] if epochs[name] else None)
        for name, tokens in sorted(counted.items(), key=lambda entry: -entry[1])
    ]


def _samples(files: RunFiles) -> list[Sample]:
    """Each prompt with its seed: at step 0, and at the newest step after that."""
    found: dict[tuple[str, int | None], dict[int, str]] = {}
    for record in files.samples:
        if isinstance(record.get("prompt"), str) and isinstance(record.get("text"), str):
            found.setdefault((record["prompt"], record.get("seed")), {})[record["step"]] = record["text"]
    newest = max((step for texts in found.values() for step in texts), default=0)
    return [
        Sample(
            prompt,
            seed,
            (0, texts[0]) if 0 in texts else None,
            (newest, texts[newest]) if newest and newest in texts else None,
        )
        for (prompt, seed), texts in found.items()
        if 0 in texts or newest in texts
    ]


def _missing(
    files: RunFiles, domains: list[Domain], sources: list[Source], samples: list[Sample], guessed: bool
) -> Iterator[tuple[str, str]]:
    """What a report could show, was not there, and where it would come from."""
    if guessed and domains:
        names = ", ".join(domain.name for domain in domains if domain.role == "new") or "none"
        yield (
            "roles",
            (
                f"Which domains were to be learned is guessed from the shares of the training tokens ({names}). Say "
                "it: callbacks.report.new=[…] in the run, or modelzoo report RUN --new NAME; or give what is replayed "
                "`share` in place of `weight`."
            ),
        )
    if not domains:
        yield "domains", "No domain was evaluated: name sets in data.validation, and the callback `evaluate`."
    elif all(domain.before is None for domain in domains):
        yield "before", "Nothing was measured at step 0: let the callback `evaluate` begin at the start."
    elif any(domain.change is not None and domain.interval is None for domain in domains):
        names = ", ".join(domain.name for domain in domains if domain.change is not None and domain.interval is None)
        yield (
            "intervals",
            (
                f"No interval for {names}: that takes the losses of ten or more blocks of text, the same ones at step "
                "0 and at the end, in evaluations.jsonl."
            ),
        )
    if names := ", ".join(domain.name for domain in domains if domain.unpaired == "other data"):
        yield (
            "other_data",
            (
                f"The validation set changed during the run ({names}): the newest evaluation is of other text than the "
                "first, and is not compared with it. modelzoo evaluate measures the base on the new one."
            ),
        )
    if names := ", ".join(domain.name for domain in domains if domain.unpaired == "other rows"):
        yield (
            "other_rows",
            (
                f"The newest evaluation is of other rows than the first ({names}), as where max_batches or batch_size "
                "of the callback `evaluate` changed on resume: there is no change to tell, and no interval. Keep "
                "them through a run."
            ),
        )
    if not sources:
        yield "sources", "Tokens per source were not counted: a run with a mixture publishes tokens_seen and epochs."
    if not samples:
        yield "samples", "No samples were drawn: the callback `samples` writes them, before the first update and after."
    elif all(sample.before is None for sample in samples):
        yield "first_samples", "No samples were drawn before the first update, so there is nothing to compare with."
    if not files.config:
        yield "config", "There is no config.yaml, so nothing is known of the settings, nor which domains are new."
    if not files.machine:
        yield "machine", "The machine is not known: the callback `report` writes it down when a run begins."


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}{key}.")]
    return [(prefix.rstrip("."), value)]


def _step_text(entry: tuple[int, str] | None) -> dict[str, Any] | None:
    return None if entry is None else {"step": entry[0], "text": entry[1]}
