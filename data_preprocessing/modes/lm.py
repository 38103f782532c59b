"""Plain language modelling: every token of the text is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from data_preprocessing.modes import EncodedBatch, ModeConfig
from data_preprocessing.readers import Document

if TYPE_CHECKING:
    from modelzoo.tokenizer import Tokenizer


class LmMode(ModeConfig):
    """The text, then the end-of-document id."""

    kind: Literal["lm"] = "lm"

    def encode(self, tokenizer: Tokenizer, documents: Sequence[Document]) -> EncodedBatch:
        ids, offsets = tokenizer.encode_batch_flat([document.text for document in documents])
        # all at once: a corpus of tiny documents has millions of them
        with_ends = np.insert(ids, offsets[1:], np.uint32(tokenizer.end_of_document_id))
        return EncodedBatch(with_ends, np.diff(offsets) + 1)
