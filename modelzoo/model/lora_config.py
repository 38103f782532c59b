"""The `lora` section of a run: which linears get an adapter, and of what size. No torch."""

import math
from collections.abc import Iterator
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field

from modelzoo.base_config import Config, FromList, Problem
from modelzoo.model.config import ModelConfig

PARTS = ("attention.qkv", "attention.out", "mlp.fc_in", "mlp.fc_out")
HEAD = "lm_head"


class LoraConfig(Config):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): W x becomes W x + alpha / rank · B A x, where A and B alone
    are trained. B begins at 0, so that the run begins with the base's own loss."""

    rank: Annotated[int, Field(gt=0, le=4096)] = 8
    """Rows of A and columns of B."""
    alpha: Annotated[float, Field(gt=0, le=10_000)] = 16.0
    """The adapter's output is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropping an input of A, in training."""
    targets: Annotated[tuple[str, ...], FromList, Field(min_length=1)] = ("blocks.*",)
    """Which linears get an adapter: patterns over their names (blocks.0.attention.qkv), where * stands for anything."""
    base_dtype: Literal["fp32", "bf16"] = "fp32"
    """Of the base's matrices in memory; its embeddings, norms and biases stay fp32, and so do A and B."""

    @property
    def scale(self) -> float:
        """What the adapter's output is multiplied by."""
        return self.alpha / self.rank

    def matched(self, model: ModelConfig) -> list[str]:
        """The names of the linears that get an adapter, in the model's order."""
        return [name for name in linear_names(model) if any(fnmatchcase(name, target) for target in self.targets)]

    def num_parameters(self, model: ModelConfig) -> int:
        """Values that are trained."""
        return self.rank * sum(sum(linear_shape(name, model)) for name in self.matched(model))

    def weight_bytes(self, model: ModelConfig) -> int:
        """Bytes of the base and its adapters in memory."""
        halved = sum(2 * math.prod(linear_shape(name, model)) for name in linear_names(model))
        base = 4 * model.num_parameters() - (halved if self.base_dtype == "bf16" else 0)
        return base + 4 * self.num_parameters(model)

    def problems_with(self, model: ModelConfig) -> Iterator[Problem]:
        """What is wrong between these options and the model's."""
        forms = [f"blocks.*.{part}" for part in PARTS] + ([] if model.tie_embeddings else [HEAD])
        for index, target in enumerate(self.targets):
            if not any(fnmatchcase(name, target) for name in linear_names(model)):
                near = get_close_matches(target, [*forms, *PARTS], n=1, cutoff=0.4)
                hint = f"did you mean {near[0] if near[0] in forms else f'blocks.*.{near[0]}'}? " if near else ""
                tied = " (lm_head is tied to the embedding, and is no linear of its own)" if target == HEAD else ""
                yield Problem(("targets", index), f"matches no linear{tied}; {hint}there is: {', '.join(forms)}")
        matched = self.matched(model)
        smallest = min((min(linear_shape(name, model)) for name in matched), default=self.rank)
        if self.rank > smallest:
            yield Problem(("rank",), f"is more than the {smallest} rows or columns of a target; use {smallest} or less")
        if self.dropout and HEAD in matched:
            yield Problem(
                ("dropout",), "cannot go with the target lm_head, whose product is part of the loss; use dropout=0"
            )


def linear_names(model: ModelConfig) -> list[str]:
    """Every linear of a model, by its name."""
    names = [f"blocks.{layer}.{part}" for layer in range(model.num_layers) for part in PARTS]
    return names if model.tie_embeddings else [*names, HEAD]


def linear_shape(name: str, model: ModelConfig) -> tuple[int, int]:
    """(outputs, inputs) of a linear."""
    width, ffn = model.hidden_size, model.ffn_width
    shapes = {"qkv": (3 * width, width), "out": (width, width), "fc_in": (ffn, width), "fc_out": (width, ffn)}
    return shapes.get(name.rsplit(".", 1)[-1], (model.num_embeddings, width))
