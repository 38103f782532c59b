"""The loss of whole documents, each read alone, long ones in overlapping windows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from modelzoo.data.dataset import TokenDataset
from modelzoo.evaluate.scoring import Scorer
from modelzoo.evaluate.totals import DocumentTotals, TextSizes
from modelzoo.evaluate.windows import Row, rows_of
from modelzoo.tokenizer import Tokenizer

BATCHES_AT_ONCE = 64
"""Windows of so many batches are sorted by length together: documents of like length share a batch."""
CHARACTERS_AT_ONCE = 2**20
"""Text that is tokenised together."""


class Tokens(NamedTuple):
    """A document."""

    ids: np.ndarray
    """(n,) integers, without an end-of-document."""
    num_bytes: int
    """Of its text in UTF-8."""
    num_characters: int
    """Unicode code points."""
    place: str = ""
    """Where it was found, for people."""


def tokenize(texts: Iterable[tuple[str, str]], tokenizer: Tokenizer) -> Iterator[Tokens]:
    """(place, text) as documents.

    Raises:
        UserError: a text holds an unpaired surrogate.
    """
    group: list[tuple[str, str]] = []
    size = 0
    for item in texts:
        group.append(item)
        size += len(item[1])
        if size >= CHARACTERS_AT_ONCE:
            yield from _tokenize(group, tokenizer)
            group, size = [], 0
    yield from _tokenize(group, tokenizer)


def _tokenize(group: list[tuple[str, str]], tokenizer: Tokenizer) -> Iterator[Tokens]:
    encoded = tokenizer.encode_batch([text for _, text in group]) if group else []
    for (place, text), ids in zip(group, encoded, strict=True):
        yield Tokens(ids, len(text.encode()), len(text), place)


def documents_of(dataset: TokenDataset, sizes: TextSizes) -> Iterator[Tokens]:
    """The documents of a `TokenDataset`."""
    for index in range(dataset.num_documents):
        ids = dataset.document(index)
        yield Tokens(ids, *sizes.count(ids))


@dataclass
class _Open:
    """A document some of whose windows may not have been scored yet."""

    index: int
    document: Tokens
    loss_sum: float = 0.0
    end_loss: float = 0.0

    def totals(self) -> DocumentTotals:
        _, num_bytes, num_characters, place = self.document
        num_tokens = len(self.document.ids) + 1
        return DocumentTotals(self.index, place, num_tokens, num_bytes, num_characters, self.loss_sum, self.end_loss)


def score_documents(
    scorer: Scorer,
    documents: Iterable[Tokens],
    end_of_document_id: int,
    seq_len: int,
    stride: int,
    on_rows: Callable[[Sequence[Row]], None] = lambda rows: None,
) -> Iterator[DocumentTotals]:
    """The totals of each document, in order. `on_rows` hears of the windows that have been scored.

    Memory is bounded by the longest document and by BATCHES_AT_ONCE batches.
    """
    waiting: list[tuple[Row, _Open]] = []
    unfinished: list[_Open] = []

    def score_waiting() -> None:
        scores = scorer.score([row for row, _ in waiting], on_rows)
        for (_, owner), score in zip(waiting, scores, strict=True):
            owner.loss_sum -= float(score.log_likelihoods.sum(dtype=np.float64))
            owner.end_loss = -float(score.log_likelihoods[-1])  # the last window's is the closing end's
        waiting.clear()

    for index, document in enumerate(documents):
        unfinished.append(_Open(index, document))
        for row in rows_of(document.ids, end_of_document_id, seq_len, stride):
            if len(waiting) >= BATCHES_AT_ONCE * scorer.batch_size:
                score_waiting()
                *finished, current = unfinished
                yield from (owner.totals() for owner in finished)
                unfinished = [current]
            waiting.append((row, unfinished[-1]))
    score_waiting()
    yield from (owner.totals() for owner in unfinished)
