"""What makes a comparison fair, checked before anything is trained. No torch.

Whatever is not equal, and not what the study is about, is refused, all at once. What holds is written down with its
numbers, so that a reader of the report can check it too.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from modelzoo.base_config import UserError, kind_of
from modelzoo.compare.arms import BY_THE_STUDY, Arm
from modelzoo.compare.config import CompareConfig
from modelzoo.data.config import MixtureConfig, SourceConfig
from modelzoo.data.dataset import TokenDataset
from modelzoo.data.schema import Manifest, find_split, read_manifest
from modelzoo.data.sources import is_modelzoos, open_dataset, split_of
from modelzoo.run_config import RunConfig, diff

FEWEST_SEEDS = 3
OF_DOCUMENTS = (
    "data.train", "data.shuffle", "data.seq_len", "data.isolate_documents", "trainer.skip_batches",
    "trainer.global_batch_size",
)  # fmt: skip
"""What decides which documents a run reads, and in which rows and batches."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    check: str
    held: bool
    detail: str

    def to_json(self) -> dict[str, Any]:
        """For plan.json."""
        return asdict(self)


def differences(study: CompareConfig, arm: Arm, other: Arm) -> list[tuple[str, Any, Any]]:
    """(key, the other's value, this arm's) of everything that the study does not decide itself."""
    found = diff(other.composed, arm.composed)
    if arm.ffn_size_was is not None or other.ffn_size_was is not None:
        found = [change for change in found if change[0] != "model.ffn_size"]
        found += [c for c in diff(other.config, arm.config) if c[0] == "model.ffn_size"]
    rate = ("optimizer.lr",) if study.lr_grid is not None else ()
    return [change for change in found if change[0] not in (*BY_THE_STUDY, *rate)]


def check_configs(study: CompareConfig, arms: Sequence[Arm]) -> None:
    """What can be said before the data is there. UserError with all that is unfair."""
    _refuse(study, [line for pair in _pairs(study, arms) for check in BY_CONFIG for line in check(study, *pair)])


def check_fairness(study: CompareConfig, arms: Sequence[Arm]) -> list[Check]:
    """Every check of a study whose arms have their budget. UserError with all that is unfair."""
    pairs = _pairs(study, arms)
    base = next(arm for arm in arms if arm.name == study.baseline_name)
    unfair = [line for pair in pairs for check in BY_CONFIG for line in check(study, *pair)]
    unfair += [line for pair in pairs for line in _text_apart(*pair)]
    unfair += [line for pair in pairs for line in _schedules_apart(study, *pair)]
    _refuse(study, unfair)
    _check_measurable(arms)
    return [
        _differences(study, pairs),
        _same_documents(study, base, pairs),
        _same_held_out(base),
        _budget(study, arms),
        _batch(study, arms),
        _parameters(study, pairs),
        _schedule(study, base, pairs),
        _learning_rate(study, base, pairs),
        _seeds(study),
    ]


def _pairs(study: CompareConfig, arms: Sequence[Arm]) -> list[tuple[Arm, Arm]]:
    """Each arm with the one that it is compared with."""
    by_name = {arm.name: arm for arm in arms}
    return [(arm, by_name[other]) for arm in arms if (other := study.against(arm.name)) is not None]


def _refuse(study: CompareConfig, unfair: Sequence[str]) -> None:
    if unfair:
        raise UserError(f"study {study.name}: the comparison would not be fair:\n" + "\n".join(unfair))


# ---------------------------------------------------------------------- what is refused


def _forbidden(study: CompareConfig, arm: Arm, other: Arm) -> Iterator[str]:
    """Differences that the study is not about."""
    for key, theirs, ours in differences(study, arm, other):
        if not any(_matches(key, pattern) for pattern in study.may_differ):
            yield (
                f"    {key}: {ours} in {arm.name}, {theirs} in {other.name}; set it alike with an override for all "
                f"arms ({key}=…), or, if the study is about it, add it to may_differ"
            )


def _matches(key: str, pattern: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), key) is not None


