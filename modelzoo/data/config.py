"""The `data` section of a run: which datasets, read in rows of which length."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from modelzoo.base_config import Config, FromFloat, Problem, UserError
from modelzoo.data.weights import Changing, Rate, Share, Weight, stretches

SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""It becomes a part of the names of numbers: `tokens_seen/<name>`."""


class SourceConfig(Config):
    """One split of one dataset."""

    path: str
    """Directory written by `modelzoo preprocess` (the one that holds manifest.json), or one of Cerebras
    ModelZoo's `*.h5` files, which are read as they are."""
    split: str | None = None
    """Name of the split in that directory: train, validation. ModelZoo's files have none: null."""
    packing: Literal["stream", "best_fit"] = "stream"
    """How documents become rows. stream: one after another, cut where a row ends. best_fit: rows of whole
    documents, only those longer than a row are cut; for fine-tuning examples."""


class DatasetConfig(SourceConfig):
    """One dataset."""

    kind: Literal["dataset"] = "dataset"
    """May be left out."""


class MixtureSource(SourceConfig):
    """One dataset of a mixture. Give its `weight` or its `share`."""

    weight: Weight | None = None
    """Its part of what the shares leave, relative to the other sources' weights, which need not sum to 1: a number,
    `proportional` (by its size), or a section: a number that changes over the run."""
    share: Share | None = None
    """Its part of all tokens, whatever the others' weights: 0.25 replays a quarter of old data. A number, or a
    section: one that changes over the run."""
    max_tokens: Annotated[int, FromFloat, Field(gt=0)] | None = None
    """Use only so many of its tokens: a sample of its rows that is the same for every seed; where data.shuffle=false,
    its first rows. null: all."""
    max_epochs: Annotated[int, Field(gt=0)] | None = None
    """How often it may be read in the run. null: any number."""
    after_max_epochs: Literal["refuse", "drop"] = "refuse"
    """Of a run that needs more. refuse: it does not start. drop: this source ends there, and the others take its
    part, each in proportion to its own."""

    def problems(self) -> Iterator[Problem]:
        if isinstance(self.weight, float) and self.weight <= 0:
            yield Problem(("weight",), "must be greater than 0; to leave a source out, set it to null")
        if self.weight is None and self.share is None:
            yield Problem(("weight",), "give a weight (a number, or proportional), or a share of all tokens")
        if self.weight is not None and self.share is not None:
            yield Problem(("share",), "give weight or share, not both (weight=null drops that one)")
        if isinstance(self.share, Changing) and max(self.share.values) > 1:
            yield Problem(("share", "values"), "must not exceed 1, which is all of the tokens")
        if self.after_max_epochs == "drop" and self.max_epochs is None:
            yield Problem(("after_max_epochs",), "needs max_epochs, which is null: the source would never end")

    def rate(self, total_steps: int, tokens_per_step: int, size: float) -> Rate:
        """What it gets in a run, where `size` stands for proportional."""
        given = self.weight if self.share is None else self.share
        if isinstance(given, Changing):
            return Rate(given.points(total_steps, tokens_per_step), self.share is not None)
        assert given is not None
        return Rate(((0, size if given == "proportional" else given),), self.share is not None)


class MixtureConfig(Config):
    """Several datasets, mixed batch by batch. Where an included file names one dataset, its keys would stay: begin
    with `- override data: null` in the defaults."""

    kind: Literal["mixture"] = "mixture"
    """May be left out."""
    sources: dict[str, MixtureSource | None]
    """By a name of your choice, which enters the order of the data; null drops one that an included file brings."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Proportional weights are sizes to the power of 1/temperature: above 1, small sources are read more often."""

    def problems(self) -> Iterator[Problem]:
        used = self.used_sources()
        if not used:
            yield Problem(("sources",), "is empty; name at least one source")
        for name in used:
            if not SOURCE_NAME.fullmatch(name):
                yield Problem(("sources", name), "its name must be of letters, digits, dots, dashes and underscores")
        by_size = [name for name, source in used.items() if source.weight == "proportional"]
        by_number = [name for name, source in used.items() if source.weight not in ("proportional", None)]
        if by_size and by_number:
            yield Problem(
                ("sources", by_number[0], "weight"),
                f"is a number, but that of {by_size[0]} is proportional: sizes and numbers do not compare; make all "
                "of one sort, or give this source a share",
            )
        if self.temperature != 1.0 and not by_size:
            yield Problem(("temperature",), "is for proportional weights, and no source has one; set it to 1")

    def problems_in_run(self, total_steps: int, tokens_per_step: int) -> Iterator[Problem]:
        """What does not fit a run of this length. Paths are relative to the mixture's section."""
        used = self.used_sources().values()
        changing = [each for source in used for each in (source.weight, source.share) if isinstance(each, Changing)]
        if any(True for section in (self, *used, *changing) for _ in section.problems()):  # reported by themselves
            return
        try:
            shares = stretches(self.rates(total_steps, tokens_per_step))
        except UserError as error:
            yield Problem(("sources",), str(error))
            return
        within = [stretch for stretch in shares if stretch.first < total_steps]
        for number, name in enumerate(self.used_sources()):
            if not any(stretch.start[number] or stretch.end[number] for stretch in within):
                yield Problem(("sources", name), "gets no tokens at all in this run; to leave it out, set it to null")

    def notes_in_run(self, total_steps: int, tokens_per_step: int) -> Iterator[str]:
        """What a user should know of a run of this length, though it may be meant so."""
        for name, source in self.used_sources().items():
            for key in ("weight", "share"):
                given = getattr(source, key)
                if isinstance(given, Changing) and (note := given.unreached(total_steps, tokens_per_step)):
                    yield f"data.train.sources.{name}.{key}: {note}"

    def rates(self, total_steps: int, tokens_per_step: int, sizes: Mapping[str, int] | None = None) -> dict[str, Rate]:
        """What each source gets in a run; without the `sizes` of the sources, as though all had one size."""
        return {
            name: source.rate(total_steps, tokens_per_step, sizes[name] ** (1 / self.temperature) if sizes else 1.0)
            for name, source in self.used_sources().items()
        }

    def used_sources(self) -> dict[str, MixtureSource]:
        """The sources that are not null."""
        return {name: source for name, source in self.sources.items() if source is not None}


