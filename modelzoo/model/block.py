"""One transformer block, for every family.

Shapes: B batch, T positions, D hidden_size.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from modelzoo.model.attention import Attention
from modelzoo.model.config import ModelConfig
from modelzoo.model.mlp import MLP


class Block(nn.Module):
    """Attention and MLP around the residual stream, in sequence or in parallel."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm_1 = LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.attention = Attention(config)
        self.norm_2 = None if config.tied_norm else LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = MLP(config)
        self.parallel_residual = config.parallel_residual
        # Between ranks that share the heads and the MLP, where there are several: `reduce` sums what they give,
        # `share` the gradients of what they take
        self.reduce = nn.Identity()
        self.share = nn.Identity()

    def forward(self, x: Tensor, position: Tensor | None, mask: Tensor | None = None) -> Tensor:
        normed = self.share(self.norm_1(x))
        attended = self.attention(normed, position, mask)
        if self.parallel_residual:  # x + attention(n1(x)) + mlp(n2(x)); tied_norm: n2 is n1
            return x + self.reduce(attended + self.mlp(normed if self.norm_2 is None else self.share(self.norm_2(x))))
        x = x + self.reduce(attended)
        assert self.norm_2 is not None  # ModelConfig refuses tied_norm here
        return x + self.reduce(self.mlp(self.share(self.norm_2(x))))


class LayerNorm(nn.LayerNorm):
    """In the precision of the residual stream, also where ranks gathered the weights in another."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
