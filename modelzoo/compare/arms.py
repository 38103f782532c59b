"""The arms of a study as the runs that they are: composed, brought to the study's budget and batch. No torch."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelzoo.base_config import UserError
from modelzoo.compare.config import CompareConfig
from modelzoo.config_errors import Provenance
from modelzoo.config_files import Composed, validate
from modelzoo.data.config import MixtureConfig
from modelzoo.data.sources import open_dataset
from modelzoo.run_config import RunConfig, diff, load_run_config

BY_THE_STUDY = (
    "name",
    "description",
    "output_dir",
    "seed",
    "trainer.max_steps",
    "trainer.max_tokens",
    "trainer.max_epochs",
)
"""Keys of a run that the study decides; what an arm's own config says of them does not matter."""
INSTEAD = {
    "name": "the study's name", "description": "arms.*.description", "output_dir": "the study's output_dir",
    "seed": "the study's seeds (or an arm's seed_offset)",
}  # fmt: skip
"""What decides in the place of a key that is refused in overrides; an arm's length is refused too."""
FFN_MULTIPLE = 8
"""An adjusted ffn_size is a multiple of this, as fast products want it."""


@dataclass(frozen=True)
class Arm:
    """One variant of a study."""

    name: str
    source: str
    """The run's config that it begins from."""
    overrides: tuple[str, ...]
    """All of them, in the order in which they apply."""
    composed: RunConfig
    """As its author wrote it."""
    config: RunConfig
    """As it is trained: with the study's budget, batch and schedule; of no seed yet."""
    bytes_per_token: float | None
    """Of the training text; None where that is no single dataset of plain text."""
    ffn_size_was: int | None = None
    """Before it was adjusted."""

    @property
    def steps(self) -> int:
        """Updates of a run."""
        return self.config.total_steps

    @property
    def tokens(self) -> int:
        """Tokens of a run."""
        return self.steps * self.config.tokens_per_step

    @property
    def num_bytes(self) -> float | None:
        """Bytes of text that a run reads."""
        return None if self.bytes_per_token is None else self.tokens * self.bytes_per_token

    @property
    def flops_per_token(self) -> int:
        """Forward and backward."""
        return self.config.model.flops_per_token(self.config.data.seq_len)

    @property
    def flops(self) -> int:
        """Of a run."""
        return self.flops_per_token * self.tokens

    def parameters(self, count: str) -> int:
        """`all`, or `without_embeddings`."""
        model = self.config.model
        return model.num_parameters() if count == "all" else model.num_non_embedding()

    def changed(self, changes: Mapping[str, Any]) -> "Arm":
        """With other values of dotted keys. UserError where that is no valid run."""
        return replace(self, config=changed(self.config, changes, f"arm {self.name}"))


def changed(config: RunConfig, changes: Mapping[str, Any], origin: str) -> RunConfig:
    """A config with other values of dotted keys, validated anew. ConfigError names `origin`."""
    data = config.model_dump(mode="json")
    for key, value in changes.items():
        *sections, last = key.split(".")
        inner = data
        for section in sections:
            inner = inner[section]
        inner[last] = value
    return validate(RunConfig, Composed(data, Provenance(origin), {}))


def compose_arms(study: CompareConfig, more: Sequence[str] = ()) -> list[Arm]:
    """Each arm as its author wrote it, and with `more` overrides. UserError names every arm that is wrong."""
    arms, failures = [], [f"overrides: {line}" for line in _decided_elsewhere(study.overrides, of_an_arm=False)]
    for name, own in study.used_arms.items():
        failures += [f"arms.{name}.overrides: {line}" for line in _decided_elsewhere(own.overrides, of_an_arm=True)]
        chain = study.chain(name)
        source = study.used_arms[chain[0]].config
        assert source is not None  # CompareConfig sees to it
        overrides = (*study.overrides, *(each for link in chain for each in study.used_arms[link].overrides))
        try:
            config = load_run_config(source, [*overrides, *more])
            _check_end(name, study.used_arms[name].equals, [*study.overrides, *more], config)
            arms.append(Arm(name, source, overrides, config, config, _bytes_per_token(config)))
        except UserError as error:
            failures.append(f"arm {name}: {error}".replace("command line, ", "overrides, "))
    if failures:
        raise UserError("\n".join(failures))
    return arms


def _decided_elsewhere(overrides: Sequence[str], of_an_arm: bool) -> Iterator[str]:
    """Overrides that would be ignored."""
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key in INSTEAD:
            yield f"{override}: is decided by {INSTEAD[key]}; set that, and drop this"
        elif of_an_arm and key in BY_THE_STUDY:
            yield f"{override}: the length of every run comes from the study's budget; set that, and drop this"


def _check_end(name: str, equals: str | None, overrides: Sequence[str], config: RunConfig) -> None:
    """That a ladder has come where the study says that it leads."""
    if equals is None:
        return
    left = [change for change in diff(config, load_run_config(equals, overrides)) if change[0] not in BY_THE_STUDY]
    if left:
        lines = "\n".join(f"    {key}: {ours} here, {theirs} in {equals}" for key, ours, theirs in left)
        raise UserError(
            f"arms.{name}.equals={equals}, but they differ:\n{lines}\n    add these as rungs, or drop equals"
        )


def _bytes_per_token(config: RunConfig) -> float | None:
    data = config.data
    if isinstance(data.train, MixtureConfig) or not Path(data.train.path).is_dir():
        return None
    return open_dataset(data.train, data.seq_len, data.isolate_documents, config.model.vocab_size).bytes_per_token


