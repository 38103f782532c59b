"""What can be looked into: the content of a path, its splits, and a document of one."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from modelzoo.base_config import UserError
from modelzoo.data.schema import LedgerInfo
from modelzoo.tokenizer import Tokenizer

DAMAGED = (OSError, RuntimeError, KeyError, ValueError)
"""What h5py raises over a file with wrong bytes."""


@dataclass(frozen=True, eq=False)
class Document:
    """A document, or the part of it that was asked for."""

    split: str
    index: int
    file: str
    num_tokens: int
    """Of the whole document, its end-of-document id included."""
    first_token: int
    """Where in the document `ids` begin."""
    ids: np.ndarray
    """(length,)"""
    loss_mask: np.ndarray | None
    """(length,) bool, True where the id is learnt; None: all are."""


class Split(Protocol):
    """Documents in the order in which they are stored."""

    name: str
    num_files: int
    num_documents: int
    num_tokens: int
    num_bytes: int | None
    """UTF-8 bytes of their text, where the files tell."""

    def lengths(self) -> Iterator[np.ndarray]:
        """The tokens of each document, block by block (documents in the block,) int64."""

    def num_learnt(self) -> int | None:
        """Tokens that are learnt; None: all are. Reads every loss_mask."""

    def document(self, index: int, first_token: int = 0, max_tokens: int | None = None) -> Document:
        """The document of this index, 0 <= index < num_documents; of it, at most `max_tokens`."""

    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """All documents, some at a time: the first one's index, offsets (documents + 1,) from 0, ids (tokens,)."""


class Contents(NamedTuple):
    """What lies at a path."""

    path: Path
    what: str
    """dataset, shard, ModelZoo samples, ModelZoo corpus"""
    unit: str
    """What one entry of a split is: document, row."""
    mode: str | None
    tokenizer: Tokenizer | None
    tokenizer_facts: dict[str, Any]
    """sha256, vocab_size, end_of_document_id, as far as the files tell."""
    settings: dict[str, Any]
    ledger: LedgerInfo | None
    splits: dict[str, Split]
    notes: tuple[str, ...] = ()

    def split(self, name: str | None) -> Split:
        """The split of this name; `train`, or the only one, without a name. Raises UserError: there is none."""
        if name is None:
            return self.splits.get("train") or next(iter(self.splits.values()))
        if name not in self.splits:
            raise UserError(f"{self.path}: no split {name!r}; it has {', '.join(self.splits)}")
        return self.splits[name]
