"""Hugging Face's models and ours: configs and weights, both ways.

Their family is chosen by `model_type` of a config.json, and on the way back by the values of our options.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelzoo.base_config import UserError
from modelzoo.convert import gpt2, gpt_j, gpt_neox
from modelzoo.convert.family import Family
from modelzoo.model.config import ModelConfig
from modelzoo.model.position.learned import LearnedPosition
from modelzoo.model.position.rotary import RotaryPosition

if TYPE_CHECKING:
    from torch import Tensor

FAMILIES: dict[str, Family] = {module.FAMILY.model_type: module.FAMILY for module in (gpt2, gpt_j, gpt_neox)}
"""By `model_type`."""

GPT_J_THETA = 10_000.0
"""Which transformers' GPT-J has no field for."""


def family_of(hf: Mapping[str, Any]) -> Family:
    """The family of a config.json, or UserError."""
    model_type = hf.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(f"model_type={model_type!r} is not supported; supported are {', '.join(FAMILIES)}")
    return FAMILIES[model_type]


def family_for(config: ModelConfig) -> Family:
    """The family that can hold a model of ours. Raises UserError, naming the options, where none can."""
    position = config.position
    if isinstance(position, LearnedPosition):
        family = gpt2.FAMILY
    elif isinstance(position, RotaryPosition):
        family = gpt_j.FAMILY if position.style == "interleaved" else gpt_neox.FAMILY
    else:
        raise UserError(
            f"model.position.kind={position.model_dump().get('kind')}: no model of Hugging Face's that we export to "
            "lacks positions; the checkpoint can only be used by modelzoo"
        )
    obstacles = family.obstacles(config)
    if isinstance(position, RotaryPosition) and position.unrotated != "none":
        obstacles.append(f"model.position.unrotated={position.unrotated} (needs none)")
    if family is gpt_j.FAMILY and isinstance(position, RotaryPosition) and position.theta != GPT_J_THETA:
        obstacles.append(f"model.position.theta={position.theta} (needs {GPT_J_THETA})")
    if obstacles:
        raise UserError(
            f"{'; '.join(obstacles)}: with {family.description} the model would be a {family.architecture}, which "
            "cannot hold this; train with the values needed, or use the checkpoint with modelzoo alone"
        )
    return family


def config_from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of our ModelConfig, from a config.json.

    `vocab_size` is then the rows of their embedding, which may include padding: where the tokenizer has fewer
    ids, use its number as vocab_size and theirs as padded_vocab_size.

    Raises UserError, naming the field, for what our model cannot do.
    """
    return family_of(hf).config_from_hf(hf)


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a model of ours, as far as it describes the model. UserError: none can."""
    return family_for(config).config_to_hf(config)


def weights_from_hf(
    state_dict: "Mapping[str, Tensor]", hf: Mapping[str, Any], config: ModelConfig
) -> "dict[str, Tensor]":
    """Our weights by name, from theirs in memory and their config.json.

    Raises UserError: weights are missing, left over, of another shape or another vocabulary.
    """
    family = family_of(hf)
    names = family.canonical(state_dict)
    family.check({name: tensor.shape for name, tensor in state_dict.items()}, names, config)
    theirs = {known: state_dict[name] for known, name in names.items()}
    if (head := theirs.get(f"{family.head[0]}.weight")) is not None and config.tie_embeddings:
        check_tied(head, theirs[family.embedding()], family)
    return {
        rule.ours: rule.layout.to_ours([theirs[name] for name in rule.theirs], config).contiguous()
        for rule in family.rules(config)
    }


def weights_to_hf(weights: "Mapping[str, Tensor]", config: ModelConfig) -> "dict[str, Tensor]":
    """Their weights by the names on disk, from ours in memory. The inverse of `weights_from_hf`."""
    return {
        name: tensor.contiguous()
        for rule in family_for(config).rules(config)
        for name, tensor in zip(rule.theirs, rule.layout.to_theirs(weights[rule.ours], config), strict=True)
    }


def check_tied(head: "Tensor", embedding: "Tensor", family: Family) -> None:
    """That a head stored beside the embedding that it is tied to says the same."""
    import torch

    if not torch.equal(head, embedding):
        raise UserError(
            f"{family.head[0]}.weight differs from the embedding, and the config ties them; set tie_word_embeddings "
            "(ours: tie_embeddings) to false"
        )
