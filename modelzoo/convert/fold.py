"""Multipliers of a parametrisation (muP) worked into the weights, for programs whose models have none.

Shapes: D hidden_size.
"""

import math
from collections.abc import Callable

from torch import Tensor

from modelzoo.model.config import ModelConfig
from modelzoo.model.scaling import scaling_of


def foldings(config: ModelConfig) -> dict[str, Callable[[Tensor], Tensor]]:
    """What becomes of a weight, by its name: those that change, and none in the standard parametrisation.

    The model then gives the same logits with every multiplier 1 and attention scaled by 1/sqrt(head_dim):

    - `embed` goes into the embeddings, of tokens and of positions;
    - `attention`, times sqrt(head_dim), into the rows of the query and their biases;
    - `logits` into the head's weight; its bias is not scaled. A tied head is the embedding, which already took
      `embed`: there logits / embed goes into the last LayerNorm.
    """
    scaling = scaling_of(config)
    query = scaling.attention * math.sqrt(config.head_dim)
    factors = {"embedding.weight": scaling.embed, "position_embedding.weight": scaling.embed}
    if config.tie_embeddings:
        head = {f"final_norm.{kind}": scaling.logits / scaling.embed for kind in ("weight", "bias")}
    else:
        head = {"lm_head.weight": scaling.logits}
    found = {name: _times(factor) for name, factor in (factors | head).items() if factor != 1}
    if not math.isclose(query, 1, rel_tol=1e-12):  # head_dim^-½ · head_dim^½ need not be 1 to the last digit
        for layer in range(config.num_layers):
            for kind in ("weight", "bias"):
                found[f"blocks.{layer}.attention.qkv.{kind}"] = _query_times(query, config)
    return found


def _times(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda weight: weight.float() * factor


def _query_times(factor: float, config: ModelConfig) -> Callable[[Tensor], Tensor]:
    def fold(weight: Tensor) -> Tensor:  # (H·3·K, D) or (H·3·K,)
        folded = weight.float().clone()
        folded.unflatten(0, (config.num_heads, 3, config.head_dim))[:, 0] *= factor
        return folded

    return fold
