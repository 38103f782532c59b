"""What the mappings from Hugging Face share: reading configs and weights without losing any."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from modelzoo.model.config import ModelConfig

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",  # the same tanh approximation, its constants written as decimals
    "gelu_pytorch_tanh": "gelu_tanh",
}


def activation_from(hf: Mapping[str, Any], field: str, default: str) -> str:
    """The value of our `activation`."""
    value = hf.get(field, default)
    if value not in ACTIVATIONS:
        raise ValueError(f"{field}={value!r} is not supported; supported are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def dropout_from(hf: Mapping[str, Any], fields: Iterable[str], default: float) -> float:
    """The value of our `dropout`: one probability, where they have several."""
    values = {field: float(hf.get(field, default)) for field in fields}
    if len(set(values.values())) > 1:
        listing = ", ".join(f"{field}={value}" for field, value in values.items())
        raise ValueError(f"{listing}: one probability for all is supported")
    return next(iter(values.values()))


def require(hf: Mapping[str, Any], **supported: Any) -> None:
    """Raise ValueError, naming the field, unless each field is absent or has the supported value."""
    for field, value in supported.items():
        if hf.get(field, value) != value:
            raise ValueError(f"{field}={hf[field]!r} is not supported; only {value!r} is")


class Weights:
    """A Hugging Face state dict being read. Every weight is taken once; one that is left over is an error."""

    def __init__(self, state_dict: Mapping[str, Tensor], prefix: str, buffers: str) -> None:
        """`prefix` may stand before a name; names that end in the pattern `buffers` are not weights."""
        self._state = state_dict
        names = (name for name in state_dict if not re.search(f"({buffers})$", name))
        self._left = {name.removeprefix(prefix): name for name in names}

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str) -> Tensor:
        if name not in self._left:
            raise ValueError(f"the weights have no {name!r}; do they belong to this config?")
        return self._state[self._left.pop(name)]

    def finish(self, weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        """Our weights, once everything is taken and the vocabulary fits."""
        if self._left:
            some = ", ".join(sorted(self._left)[:5])
            raise ValueError(f"the weights hold {len(self._left)} tensors that the config does not need: {some}")
        rows = len(weights["embedding.weight"])
        if rows != config.num_embeddings:
            raise ValueError(
                f"the weights have {rows} embeddings, the config {config.num_embeddings} "
                f"(vocab_size={config.vocab_size}, padded_vocab_size={config.padded_vocab_size}); "
                f"set padded_vocab_size to {rows}"
            )
        return weights

    def take_head(self, config: ModelConfig, embedding: Tensor, name: str = "lm_head") -> dict[str, Tensor]:
        """`lm_head.weight` and `.bias`, as far as the config has them."""
        if config.tie_embeddings:
            if f"{name}.weight" in self and not torch.equal(self.take(f"{name}.weight"), embedding):
                raise ValueError(f"{name}.weight differs from the embedding; set tie_embeddings to false")
            return {}
        kinds = ("weight", "bias") if config.lm_head_bias else ("weight",)
        return {f"lm_head.{kind}": self.take(f"{name}.{kind}") for kind in kinds}


def by_heads(stacked: Tensor, num_heads: int) -> Tensor:
    """Rows (3, H, K) of q, k and v, each with all its heads, to ours (H, 3, K)."""
    return stacked.unflatten(0, (3, num_heads, -1)).transpose(0, 1).flatten(0, 2)
