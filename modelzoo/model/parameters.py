"""The model's parameters by name, before there is a model: what patterns are checked against. No torch here."""

import re
from math import prod

from modelzoo.model.config import ModelConfig


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of `GPT(config)`, in its order. A tied head has none of its own."""
    width, ffn, rows = config.hidden_size, config.ffn_width, config.num_embeddings
    shapes: dict[str, tuple[int, ...]] = {"embedding.weight": (rows, width)}
    if config.position.num_parameters(config.max_seq_len, width):
        shapes["position_embedding.weight"] = (config.max_seq_len, width)
    for block in (f"blocks.{number}" for number in range(config.num_layers)):
        shapes |= _norm(f"{block}.norm_1", width)
        shapes |= _linear(f"{block}.attention.qkv", width, 3 * width, config.attention_bias)
        shapes |= _linear(f"{block}.attention.out", width, width, config.attention_bias)
        if not config.tied_norm:
            shapes |= _norm(f"{block}.norm_2", width)
        shapes |= _linear(f"{block}.mlp.fc_in", width, ffn, True)
        shapes |= _linear(f"{block}.mlp.fc_out", ffn, width, True)
    shapes |= _norm("final_norm", width)
    if not config.tie_embeddings:
        shapes |= _linear("lm_head", width, rows, config.lm_head_bias)
    return shapes


def parameter_sizes(config: ModelConfig) -> dict[str, int]:
    """Values in every parameter."""
    return {name: prod(shape) for name, shape in parameter_shapes(config).items()}


def depth_of(name: str, num_layers: int) -> int:
    """How far from the input a parameter acts: 0 embeddings, 1 … num_layers the blocks, num_layers + 1 the head."""
    if block := re.match(r"blocks\.(\d+)\.", name):
        return int(block[1]) + 1
    return 0 if name.split(".")[0] in ("embedding", "position_embedding") else num_layers + 1


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, inputs: int, outputs: int, bias: bool) -> dict[str, tuple[int, ...]]:
    weight: dict[str, tuple[int, ...]] = {f"{name}.weight": (outputs, inputs)}
    return weight | {f"{name}.bias": (outputs,)} if bias else weight
