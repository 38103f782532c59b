"""The YAML of a study: which variants are compared, what may differ between them, and what must not. No torch."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from modelzoo.base_config import Config, FromFloat, FromList, Problem

LONGEST_NAME = 80
ARM_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
"""It becomes a part of the names of runs."""
Texts = Annotated[tuple[str, ...], FromList]
Count = Annotated[int, FromFloat, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class ArmConfig(Config):
    """One variant: a run's config, or another arm with something changed."""

    config: str | None = None
    """A shipped run's name, or the path of a run's YAML. Give this or `builds_on`."""
    builds_on: str | None = None
    """Another arm, whose config this one changes: a chain of these is a ladder, each rung compared with the last."""
    overrides: Texts = ()
    """What is changed, `key=value` in hydra's grammar; after the overrides of the study, and of what it builds on."""
    against: str | None = None
    """The arm that it is compared with; null: the one it builds on, else the baseline."""
    equals: str | None = None
    """A run's config that must come out: the end of a ladder says where it has led."""
    seed_offset: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Added to each of the study's seeds: a config against itself with other seeds shows what chance alone does."""
    description: str = ""
    """What the arm is, in a line, for the report."""

    def problems(self) -> Iterator[Problem]:
        if (self.config is None) == (self.builds_on is None):
            yield Problem(("config",), "give a config, or another arm that this one builds_on, and not both")


class BudgetConfig(Config):
    """What each arm may spend. It sets the length of every run, in the place of trainer.max_*."""

    unit: Literal["tokens", "bytes", "flops", "seconds"] = "tokens"
    """tokens; bytes of training text; flops, forward and backward; seconds of training, by each arm's own speed,
    which is measured beforehand, the arms in turn."""
    amount: Annotated[float, Field(gt=0)] | None = None
    """null: the tokens that the baseline's own config asks for."""

    def problems(self) -> Iterator[Problem]:
        if self.amount is None and self.unit != "tokens":
            yield Problem(("amount",), f"is null, and there is no usual number of {self.unit}; give one")


class ParametersConfig(Config):
    """How alike in size the arms must be."""

    count: Literal["all", "without_embeddings"] = "all"
    """Which parameters: with vocabularies of different sizes, those without_embeddings are what compares."""
    within: Annotated[float, Field(ge=0)] = 0.02
    """Part by which an arm may differ from the one that it is compared with."""
    adjust_ffn_size: bool = False
    """Where an arm differs by more, choose its model.ffn_size so that it does not; the report shows what was chosen."""


class HeldOutConfig(Config):
    """The text on which finished runs are compared, document by document."""

    max_bytes: Annotated[int, FromFloat, Field(gt=0)] = 1_000_000
    """Bytes of each validation set to read, whole documents from its beginning."""
    batch_size: Count = 16
    """Rows per forward pass."""


class TasksConfig(Config):
    """Tasks of lm-evaluation-harness (the extra lm_eval), on which finished runs are compared too."""

    names: Annotated[tuple[str, ...], FromList, Field(min_length=1)]
    """As `modelzoo evaluate --tasks` takes them."""
    dir: str | None = None
    """Folder of task files of your own."""
    limit: Count | None = None
    """Only so many documents of each."""


class SpeedConfig(Config):
    """Steps and generation, timed with the arms in turn: A B C A B C …"""

    rounds: Annotated[int, Field(ge=5)] = 20
    """Timings of each arm."""
    warmup_rounds: Annotated[int, Field(ge=1)] = 3
    """Rounds before, which do not count."""
    new_tokens: Annotated[int, Field(ge=0)] = 64
    """Tokens to generate in a round after a prompt of 64; 0 times training alone."""
    overrides: Texts = ()
    """`key=value` for the timings alone, after all others: another width, precision or batch than is trained."""
    all_reduces: bool = False
    """Count the all-reduces of a layer too, forward and backward, with two ranks that share the model (gloo)."""


