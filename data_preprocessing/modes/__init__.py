"""Modes: how a document becomes tokens. One file a kind; what every mode offers stands here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from data_preprocessing.readers import Document
from modelzoo.base_config import Config

if TYPE_CHECKING:
    import numpy as np

    from modelzoo.tokenizer import Tokenizer


class Encoded(NamedTuple):
    """One document as it is written."""

    ids: np.ndarray
    """(length,) uint32, the end-of-document id last and nowhere else."""
    loss_mask: np.ndarray | None = None
    """(length,) bool, True where the id is learnt; None in a mode without one, where all are."""


class ModeConfig(Config):
    """A kind adds its options and `encode`, and declares what departs from these two."""

    has_loss_mask: ClassVar[bool] = False
    """Every document gets a loss_mask."""
    part_names: ClassVar[tuple[str, ...]] = ()
    """What the parts of a document are, in order; such a mode takes documents of so many parts only. Empty:
    any number, joined."""

    def encode(self, tokenizer: Tokenizer, documents: Sequence[Document]) -> list[Encoded]:
        """The ids of each document, in order, with their loss_mask where the mode has one."""
        raise NotImplementedError
