"""The `data` section of a run: which datasets, read in windows of which length."""

from typing import Annotated

from pydantic import Field

from modelzoo.base_config import Config


class SourceConfig(Config):
    """One split of one dataset."""

    path: str
    """Directory written by `modelzoo preprocess` (the one that holds manifest.json)."""
    split: str
    """Name of the split in that directory: train, validation."""


class DataConfig(Config):
    """What is read for training and for evaluation."""

    train: SourceConfig
    """Read in shuffled order, epoch after epoch."""
    validation: SourceConfig | None = None
    """Read in order, once per evaluation; null trains without evaluating."""
    seq_len: Annotated[int, Field(gt=0, le=1_048_576)]
    """Tokens in a row. A dataset serves any length; nothing is preprocessed again."""
    tokenizer: str | None = None
    """tokenizer.json, or its directory, that the data must have been written with; null accepts any."""
