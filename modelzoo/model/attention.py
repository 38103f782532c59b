"""Causal self-attention.

Shapes: B batch, T positions of the input, S with those in the cache, D hidden_size, H heads, K head_dim.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelzoo.model.cache import LayerCache
from modelzoo.model.config import ModelConfig
from modelzoo.model.scaling import scaling_of


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) over the past, (B, T, D) to (B, T, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden_size
        # Rows head by head, and in each q, k, v (H, 3, K): any split of the heads is a split of the rows
        self.qkv = nn.Linear(width, 3 * width, bias=config.attention_bias)
        self.out = nn.Linear(width, width, bias=config.attention_bias)
        self.head_dim = config.head_dim
        self.rotate = config.position.rotate
        self.scale = scaling_of(config).attention
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, position: Tensor | None, cache: LayerCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """`mask` (B, 1, T, T), True where a query may look, takes the causal mask's place."""
        heads = self.qkv(x).unflatten(-1, (-1, 3, self.head_dim))  # (B, T, H, 3, K)
        q, k, v = heads.transpose(1, 2).unbind(-2)  # (B, H, T, K) each
        q, k = self.rotate(q, position), self.rotate(k, position)
        if cache is not None:
            assert mask is None, "a cache holds one document a row"
            k, v = cache.append(k, v)  # (B, H, S, K)
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=_mask_after_cache(q, k) if mask is None else mask,
            dropout_p=self.dropout.p if self.training else 0.0,
            is_causal=mask is None and q.shape[2] == k.shape[2],
            scale=self.scale,
        )
        return self.dropout(self.out(attended.transpose(1, 2).flatten(2)))  # (B, T, D)


def _mask_after_cache(q: Tensor, k: Tensor) -> Tensor | None:
    """(T, S), True where a query may look: needed only by several queries behind a cache that is not empty.

    `is_causal` aligns queries with the first keys, so it serves an empty cache only. One query sees every
    key.
    """
    num_queries, num_keys = q.shape[2], k.shape[2]
    if num_queries in (1, num_keys):
        return None
    mask = torch.ones(num_queries, num_keys, dtype=torch.bool, device=q.device)
    return mask.tril(num_keys - num_queries)


def within_segments(segment_ids: Tensor) -> Tensor:
    """(B, 1, T, T), True where a token may look: at itself and what came before it in its own segment."""
    same = segment_ids.unsqueeze(1).unsqueeze(3) == segment_ids.unsqueeze(1).unsqueeze(2)
    return same.tril()
