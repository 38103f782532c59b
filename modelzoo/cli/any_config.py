"""Loads a config of any verb: a run, a preprocessing, a tokenizer training, a study."""

from collections.abc import Sequence

from data_preprocessing.config import PreprocessConfig, TokenizerTrainConfig
from modelzoo.base_config import Config
from modelzoo.compare.config import CompareConfig
from modelzoo.config_files import Composed, compose, validate
from modelzoo.run_config import RunConfig

SCHEMAS: tuple[type[Config], ...] = (RunConfig, PreprocessConfig, TokenizerTrainConfig, CompareConfig)


def load_any(name: str, overrides: Sequence[str] = ()) -> tuple[Config, Composed]:
    """The config validated by the schema that knows most of its keys."""
    composed = compose(name, overrides)
    schema = max(SCHEMAS, key=lambda s: len(composed.data.keys() & s.model_fields.keys()))
    return validate(schema, composed), composed
