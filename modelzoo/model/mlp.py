"""The feed-forward branch of a block.

Shapes: B batch, T positions, D hidden_size, F ffn_width.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from modelzoo.model.config import ModelConfig


class MLP(nn.Module):
    """fc_out(gelu(fc_in(x))), (B, T, D) to (B, T, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc_in = nn.Linear(config.hidden_size, config.ffn_width)
        self.fc_out = nn.Linear(config.ffn_width, config.hidden_size)
        self.approximate = "tanh" if config.activation == "gelu_tanh" else "none"
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.narrow(self.fc_in(x))

    def narrow(self, x: Tensor) -> Tensor:
        """From what the activation gets, (B, T, F), on."""
        x = F.gelu(x, approximate=self.approximate)
        return self.dropout(self.fc_out(x))
