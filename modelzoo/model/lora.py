"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685): the layer, where it goes, and its merge into the weights.

Shapes: I inputs, O outputs, R rank.
"""

import math
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modelzoo.model.gpt import GPT
from modelzoo.model.lora_config import LoraConfig
from modelzoo.model.lora_layer import LoraLinear

ADAPTERS = (".lora_a", ".lora_b")
"""How the names of adapters' parameters end."""


def add_lora(model: GPT, config: LoraConfig, dtype: torch.dtype = torch.float32) -> None:
    """Put an adapter beside each linear that the config names, and train nothing else. `dtype` is that of the matrices
    of all linears; the products need autocast where it is not fp32.

    The names of the base's parameters stay what they are. The adapters' values are left to `initial_adapters`.
    """
    model.requires_grad_(False)
    for name in config.matched(model.config):
        parent, _, leaf = name.rpartition(".")
        module = model.get_submodule(parent)
        base = getattr(module, leaf)
        setattr(module, leaf, LoraLinear(base, config.rank, config.scale, config.dropout))
    for linear in model.modules():
        if isinstance(linear, nn.Linear):
            linear.weight.data = linear.weight.data.to(dtype)


def initial_adapters(model: GPT, seed: int) -> dict[str, Tensor]:
    """A as PEFT draws it, uniform within ±1/√I, and B 0. A pure function of names, shapes and seed, fp32 on the CPU."""
    found = {}
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            found[name] = torch.zeros(parameter.shape)
            if name.endswith(ADAPTERS[0]):
                generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
                bound = 1 / math.sqrt(parameter.shape[1])
                found[name].uniform_(-bound, bound, generator=generator)
    return found


def is_adapter(name: str) -> bool:
    """Whether a parameter is an adapter's, by its name."""
    return name.endswith(ADAPTERS)


def store_adapters_only(model: nn.Module) -> None:
    """From now on `state_dict` holds the adapters, and not the base that others have already."""

    def keep(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for name in [name for name in state if not is_adapter(name)]:
            del state[name]

    model.register_state_dict_post_hook(keep)


def merged(name: str, weight: Tensor, adapters: Mapping[str, Tensor], scale: float) -> Tensor:
    """A parameter of the base with its adapter, if it has one, worked in: W + scale · B A, in fp32 or better."""
    module, _, kind = name.rpartition(".")
    if kind != "weight" or f"{module}.lora_a" not in adapters:
        return weight
    a, b = (adapters[f"{module}.{part}"] for part in ("lora_a", "lora_b"))
    wide = torch.promote_types(weight.dtype, torch.float32)
    return torch.addmm(weight.to(wide), b.to(wide), a.to(wide), alpha=scale)