def _sizes_apart(study: CompareConfig, arm: Arm, other: Arm) -> Iterator[str]:
    rule = study.parameters
    ours, theirs = arm.parameters(rule.count), other.parameters(rule.count)
    if abs(ours / theirs - 1) > rule.within:
        yield (
            f"    parameters ({rule.count.replace('_', ' ')}): {ours:,} in {arm.name}, {theirs:,} in {other.name}, "
            f"{ours / theirs - 1:+.2%}, and parameters.within is {rule.within:.2%}; set parameters.adjust_ffn_size="
            "true, or allow more"
        )


BY_CONFIG = (_forbidden, _sizes_apart)


def _text_apart(arm: Arm, other: Arm) -> Iterator[str]:
    """That data of several tokenizers is of one text, in one order."""
    ours, theirs = arm.config.data, other.config.data
    names = list({**ours.validation_sources(), **theirs.validation_sources()})
    if set(ours.validation_sources()) != set(theirs.validation_sources()):
        yield (
            f"    data.validation: {_named(ours.validation_sources())} in {arm.name}, "
            f"{_named(theirs.validation_sources())} in {other.name}; bits per byte compare on the same text alone"
        )
        return
    pairs = [
        (f"data.validation {name}".rstrip(), ours.validation_sources()[name], theirs.validation_sources()[name])
        for name in names
    ]
    for number, (a, b) in enumerate(zip_longest(ours.training_sources(), theirs.training_sources())):
        if a is None or b is None:
            yield f"    data.train: {arm.name} and {other.name} read different numbers of sources"
            return
        pairs.append((f"data.train {number}" if number else "data.train", a, b))
    for what, mine, its in pairs:
        if (mine.path, mine.split) != (its.path, its.split) and (reason := _not_one_text(mine, its)):
            yield f"    {what}: {mine.path} in {arm.name} and {its.path} in {other.name} {reason}"
    moved = [
        (a, b) for a, b in zip(ours.training_sources(), theirs.training_sources(), strict=True) if a.path != b.path
    ]
    if not moved:
        return
    if isinstance(ours.train, MixtureConfig):
        yield (
            f"    data.train: a mixture of other datasets in {arm.name} and {other.name}: so many tokens of one are "
            "other bytes for each tokenizer; preprocess all of them into one dataset (`sources`)"
        )
    elif ours.shuffle or theirs.shuffle:
        yield (
            f"    data.shuffle: true, and {arm.name} and {other.name} read rows of different text, so that shuffled "
            "they would read other parts of it; add the override data.shuffle=false (preprocessing shuffles documents)"
        )
    if any(source.packing != "stream" for pair in moved for source in pair):
        yield (
            f"    data.train.packing: best_fit orders documents by their tokens, of which {arm.name} and {other.name} "
            "have other numbers; use packing=stream for both"
        )


def _named(sources: dict[str, SourceConfig]) -> str:
    return ", ".join(name or "one set" for name in sources) or "no set"


def _not_one_text(a: SourceConfig, b: SourceConfig) -> str | None:
    """What says that two datasets are not the same documents in the same order; None where they are."""
    manifests = []
    for source in (a, b):
        path = Path(source.path)
        if not path.is_dir():
            return f"cannot be compared: {path} is not there; preprocess it first"
        if is_modelzoos(path):
            return "cannot be compared: ModelZoo's files do not say which text they hold"
        manifests.append(read_manifest(path))
    first, second = manifests
    if _inputs(first) != _inputs(second):
        return "are not of the same files; preprocess both from one corpus"
    changed = [key for key in first.settings if first.settings[key] != second.settings.get(key)]
    if changed:
        return f"were preprocessed with different settings ({', '.join(changed)}); preprocess both alike"
    splits = [find_split(Path(s.path), m, split_of(s)) for s, m in zip((a, b), manifests, strict=True)]
    counts = [(split.num_documents, split.num_bytes) for split in splits]
    if counts[0] != counts[1]:
        return (
            f"hold {counts[0][0]:,} documents of {counts[0][1]:,} bytes and {counts[1][0]:,} of {counts[1][1]:,}; "
            "preprocess both alike"
        )
    return None


def _inputs(manifest: Manifest) -> list[tuple[str, int, str]]:
    return [(file.path, file.size, file.sha256) for file in manifest.inputs]


