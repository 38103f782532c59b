"""Plain language modelling: every token of the text is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from data_preprocessing.limits import DocumentLimit, cut, piece_bytes
from data_preprocessing.modes import EncodedBatch, ModeConfig, Refused
from data_preprocessing.readers import TOO_LONG, Document

if TYPE_CHECKING:
    from modelzoo.tokenizer import Tokenizer


class LmMode(ModeConfig):
    """The text, then the end-of-document id."""

    kind: Literal["lm"] = "lm"
    limit: DocumentLimit | None = None
    """What becomes of a document of more tokens; null: any length is written whole."""

    def encode(self, tokenizer: Tokenizer, documents: Sequence[Document]) -> EncodedBatch:
        texts = [document.text for document in documents]
        ids, offsets = tokenizer.encode_batch_flat(texts)
        lengths = np.diff(offsets) + 1
        end = np.uint32(tokenizer.end_of_document_id)
        too_long = np.flatnonzero(lengths > self.limit.max_tokens) if self.limit else np.empty(0, np.int64)
        if self.limit is None or not len(too_long):
            # all at once: a corpus of tiny documents has millions of them
            return EncodedBatch(np.insert(ids, offsets[1:], end), lengths)

        kept: dict[int, list[slice]] = {}
        refused: dict[int, Refused] = {}
        for index in too_long.tolist():
            if self.limit.policy == "reject":
                refused[index] = Refused(
                    TOO_LONG, f"{lengths[index]} tokens; mode.limit admits {self.limit.max_tokens}"
                )
                kept[index] = []
            else:
                part = ids[offsets[index] : offsets[index + 1]]
                kept[index] = cut(tokenizer, part, self.limit, self.limit.max_tokens - 1)
        pieces = np.ones(len(documents), dtype=np.int64)
        pieces[list(kept)] = [len(slices) for slices in kept.values()]
        starts, stops = np.repeat(offsets[:-1], pieces), np.repeat(offsets[1:], pieces)
        num_bytes = np.full(len(starts), -1, dtype=np.int64)
        first = np.cumsum(pieces) - pieces
        for index, slices in kept.items():
            rows = slice(first[index], first[index] + len(slices))
            starts[rows] = [offsets[index] + piece.start for piece in slices]
            stops[rows] = [offsets[index] + piece.stop for piece in slices]
            part = ids[offsets[index] : offsets[index + 1]]
            num_bytes[rows] = piece_bytes(tokenizer, part, slices, len(texts[index].encode()))
        # the pieces are in order and apart, so the ids that lie in none are those beyond as many stops as starts
        inside = np.cumsum(np.bincount(starts, minlength=len(ids) + 1) - np.bincount(stops, minlength=len(ids) + 1))
        stream = np.insert(ids[inside[:-1] > 0], np.cumsum(stops - starts), end)
        return EncodedBatch(stream, stops - starts + 1, pieces=pieces, num_bytes=num_bytes, refused=refused)
