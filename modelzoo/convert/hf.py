"""Hugging Face models to ours, the family chosen by `model_type` of their config."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor

from modelzoo.convert import gpt2, gpt_j, gpt_neox
from modelzoo.model.config import ModelConfig

FAMILIES: dict[str, ModuleType] = {"gpt2": gpt2, "gptj": gpt_j, "gpt_neox": gpt_neox}
"""By `model_type`. A family has `config_from_hf` and `weights_from_hf`."""


def config_from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of our ModelConfig, from a config.json.

    `vocab_size` is then the rows of their embedding, which may include padding: where the tokenizer has fewer
    ids, use its number as vocab_size and theirs as padded_vocab_size.

    Raises ValueError, naming the field, for what our model cannot do.
    """
    try:
        fields: dict[str, Any] = _family(hf).config_from_hf(hf)
    except KeyError as missing:
        raise ValueError(f"the config has no field {missing}") from None
    return fields


def weights_from_hf(state_dict: Mapping[str, Tensor], hf: Mapping[str, Any], config: ModelConfig) -> dict[str, Tensor]:
    """Our weights by name, from theirs and their config.json."""
    weights: dict[str, Tensor] = _family(hf).weights_from_hf(state_dict, config)
    return weights


def _family(hf: Mapping[str, Any]) -> ModuleType:
    model_type = hf.get("model_type")
    if model_type not in FAMILIES:
        raise ValueError(f"model_type={model_type!r} is not supported; supported are {', '.join(FAMILIES)}")
    return FAMILIES[model_type]