def _schedules_apart(study: CompareConfig, arm: Arm, other: Arm) -> Iterator[str]:
    """The learning rate as a fraction of its peak, over the run as a fraction of its length: where the configs have one
    schedule, rounding to whole updates may have moved it by one or two of them."""
    if _differ(study, arm, other, "schedule.") or arm.steps == other.steps:
        return
    for place in range(65):
        own, theirs = _rates_around(arm, place / 64), _rates_around(other, place / 64)
        if min(own) > max(theirs) + 0.01 or min(theirs) > max(own) + 0.01:
            yield (
                f"    schedule: {place / 64:.0%} into the run the rate is {own[0]:.1%} of the peak in {arm.name}, and "
                f"{theirs[0]:.1%} in {other.name}; give both durations that are the same part of a run"
            )
            return


def _rates_around(arm: Arm, place: float) -> list[float]:
    """At a part of the run, and at the two updates before it and after it."""
    at = round(place * (arm.steps - 1))
    return [arm.config.lr_factor(step) for step in (at, *range(max(0, at - 2), min(arm.steps, at + 3)))]


def _differ(study: CompareConfig, arm: Arm, other: Arm, *starts: str) -> list[str]:
    """The keys below these in which two arms differ, as the study allows."""
    return [key for key, _, _ in differences(study, arm, other) if key.startswith(starts)]


# ---------------------------------------------------------------------- what holds


def _differences(study: CompareConfig, pairs: Sequence[tuple[Arm, Arm]]) -> Check:
    keys = list(dict.fromkeys(key for arm, other in pairs for key, _, _ in differences(study, arm, other)))
    allowed = ", ".join(study.may_differ)
    return Check(
        "nothing differs but what the study is about", True, f"{', '.join(keys) or 'nothing'} (may: {allowed})"
    )


def _about(keys: Sequence[str]) -> str:
    return f"the study is about {', '.join(dict.fromkeys(keys))}"


def _same_documents(study: CompareConfig, base: Arm, pairs: Sequence[tuple[Arm, Arm]]) -> Check:
    name = "same documents in the same order"
    keys = [key for pair in pairs for key in _differ(study, *pair, *OF_DOCUMENTS)]
    if not keys:
        of = ", ".join(f"{source.path} ({source.split})" for source in base.config.data.training_sources())
        order = "in the order of each seed" if base.config.data.shuffle else "as stored, for every seed"
        return Check(name, True, f"one dataset, {of}, {order}")
    if set(keys) <= {"data.train.path"}:  # which was found to be of one text
        return Check(
            name,
            True,
            "datasets of several tokenizers, from the same files (sha256) with the same settings, documents and bytes, "
            "read in the order in which they are stored",
        )
    return Check(name, False, _about(keys))


def _same_held_out(base: Arm) -> Check:
    sets = base.config.data.validation_sources()
    if not sets:
        raise UserError("data.validation: is null in every arm; a comparison needs held-out text: name a split there")
    of = "; ".join(f"{name or 'validation'}: {source.path} ({source.split})" for name, source in sets.items())
    return Check("same held-out text", True, of)


def _budget(study: CompareConfig, arms: Sequence[Arm]) -> Check:
    unit = study.budget.unit
    if unit == "seconds":
        return Check("same budget in seconds", True, f"{study.budget.amount:g} s of updates, by each arm's own speed")
    spent = [{"tokens": arm.tokens, "bytes": arm.num_bytes or 0.0, "flops": arm.flops}[unit] for arm in arms]
    return _alike(f"same budget in {unit}", spent, unit, "updates", min(arm.steps for arm in arms))


def _alike(name: str, amounts: Sequence[float], unit: str, parts: str, fewest: int) -> Check:
    """Equal but for rounding to whole `parts`, of which there are at least `fewest`."""
    apart = max(amounts) / min(amounts) - 1
    if apart > 1 / fewest + 1e-9:
        return Check(name, False, f"from {min(amounts):,.0f} to {max(amounts):,.0f} {unit}: the arms have others")
    rounded = f", at most {apart:.2%} apart, by rounding to whole {parts}" if apart > 1e-9 else ""
    return Check(name, True, f"{amounts[0]:,.0f} {unit}{rounded}")


def _batch(study: CompareConfig, arms: Sequence[Arm]) -> Check:
    name = f"same global batch in {study.batch}"
    if study.batch == "tokens":
        sizes = sorted({arm.config.tokens_per_step for arm in arms})
        return Check(name, len(sizes) == 1, " or ".join(f"{size:,}" for size in sizes) + " tokens")
    num_bytes = [arm.config.tokens_per_step * (arm.bytes_per_token or 0.0) for arm in arms]
    return _alike(name, num_bytes, "bytes", "rows", min(arm.config.trainer.global_batch_size for arm in arms))


