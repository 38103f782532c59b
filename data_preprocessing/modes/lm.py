"""Plain language modelling: every token of the text is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from data_preprocessing.modes import Encoded, ModeConfig
from data_preprocessing.readers import Document

if TYPE_CHECKING:
    from modelzoo.tokenizer import Tokenizer


class LmMode(ModeConfig):
    """The text, then the end-of-document id."""

    kind: Literal["lm"] = "lm"

    def encode(self, tokenizer: Tokenizer, documents: Sequence[Document]) -> list[Encoded]:
        end = np.array([tokenizer.end_of_document_id], dtype=np.uint32)
        texts = [document.text for document in documents]
        return [Encoded(np.concatenate((ids, end))) for ids in tokenizer.encode_batch(texts)]
