"""One trained vector per position, added to the token embeddings."""

from typing import TYPE_CHECKING, Literal

from modelzoo.model.position.base import PositionConfig

if TYPE_CHECKING:
    from torch import nn


class LearnedPosition(PositionConfig):
    """Learned absolute positions (Radford et al. 2019)."""

    kind: Literal["learned"] = "learned"

    def num_parameters(self, max_seq_len: int, hidden_size: int) -> int:
        return max_seq_len * hidden_size

    def build_embedding(self, max_seq_len: int, hidden_size: int) -> "nn.Embedding | None":
        from torch import nn

        return nn.Embedding(max_seq_len, hidden_size)
