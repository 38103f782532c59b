"""Prompts with their completions: the model reads both and learns the completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from data_preprocessing.modes import Encoded, EncodedBatch, ModeConfig
from data_preprocessing.readers import Document

if TYPE_CHECKING:
    from modelzoo.tokenizer import Tokenizer


class PromptCompletionMode(ModeConfig):
    """The prompt, the completion, then the end-of-document id; the loss is that of the last two.

    The two are tokenized apart, so that no token spans the boundary and the mask is exact; a prompt's ids are
    then also those that generation starts from. Nothing is put between them: a blank or a line break that
    belongs there stands in one of the two.
    """

    kind: Literal["prompt_completion"] = "prompt_completion"
    has_loss_mask: ClassVar[bool] = True
    part_names: ClassVar[tuple[str, ...]] = ("prompt", "completion")

    def encode(self, tokenizer: Tokenizer, documents: Sequence[Document]) -> EncodedBatch:
        end = np.array([tokenizer.end_of_document_id], dtype=np.uint32)
        parts = tokenizer.encode_batch([part for document in documents for part in document.parts])
        encoded: list[list[Encoded]] = []
        for prompt, completion in zip(parts[::2], parts[1::2], strict=True):
            ids = np.concatenate((prompt, completion, end))
            encoded.append([Encoded(ids, loss_mask=np.arange(len(ids)) >= len(prompt))])
        return EncodedBatch.of(encoded)
