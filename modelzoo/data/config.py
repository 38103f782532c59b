"""The `data` section of a run: which datasets, read in rows of which length."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from modelzoo.base_config import Config, FromFloat, Problem


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
    """One dataset of a mixture."""

    weight: Annotated[float, Field(le=1e9)]
    """Its share of the tokens, relative to the other sources' weights; they need not sum to 1."""
    max_tokens: Annotated[int, FromFloat, Field(gt=0)] | None = None
    """Use only so many of its tokens: a sample of its rows that is the same for every seed. null: all."""
    max_epochs: Annotated[int, Field(gt=0)] | None = None
    """How often it may be read in the run; a run that needs more is refused at its start. null: any number."""

    def problems(self) -> Iterator[Problem]:
        if self.weight <= 0:
            yield Problem(("weight",), "must be greater than 0; to leave a source out, set it to null")


class MixtureConfig(Config):
    """Several datasets, mixed batch by batch in fixed proportions. Where an included file names one dataset, its
    keys would stay: begin with `- override data: null` in the defaults."""

    kind: Literal["mixture"] = "mixture"
    """May be left out."""
    sources: dict[str, MixtureSource | None]
    """By a name of your choice, which enters the order of the data; null drops one that an included file brings."""

    def problems(self) -> Iterator[Problem]:
        if not self.used_sources():
            yield Problem(("sources",), "is empty; name at least one source")

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
    """Read in shuffled order, epoch after epoch."""
    validation: (
        Annotated[
            Annotated[DatasetConfig, Tag("dataset")] | Annotated[ValidationSets, Tag("sets")], _kind_by_keys("sets")
        ]
        | None
    ) = None
    """Read in order, once per evaluation; null trains without evaluating."""
    seq_len: Annotated[int, Field(gt=0, le=1_048_576)]
    """Tokens in a row. A dataset serves any length; nothing is preprocessed again."""
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
