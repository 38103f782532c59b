"""What every dataset offers: numbered rows of T tokens. B rows in a batch, T = seq_len positions. No torch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from modelzoo.base_config import UserError

Batch = dict[str, np.ndarray]
"""`input_ids` and `labels` (B, T) int64, the labels already shifted; `loss_mask` (B, T) bool. Where documents
are isolated also `position_ids` (B, T) int32, which start anew in every document, and `segment_ids` (B, T)
int32, which number the row's documents from 1; 0 is padding."""


class Fingerprint(Protocol):
    """What the data needs to know of a tokenizer."""

    @property
    def path(self) -> Path: ...
    @property
    def sha256(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def end_of_document_id(self) -> int: ...


class RowDataset(ABC):
    """Rows by their number, in any order, in any process. Also a map-style dataset for torch's DataLoader."""

    path: Path
    """The directory."""
    split: str | None
    """The split of it; None where the format has none."""
    seq_len: int
    num_rows: int
    num_tokens: int
    """Targets in all rows, before any loss mask."""
    num_documents: int | None = None
    """None where the files do not tell."""
    vocab_size: int
    """No id is as large as this."""
    vocab_size_is_stated: bool = True
    """False where the files do not tell: it is the model's then."""
    end_of_document_id: int | None
    tokenizer_sha256: str | None
    """None where the files do not say which tokenizer wrote them."""
    fingerprint: str
    """Known content: a run goes on only with data of the same fingerprint."""
    bytes_per_token: float | None = None
    """UTF-8 bytes of text for each token; None where not all text is in the loss, or its size is not known."""
    notes: tuple[str, ...] = ()
    """What a user should be told once before training on it."""

    @abstractmethod
    def rows(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The rows of these numbers.

        Raises:
            IndexError: a number outside [0, num_rows).
            UserError: the files hold what they must not.
        """

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> Batch:
        """One row, its arrays (T,)."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        """Several rows with one gather; torch's DataLoader asks for a batch this way."""
        batch = self.rows(indices)
        return [{name: array[row] for name, array in batch.items()} for row in range(len(indices))]

    def evaluation_batches(self, batch_size: int, max_batches: int | None = None) -> Iterator[Batch]:
        """All rows once, in order; the last batch is smaller. At most `max_batches`."""
        for start in range(0, self.num_rows, batch_size)[:max_batches]:
            yield self.rows(range(start, min(start + batch_size, self.num_rows)))

    def check_against(self, tokenizer: Fingerprint | None, vocab_size: int) -> None:
        """Refuse data of another tokenizer, or ids that the model's `vocab_size` rows do not cover.

        Raises:
            UserError: names both sides.
        """
        if tokenizer is not None and self.tokenizer_sha256 is None:
            self._check_trusted(tokenizer)
        elif tokenizer is not None and tokenizer.sha256 != self.tokenizer_sha256:
            raise UserError(
                f"{self.path} was written with a tokenizer of sha256 {str(self.tokenizer_sha256)[:12]}…, but "
                f"{tokenizer.path} has {tokenizer.sha256[:12]}…; preprocess again with it, "
                f"or use the one in {self.path}"
            )
        if self.vocab_size > vocab_size:
            raise UserError(
                f"{self.path} holds ids up to {self.vocab_size - 1}, but model.vocab_size={vocab_size}; "
                f"use at least {self.vocab_size}"
            )

    def _check_trusted(self, tokenizer: Fingerprint) -> None:
        """What can be said of a tokenizer where the files hold no hash of theirs."""
        too_large = self.vocab_size_is_stated and self.vocab_size > tokenizer.vocab_size
        if too_large or self.end_of_document_id not in (None, tokenizer.end_of_document_id):
            raise UserError(
                f"{self.path} has {self.vocab_size} ids and the end-of-document id {self.end_of_document_id}, but "
                f"{tokenizer.path} has {tokenizer.vocab_size} and {tokenizer.end_of_document_id}; name the tokenizer "
                "that the data was written with"
            )

    def _row_numbers(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The indices as (B,) int64, each checked."""
        numbers = np.asarray(indices, dtype=np.int64)
        if numbers.size and numbers.view(np.uint64).max() >= self.num_rows:  # unsigned, a negative one is large too
            raise IndexError(f"row {numbers.min()}…{numbers.max()} of {self.num_rows} in {self.path}")
        return numbers

    def _check_ids(self, tokens: np.ndarray) -> None:
        """Refuse an id that the vocabulary does not have: the embedding would crash, or read elsewhere."""
        largest, smallest = 0, 0
        if tokens.size:
            largest = int(tokens.max())
            smallest = int(tokens.min()) if tokens.dtype.kind == "i" else 0
        if largest >= self.vocab_size or smallest < 0:
            bad = largest if largest >= self.vocab_size else smallest
            raise UserError(
                f"{self.path}: holds the id {bad}, but its tokenizer has {self.vocab_size}: a file is damaged, or "
                "from another tokenizer; write the dataset again"
            )


def mask_of_filled(filled: np.ndarray, seq_len: int) -> np.ndarray:
    """(B, T), True in the first filled[i] places of row i."""
    mask = np.ones((len(filled), seq_len), dtype=np.bool_)
    for row in (filled < seq_len).nonzero()[0]:  # few, or none: comparing them all would take as long as the gather
        mask[row, filled[row] :] = False
    return mask
