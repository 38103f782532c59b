"""What the tests of the modes share."""

import numpy as np

from data_preprocessing.modes import EncodedBatch
from data_preprocessing.readers import Document, Place
from modelzoo.tokenizer import Tokenizer, special_token
from tests.samples import TRICKY, small_tokenizer

TEXTS = [
    *(text for text in TRICKY if text),
    "the cat and the dog",
    "日本語のテキスト" * 9,
    "the bird saw the other cat. " * 30,
    "😶‍🌫️" * 20,
    "a",
]


def documents(*texts: str | tuple[str, ...], roles: tuple[str, ...] = ()) -> list[Document]:
    """Documents of one part each, or of the parts of a tuple."""
    parts = [text if isinstance(text, tuple) else (text,) for text in texts]
    return [Document(part, Place("f", "line", n), roles) for n, part in enumerate(parts, 1)]


def tokenizer_with(*tokens: str) -> Tokenizer:
    """The small tokenizer with more special tokens, at the ids after its own."""
    backend = small_tokenizer().backend
    backend.add_special_tokens([special_token(token) for token in tokens])
    return Tokenizer(backend, "small")


def pieces_of(batch: EncodedBatch) -> list[list[list[int]]]:
    """The ids of every piece of every document. Checks what holds for every batch."""
    count = len(batch.lengths) if batch.pieces is None else len(batch.pieces)
    per_document = np.ones(count, np.int64) if batch.pieces is None else batch.pieces
    assert batch.ids.dtype == np.uint32
    assert batch.lengths.dtype == np.int64
    assert (batch.lengths > 0).all()
    assert batch.lengths.sum() == len(batch.ids)
    assert per_document.sum() == len(batch.lengths)
    assert batch.num_bytes is None or len(batch.num_bytes) == len(batch.lengths)
    if batch.loss_mask is not None:
        assert (batch.loss_mask.dtype, batch.loss_mask.shape) == (np.bool_, batch.ids.shape)
    assert {i for i, count in enumerate(per_document) if not count} == set(batch.refused)
    pieces = iter(np.split(batch.ids, np.cumsum(batch.lengths)[:-1]))
    found = [[next(pieces).tolist() for _ in range(count)] for count in per_document]
    for piece in (piece for document in found for piece in document):
        assert piece[-1] == 0  # the end-of-document id of the small tokenizer
        assert 0 not in piece[:-1]
    return found


def one(batch: EncodedBatch) -> list[int]:
    """The ids of a batch's single piece."""
    ((piece,),) = pieces_of(batch)
    return piece


def learnt(tokenizer: Tokenizer, batch: EncodedBatch) -> str:
    """The text of what is learnt in a batch of one piece."""
    one(batch)
    return tokenizer.decode(batch.ids[batch.loss_mask])


def bytes_of(batch: EncodedBatch, texts: list[str]) -> list[int]:
    """The UTF-8 bytes that each document's pieces claim, -1 resolved."""
    pieces = np.ones(len(texts), np.int64) if batch.pieces is None else batch.pieces
    claims = np.full(len(batch.lengths), -1) if batch.num_bytes is None else batch.num_bytes
    totals = np.repeat([len(text.encode()) for text in texts], pieces)
    resolved = np.where(claims < 0, totals, claims)
    assert (resolved <= totals).all()
    return [int(part.sum()) for part in np.split(resolved, np.cumsum(pieces)[:-1])]
