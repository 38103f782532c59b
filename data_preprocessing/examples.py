"""Examples for fine-tuning: a prompt and a completion, of which the completion is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_preprocessing.limits import CompletionLimit, ExampleLimit, Limit, PromptLimit
from data_preprocessing.modes import Encoded, EncodedBatch, Refused
from data_preprocessing.readers import TOO_LONG
from modelzoo.base_config import Config

if TYPE_CHECKING:
    from modelzoo.tokenizer import Tokenizer


class Kept(NamedTuple):
    """What stays of an example: prompt[start:stop] and completion[:end], in tokens."""

    start: int
    stop: int
    end: int


class ExampleLimits(Config):
    """What becomes of examples that are too long. First the prompt and the completion alone, then the whole."""

    prompt: PromptLimit | None = None
    """Limit of the prompt; null: none."""
    completion: CompletionLimit | None = None
    """Limit of the completion with its end-of-document id; null: none."""
    example: ExampleLimit | None = None
    """Limit of prompt, completion and end-of-document id together; null: none."""

    def fit(self, num_prompt: int, num_completion: int) -> Kept | Refused:
        """What stays of an example of so many tokens, the end-of-document id not among them."""
        start, stop, end = 0, num_prompt, num_completion
        if self.prompt and num_prompt > self.prompt.max_tokens:
            if self.prompt.policy == "reject":
                return _too_long("prompt", self.prompt, num_prompt)
            if self.prompt.policy == "truncate_left":
                start = num_prompt - self.prompt.max_tokens
            else:
                stop = self.prompt.max_tokens
        if self.completion and end + 1 > self.completion.max_tokens:
            if self.completion.policy == "reject":
                return _too_long("completion", self.completion, end + 1)
            end = self.completion.max_tokens - 1
        length = stop - start + end + 1
        if self.example and length > self.example.max_tokens:
            excess = length - self.example.max_tokens
            if self.example.policy == "truncate_left" and excess <= stop - start:
                start += excess
            elif self.example.policy == "truncate_right" and excess < end:
                end -= excess
            else:
                return _too_long("example", self.example, length)
        return Kept(start, stop, end)


def _too_long(name: str, limit: Limit, length: int) -> Refused:
    return Refused(TOO_LONG, f"{name} of {length} tokens; mode.limits.{name} admits {limit.max_tokens}")


class Example(NamedTuple):
    """A prompt and its completion."""

    prompt: tuple[tuple[str, bool], ...]
    """Runs of text, each with whether it is the document's; else it is a template's."""
    completion: str
    num_bytes: int
    """UTF-8 bytes of the document."""


def encode_examples(tokenizer: Tokenizer, examples: Sequence[Example | Refused], limits: ExampleLimits) -> EncodedBatch:
    """The ids of prompt, completion and end of document, one piece an example; the loss is that of the last two.

    The end-of-document id is not learnt where the end of the completion was cut off: the text does not end there.
    """
    end_id = np.array([tokenizer.end_of_document_id], dtype=np.uint32)
    taken = [example for example in examples if not isinstance(example, Refused)]
    texts = [text for e in taken for text in ("".join(run for run, _ in e.prompt), e.completion)]
    ids = iter(tokenizer.encode_batch(texts))
    documents: list[list[Encoded] | Refused] = []
    for example in examples:
        if isinstance(example, Refused):
            documents.append(example)
            continue
        prompt, completion = next(ids), next(ids)
        kept = limits.fit(len(prompt), len(completion))
        if isinstance(kept, Refused):
            documents.append(kept)
            continue
        parts = (prompt[kept.start : kept.stop], completion[: kept.end], end_id)
        stream = np.concatenate(parts)
        loss_mask = np.arange(len(stream)) >= len(parts[0])
        loss_mask[-1] = kept.end == len(completion)
        num_bytes = None
        if kept != Kept(0, len(prompt), len(completion)):
            num_bytes = example.num_bytes - _bytes_lost(tokenizer, example, prompt, completion, kept)
        documents.append([Encoded(stream, loss_mask, num_bytes)])
    return EncodedBatch.of(documents)


def _bytes_lost(tokenizer: Tokenizer, example: Example, prompt: np.ndarray, completion: np.ndarray, kept: Kept) -> int:
    """UTF-8 bytes of the document that the cut tokens stood for; those of a template are not the document's.

    Under a normalizer of the tokenizer's (NFC) the ids stand for other bytes than the text's: then about so many.
    """
    start = len(tokenizer.decode_bytes(prompt[: kept.start]))
    stop = start + len(tokenizer.decode_bytes(prompt[kept.start : kept.stop])) if kept.stop < len(prompt) else None
    lost = position = 0
    for run, is_document in example.prompt:
        begin, position = position, position + len(run.encode())
        if is_document:
            upto = position if stop is None else min(stop, position)
            lost += position - begin - max(0, upto - max(start, begin))
    total = len(example.completion.encode())
    return lost + min(total, len(tokenizer.decode_bytes(completion[kept.end :])))
