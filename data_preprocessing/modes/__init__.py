"""Modes: how a document becomes tokens. One file a kind; what every mode offers stands here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelzoo.base_config import Config

if TYPE_CHECKING:
    import numpy as np

    from modelzoo.tokenizer import Tokenizer


class ModeConfig(Config):
    """A kind adds its options and `encode`."""

    def encode(self, tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each document (length,), the end-of-document id last."""
        raise NotImplementedError