def _parameters(study: CompareConfig, pairs: Sequence[tuple[Arm, Arm]]) -> Check:
    rule = study.parameters
    apart = max((abs(a.parameters(rule.count) / b.parameters(rule.count) - 1) for a, b in pairs), default=0.0)
    chosen = "; ".join(
        f"model.ffn_size {arm.ffn_size_was:,} → {arm.config.model.ffn_width:,} in {arm.name}"
        for arm, _ in pairs
        if arm.ffn_size_was is not None
    )
    detail = f"at most {apart:.2%} apart, {rule.within:.2%} allowed" + (f"; {chosen}" if chosen else "")
    return Check(f"parameters alike ({rule.count.replace('_', ' ')})", True, detail)


def _schedule(study: CompareConfig, base: Arm, pairs: Sequence[tuple[Arm, Arm]]) -> Check:
    keys = [key for pair in pairs for key in _differ(study, *pair, "schedule.")]
    warmup = base.config.warmup_steps / base.steps
    told = f"{kind_of(type(base.config.schedule))}, warm-up {warmup:.1%} of the run"
    return Check("same schedule in relative terms", not keys, _about(keys) if keys else told)


def _learning_rate(study: CompareConfig, base: Arm, pairs: Sequence[tuple[Arm, Arm]]) -> Check:
    if study.lr_grid is not None:
        grid = ", ".join(f"{rate:g}" for rate in study.lr_grid)
        return Check("learning rates", True, f"the best of {grid} for each arm, on seed {study.lr_seed}")
    if any(_differ(study, *pair, "optimizer.lr") for pair in pairs):
        return Check("learning rates", False, "each arm has its own, as the study says, not the best of one grid")
    return Check("learning rates", True, f"{base.config.optimizer.lr:g} for all; not the best one for each")


def _seeds(study: CompareConfig) -> Check:
    number = len(study.seeds)
    few = "" if number >= FEWEST_SEEDS else f"; fewer than {FEWEST_SEEDS} tell little of what another seed would give"
    apart = [f"{name} by {arm.seed_offset}" for name, arm in study.used_arms.items() if arm.seed_offset]
    paired = f"not paired: moved in {', '.join(apart)}" if apart else "paired"
    held = number >= FEWEST_SEEDS and not apart
    return Check("same seeds", held, f"{number}: {', '.join(map(str, study.seeds))}, {paired}{few}")


# ---------------------------------------------------------------------- what can be measured


def _check_measurable(arms: Sequence[Arm]) -> None:
    """That each run will end at its planned step, with a checkpoint, and held-out documents: as far as is known now."""
    failures = []
    for arm in arms:
        kinds = {getattr(callback, "kind", None) for callback in arm.config.callbacks.values()}
        if "checkpoint" not in kinds:
            failures.append(f"arm {arm.name}: callbacks: has none of the kind checkpoint, whose last one is measured")
        if "early_stop" in kinds:
            failures.append(f"arm {arm.name}: callbacks: early_stop would end a run before its budget; set it to null")
        for source in arm.config.data.validation_sources().values():
            if Path(source.path).is_dir():
                held_out_dataset(source, arm.config)
    if failures:
        raise UserError("\n".join(failures))


def held_out_dataset(source: SourceConfig, config: RunConfig) -> TokenDataset:
    """The dataset, which must hold plain text in documents. UserError otherwise."""
    if is_modelzoos(Path(source.path)):
        raise UserError(
            f"{source.path}: ModelZoo's files do not say where documents start, and runs are compared document by "
            "document; preprocess the held-out text with modelzoo preprocess"
        )
    dataset = open_dataset(source, config.data.seq_len, config.data.isolate_documents, config.model.vocab_size)
    assert isinstance(dataset, TokenDataset)
    if dataset.bytes_per_token is None:
        raise UserError(
            f"{source.path}: has a loss mask, and runs are compared by the bits of all of a text; name a dataset of "
            "the mode lm in data.validation"
        )
    if dataset.num_documents == 0:
        raise UserError(f"{source.path}: its split {source.split} holds no documents; name another in data.validation")
    return dataset
