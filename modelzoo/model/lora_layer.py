"""A linear with a low-rank adapter beside it.

Shapes: I inputs, O outputs, R rank.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LoraLinear(nn.Linear):
    """W x + bias + scale · B A dropout(x), (…, I) to (…, O): weight (O, I), lora_a (R, I), lora_b (O, R)."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, dropout: float) -> None:
        """Takes the place of `base`, whose parameters it has."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = base.in_features, base.out_features
        self.weight, self.bias = base.weight, base.bias
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features, dtype=torch.float32))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank, dtype=torch.float32))
        self.lora_dropout = nn.Dropout(dropout)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        low = F.linear(self.lora_dropout(x), self.lora_a) * self.scale  # (…, R)
        return super().forward(x) + F.linear(low, self.lora_b)


def effective_weight(linear: nn.Linear | nn.Embedding) -> Tensor:
    """The weight (O, I) that a linear multiplies by, its adapter worked in; for who computes the product himself.

    Gradients of the whole weight are then made on the way to the adapter's.
    """
    if not isinstance(linear, LoraLinear):
        return linear.weight
    with torch.autocast(linear.weight.device.type, enabled=False):
        return torch.addmm(linear.weight.float(), linear.lora_b.float(), linear.lora_a.float(), alpha=linear.scale)
