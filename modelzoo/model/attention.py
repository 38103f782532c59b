"""Causal self-attention.

Shapes: B batch, T positions, D hidden_size, H heads, K head_dim.
"""

from torch import Tensor, nn
from torch.nn import functional as F

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

    def forward(self, x: Tensor, position: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """`mask` (B, 1, T, T), True where a query may look, takes the causal mask's place."""
        return self.attend(self.qkv(x), position, mask)

    def attend(self, qkv: Tensor, position: Tensor | None, mask: Tensor | None) -> Tensor:
        """From queries, keys and values (B, T, 3 D) on."""
        heads = qkv.unflatten(-1, (-1, 3, self.head_dim))  # (B, T, H, 3, K)
        q, k, v = heads.transpose(1, 2).unbind(-2)  # (B, H, T, K) each
        q, k = self.rotate(q, position), self.rotate(k, position)
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.dropout.p if self.training else 0.0,
            is_causal=mask is None,
            scale=self.scale,
        )
        return self.dropout(self.out(attended.transpose(1, 2).flatten(2)))  # (B, T, D)


def within_segments(segment_ids: Tensor) -> Tensor:
    """(B, 1, T, T), True where a token may look: at itself and what came before it in its own segment."""
    same = segment_ids.unsqueeze(1).unsqueeze(3) == segment_ids.unsqueeze(1).unsqueeze(2)
    return same.tril()