class CompareConfig(Config):
    """A study: arms, each trained from the same seeds on the same data with the same budget, and compared."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Names the study's folder."""
    description: str = ""
    """What is asked, in a line."""
    output_dir: str = "runs/compare"
    """The study's folder is `<output_dir>/<name>`; its runs are in `<output_dir>/runs`, for other studies too."""
    prepare: Texts = ()
    """Configs of tokenizers and preprocessing that write the data; what is there already is not written again."""
    arms: dict[str, ArmConfig | None]
    """By a name of your choice, in the order of the report; null drops one that an included file brings."""
    baseline: str | None = None
    """The arm that others are compared with; null: the first."""
    overrides: Texts = ()
    """`key=value` for every arm."""
    seeds: Annotated[tuple[Seed, ...], FromList, Field(min_length=1)] = (0, 1, 2)
    """One run of each arm for each of these: of the first weights, the order of the data and dropout."""
    may_differ: Texts = ("model.*",)
    """Patterns of the keys in which arms may differ (* is any text). A difference in any other key is an error."""
    budget: BudgetConfig = BudgetConfig()
    batch: Literal["tokens", "bytes"] = "tokens"
    """What a global batch has equally much of in every arm. bytes: arms with other tokenizers get as many rows as hold
    the text of the baseline's batch."""
    parameters: ParametersConfig = ParametersConfig()
    lr_grid: Annotated[tuple[Annotated[float, Field(gt=0)], ...], FromList] | None = None
    """Learning rates that each arm is trained with once; the best of them is that arm's. null: all have one rate."""
    lr_seed: Seed = 1000
    """Of the runs of `lr_grid`, which are not compared."""
    held_out: HeldOutConfig = HeldOutConfig()
    tasks: TasksConfig | None = None
    """null takes none."""
    speed: SpeedConfig | None = SpeedConfig()
    """null does not time the arms."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Of all intervals of the report together."""

    @property
    def used_arms(self) -> dict[str, ArmConfig]:
        """The arms that are not null."""
        return {name: arm for name, arm in self.arms.items() if arm is not None}

    @property
    def baseline_name(self) -> str:
        """The arm that others are compared with."""
        return self.baseline or next(iter(self.used_arms))

    def against(self, arm: str) -> str | None:
        """The arm that another is compared with; None for the baseline."""
        own = self.used_arms[arm]
        return None if arm == self.baseline_name else own.against or own.builds_on or self.baseline_name

    def chain(self, arm: str) -> list[str]:
        """The arms that it builds on, the root first, and itself."""
        found = [arm]
        while (below := self.used_arms[found[0]].builds_on) is not None:
            found.insert(0, below)
        return found

    def problems(self) -> Iterator[Problem]:
        arms = self.used_arms
        if len(arms) < 2:
            yield Problem(("arms",), f"has {len(arms)}; a comparison needs at least two")
            return
        for name in arms:
            if not ARM_NAME.fullmatch(name):
                yield Problem(
                    ("arms", name),
                    f"its name must be of at most {LONGEST_NAME} letters, digits, dots, dashes and underscores",
                )
        if self.baseline is not None and self.baseline not in arms:
            yield Problem(("baseline",), f"is not an arm; there are: {', '.join(arms)}")
            return
        broken = False
        for name, arm in arms.items():
            for key, other in (("builds_on", arm.builds_on), ("against", arm.against)):
                if other is not None and (other not in arms or other == name):
                    broken = True
                    others = ", ".join(other for other in arms if other != name)
                    yield Problem(("arms", name, key), f"must be another arm; there are: {others}")
        if broken:
            return
        if circular := [name for name in arms if self._is_circular(name)]:
            for name in circular:
                yield Problem(("arms", name, "builds_on"), "comes back to this arm; one of them needs a config")
            return
        for name in arms:
            if not self._comes_to_baseline(name):
                yield Problem(
                    ("arms", name, "against"),
                    f"leads round in a circle, and never to the baseline {self.baseline_name}; drop one of them",
                )
        own = arms[self.baseline_name]
        if own.against is not None:
            yield Problem(("arms", self.baseline_name, "against"), "is the baseline, which is compared with none")
        if len(set(self.seeds)) < len(self.seeds):
            yield Problem(("seeds",), "names a seed twice; a run of the same seed is the same run")
        if self.lr_grid is not None and len(set(self.lr_grid)) < 2:
            yield Problem(
                ("lr_grid",), "needs two rates or more; for one, set optimizer.lr in overrides, and null here"
            )
        if self.name == "runs":
            yield Problem(("name",), "is the name of the folder of all runs; choose another")
        used = {seed + arm.seed_offset for seed in self.seeds for arm in arms.values()}
        if self.lr_grid is not None and used & {self.lr_seed + arm.seed_offset for arm in arms.values()}:
            yield Problem(
                ("lr_seed",),
                f"is one of the seeds; the rate would be chosen on a run that is compared: use {max(used) + 1000}",
            )

    def _is_circular(self, name: str) -> bool:
        seen, at = set[str](), name
        while (below := self.used_arms[at].builds_on) is not None and below not in seen:
            seen.add(below)
            at = below
        return name in seen

    def _comes_to_baseline(self, name: str) -> bool:
        seen, at = {name}, name
        while (other := self.against(at)) is not None:
            if other in seen:
                return False
            seen.add(other)
            at = other
        return True