def fit_size(study: CompareConfig, arms: list[Arm]) -> list[Arm]:
    """With `parameters.adjust_ffn_size`, each arm as wide as brings it to the size of the one it is compared with."""
    rule = study.parameters
    if not rule.adjust_ffn_size:
        return arms
    fitted: dict[str, Arm] = {}
    waiting = {arm.name: arm for arm in arms}
    while waiting:  # those compared with none first, then those compared with them
        name = next(n for n in waiting if (a := study.against(n)) is None or a not in waiting)
        arm, against = waiting.pop(name), study.against(name)
        fitted[name] = arm if against is None else _as_large(arm, fitted[against].parameters(rule.count), study)
    return [fitted[arm.name] for arm in arms]


def _as_large(arm: Arm, wanted: int, study: CompareConfig) -> Arm:
    rule = study.parameters
    if abs(arm.parameters(rule.count) / wanted - 1) <= rule.within:
        return arm
    before = arm.config.model.ffn_width
    per_unit = arm.changed({"model.ffn_size": before + FFN_MULTIPLE}).parameters(rule.count) - arm.parameters(
        rule.count
    )
    size = before + FFN_MULTIPLE * round((wanted - arm.parameters(rule.count)) / per_unit)
    if size < FFN_MULTIPLE:
        raise UserError(
            f"arm {arm.name}: no model.ffn_size brings its {arm.parameters(rule.count):,} parameters to {wanted:,}; "
            "make it narrower or shallower yourself"
        )
    return replace(arm.changed({"model.ffn_size": size}), ffn_size_was=before)


def fit_budget(study: CompareConfig, arms: list[Arm], seconds_per_step: Mapping[str, float] | None = None) -> list[Arm]:
    """Each arm with the batch and the number of updates that the study gives it, and its schedule stretched to them.

    A budget of seconds needs `seconds_per_step` by arm; before it is known, each arm has its own length. UserError
    where a budget or a batch in bytes meets data whose bytes are not known.
    """
    base = next(arm for arm in arms if arm.name == study.baseline_name)
    if study.batch == "bytes":
        arms = [_with_batch_of(arm, base) for arm in arms]
        base = next(arm for arm in arms if arm.name == study.baseline_name)
    steps = {arm.name: _steps(study, arm, base, seconds_per_step) for arm in arms}
    per_step = base.config.tokens_per_step
    return [_of_length(arm, steps[arm.name], steps[base.name], steps[base.name] * per_step) for arm in arms]


def _with_batch_of(arm: Arm, base: Arm) -> Arm:
    known, size = _known(arm, "batch=bytes"), base.config.trainer.global_batch_size
    rows = size * base.config.data.seq_len * _known(base, "batch=bytes") / (known * arm.config.data.seq_len)
    trainer, ranks = arm.config.trainer, arm.config.accelerator
    replicate = 1 if ranks.replicate == "auto" else ranks.replicate
    whole = math.lcm(trainer.micro_batch_size or 1, replicate * ranks.shard)  # what a batch must be a multiple of
    return arm if arm is base else arm.changed({"trainer.global_batch_size": whole * max(1, round(rows / whole))})


def _steps(study: CompareConfig, arm: Arm, base: Arm, seconds_per_step: Mapping[str, float] | None) -> int:
    unit, amount = study.budget.unit, study.budget.amount
    if unit == "seconds" and seconds_per_step is None:
        return 1_000 if arm.composed.trainer.max_epochs is not None else arm.composed.total_steps
    per_step: float = arm.config.tokens_per_step
    if amount is None:
        if base.config.trainer.max_epochs is not None:
            raise UserError(
                "budget.amount: is null, and the baseline's config gives its length in epochs; name a number of tokens"
            )
        amount = base.config.total_steps * base.config.tokens_per_step
    elif unit == "bytes":
        per_step *= _known(arm, "budget.unit=bytes")
    elif unit == "flops":
        per_step *= arm.flops_per_token
    elif unit == "seconds":
        assert seconds_per_step is not None
        per_step = seconds_per_step[arm.name]
    return max(1, round(amount / per_step))


def _of_length(arm: Arm, steps: int, steps_of_base: int, tokens_of_base: int) -> Arm:
    """So many updates; the durations of the schedule, written for the baseline's length, in proportion."""
    schedule = arm.config.schedule.model_dump(mode="json")
    factors = {"_steps": steps / steps_of_base, "_tokens": steps * arm.config.tokens_per_step / tokens_of_base}
    return arm.changed(
        {
            "trainer.max_tokens": None,
            "trainer.max_epochs": None,
            "trainer.max_steps": steps,
            "schedule": _stretched(schedule, factors),
        }
    )


def _stretched(section: Any, factors: Mapping[str, float]) -> Any:
    if not isinstance(section, dict):
        return section
    found = {}
    for key, value in section.items():
        factor = next((factor for end, factor in factors.items() if key.endswith(end)), None)
        is_number = isinstance(value, int) and not isinstance(value, bool)
        found[key] = round(value * factor) if factor is not None and is_number else _stretched(value, factors)
    return found


def _known(arm: Arm, what: str) -> float:
    if arm.bytes_per_token is None:
        raise UserError(
            f"arm {arm.name}: {what} needs data.train to be one dataset of plain text that is there already; use "
            "tokens, or preprocess it first"
        )
    return arm.bytes_per_token