class ValidationSets(Config):
    """Several datasets, each measured by itself. Where an included file names one dataset, its keys would stay:
    begin with `- override data: null` in the defaults."""

    kind: Literal["sets"] = "sets"
    """May be left out."""
    sources: dict[str, SourceConfig | None]
    """By a name of your choice, which ends the names of its numbers: `validation_loss/<name>`; null drops one that
    an included file brings."""

    def problems(self) -> Iterator[Problem]:
        if not self.used_sources():
            yield Problem(("sources",), "is empty; name at least one source, or write validation: null")
        for name in self.sources:
            if not SET_NAME.fullmatch(name):
                yield Problem(("sources", name), "its name must be of letters, digits, dots, dashes and underscores")

    def used_sources(self) -> dict[str, SourceConfig]:
        """The sources that are not null."""
        return {name: source for name, source in self.sources.items() if source is not None}


SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""It becomes a part of the names of numbers, and of files."""


def _kind_by_keys(several: str) -> Discriminator:
    """One dataset, or `several` where there are `sources`: the keys tell as well as `kind` does."""

    def kind(value: Any) -> str:
        if isinstance(value, dict):
            return str(value.get("kind", several if "sources" in value else "dataset"))
        return str(getattr(value, "kind", "dataset"))

    return Discriminator(kind)


class DataConfig(Config):
    """What is read for training and for evaluation."""

    train: Annotated[
        Annotated[DatasetConfig, Tag("dataset")] | Annotated[MixtureConfig, Tag("mixture")],
        _kind_by_keys("mixture"),
    ]
    """Read epoch after epoch, in the order that `shuffle` says."""
    validation: (
        Annotated[
            Annotated[DatasetConfig, Tag("dataset")] | Annotated[ValidationSets, Tag("sets")], _kind_by_keys("sets")
        ]
        | None
    ) = None
    """Read in order, once per evaluation; null trains without evaluating."""
    seq_len: Annotated[int, Field(gt=0, le=1_048_576)]
    """Tokens in a row. A dataset serves any length; nothing is preprocessed again."""
    shuffle: bool = True
    """The order of the training rows. true: shuffled, in another way in each epoch, by the run's seed. false: as they
    are stored, in every epoch; preprocessing has shuffled the documents then (`shuffle_seed`). So the datasets that
    two tokenizers made of one corpus give the same documents in the same order, and no seed changes it."""
    isolate_documents: bool = False
    """Documents in one row do not see each other: attention stays within a document, and its positions start
    at 0. Costs an attention mask of (rows, seq_len, seq_len)."""
    tokenizer: str | None = None
    """tokenizer.json, or its directory, that the data must have been written with; null accepts any. Needed
    for ModelZoo's files, which hold none."""

    def training_sources(self) -> list[SourceConfig]:
        """The sources that are trained on."""
        return list(self.train.used_sources().values()) if isinstance(self.train, MixtureConfig) else [self.train]

    def validation_sources(self) -> dict[str, SourceConfig]:
        """The sources that are evaluated on, by name; the name of a single one is empty."""
        if self.validation is None:
            return {}
        return self.validation.used_sources() if isinstance(self.validation, ValidationSets) else {"": self.validation}

    def used_sources(self) -> list[SourceConfig]:
        """Every source that the run reads, training first."""
        return [*self.training_sources(), *self.validation_sources().values()]
