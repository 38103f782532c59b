"""What a position kind is: how a model knows the order of its tokens.

A kind is one file beside this one: its options and its maths. Importing it never loads torch, because its
options are read and checked before torch is; the maths imports torch where it computes.

Shapes: B batch, T positions, D hidden_size, H heads, K head_dim.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelzoo.base_config import Config, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn


class PositionConfig(Config):
    """A position kind. These methods are a kind without any signal; a kind overrides the ones it needs."""

    def problems_with(self, head_dim: int) -> Iterator[Problem]:
        """Yield what does not fit heads of this size. Paths are relative to the position section."""
        return iter(())

    def num_parameters(self, max_seq_len: int, hidden_size: int) -> int:
        """The number of trained values that the kind adds."""
        return 0

    def build_embedding(self, max_seq_len: int, hidden_size: int) -> "nn.Embedding | None":
        """A trained table (max_seq_len, D) that is added to the token embeddings, or None."""
        return None

    def table(self, position_ids: "Tensor", head_dim: int) -> "Tensor | None":
        """What `rotate` needs for these positions, (T,) or, where rows differ, (B, T): made once, used by all
        blocks."""
        return None

    def rotate(self, x: "Tensor", table: "Tensor | None") -> "Tensor":
        """Queries or keys (…, T, K) with their positions worked in: (…, T, K)."""
        return x

    def factors(self, position_ids: "Tensor", head_dim: int) -> "tuple[Tensor, ...] | None":
        """What `rotate_` needs for these positions (T,), each with the positions in dimension 0; or None."""
        return None

    def rotate_(self, x: "Tensor", factors: "tuple[Tensor, ...]") -> None:
        """As `rotate`, in place and without a gradient, for generation: queries and keys (T, H, 2, K)."""
