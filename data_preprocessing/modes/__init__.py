"""Modes: how documents become tokens. One file a kind; what every mode offers stands here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from data_preprocessing.readers import Document
from modelzoo.base_config import Config

if TYPE_CHECKING:
    from modelzoo.tokenizer import Tokenizer


class Refused(NamedTuple):
    """A document that the mode does not take: `reason` is one of few, for counting; `detail` tells this case."""

    reason: str
    detail: str


class Encoded(NamedTuple):
    """What is written for one document, or for one piece of it where the mode splits it."""

    ids: np.ndarray
    """(length,) uint32, the end-of-document id last and nowhere else."""
    loss_mask: np.ndarray | None = None
    """(length,) bool, True where the id is learnt; None in a mode without one, where all are."""
    num_bytes: int | None = None
    """UTF-8 bytes of the document's text that the ids stand for; None: all of it. Less where it was truncated."""


class EncodedBatch(NamedTuple):
    """Several documents, their ids one after the other. A piece is what is written as a document."""

    ids: np.ndarray
    """(num_tokens,) uint32"""
    lengths: np.ndarray
    """(num_pieces,) int64: ids of each piece, its end-of-document id included."""
    loss_mask: np.ndarray | None = None
    """(num_tokens,) bool, in a mode with one."""
    pieces: np.ndarray | None = None
    """(num_documents,) int64: pieces of each document, 0 for a refused one; None: one each."""
    num_bytes: np.ndarray | None = None
    """(num_pieces,) int64: UTF-8 bytes of the text in each piece, -1 for all of its document; None: all -1."""
    refused: dict[int, Refused] = {}  # noqa: RUF012 (a NamedTuple's default, never written to)
    """By the document's index in the batch."""

    @classmethod
    def of(cls, documents: Sequence[Sequence[Encoded] | Refused]) -> EncodedBatch:
        """Collect the pieces of each document. Modes whose documents are short examples need no faster way."""
        pieces = [piece for document in documents if not isinstance(document, Refused) for piece in document]
        masks = [piece.loss_mask for piece in pieces if piece.loss_mask is not None]
        assert len(masks) in (0, len(pieces)), "only some of the pieces have a loss_mask"
        for mask, piece in zip(masks, pieces, strict=False):
            assert (mask.dtype, mask.shape) == (np.bool_, piece.ids.shape), (mask, piece.ids)
        return cls(
            ids=np.concatenate([np.empty(0, np.uint32), *(piece.ids for piece in pieces)]),
            lengths=np.array([len(piece.ids) for piece in pieces], dtype=np.int64),
            loss_mask=np.concatenate(masks) if masks else None,
            pieces=np.array([0 if isinstance(d, Refused) else len(d) for d in documents], dtype=np.int64),
            num_bytes=np.array([-1 if p.num_bytes is None else p.num_bytes for p in pieces], dtype=np.int64),
            refused={index: d for index, d in enumerate(documents) if isinstance(d, Refused)},
        )


class ModeConfig(Config):
    """A kind adds its options and `encode`, and declares what departs from these three."""

    has_loss_mask: ClassVar[bool] = False
    """Every document gets a loss_mask."""
    needs_roles: ClassVar[bool] = False
    """Takes only documents whose reader says who speaks in each part."""

    @property
    def part_names(self) -> tuple[str, ...]:
        """What the parts of a document are, in order; such a mode takes documents of so many parts only. Empty:
        any number."""
        return ()

    def prepare(self, tokenizer: Tokenizer) -> None:
        """Check, before anything is read, that the tokenizer has what the mode needs. Raises UserError."""

    def encode(self, tokenizer: Tokenizer, documents: Sequence[Document]) -> EncodedBatch:
        """The ids of each document, in order, with their loss_mask where the mode has one.

        A pure function of each document on its own: the documents that stand beside it change nothing.
        """
        raise NotImplementedError
