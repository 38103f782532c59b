"""Prompts with their completions: the model reads both and learns the completion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from data_preprocessing.examples import Example, ExampleLimits, encode_examples
from data_preprocessing.modes import EncodedBatch, ModeConfig, Refused
from data_preprocessing.readers import EMPTY, Document
from modelzoo.base_config import Problem

if TYPE_CHECKING:
    from modelzoo.tokenizer import Tokenizer


class PromptCompletionMode(ModeConfig):
    """The prompt, the completion, then the end-of-document id; the loss is that of the last two.

    The two are tokenized apart, so that no token spans the boundary and the mask is exact; a prompt's ids are
    then also those that generation starts from. Nothing is put between them: a blank or a line break that
    belongs there stands in one of the two.
    """

    kind: Literal["prompt_completion"] = "prompt_completion"
    separator: Annotated[str, Field(min_length=1)] | None = None
    """null: the reader gives the two as parts. Else it gives both as one text, which is split at the first
    occurrence of this string; a text without it is refused."""
    keep_separator: bool = False
    """The separator is written, at the end of the prompt: all prompts then end alike, and say where to go on."""
    limits: ExampleLimits = ExampleLimits()
    """What becomes of examples that are too long."""

    has_loss_mask: ClassVar[bool] = True

    @property
    def part_names(self) -> tuple[str, ...]:
        return ("prompt", "completion") if self.separator is None else ("prompt, separator and completion",)

    def problems(self) -> Iterator[Problem]:
        if self.keep_separator and self.separator is None:
            yield Problem(("keep_separator",), "needs a separator, which is null; name one, or set this to false")

    def encode(self, tokenizer: Tokenizer, documents: Sequence[Document]) -> EncodedBatch:
        return encode_examples(tokenizer, [self._example(document) for document in documents], self.limits)

    def _example(self, document: Document) -> Example | Refused:
        if self.separator is None:
            prompt, completion = document.parts
        else:
            prompt, found, completion = document.text.partition(self.separator)
            if not found and not prompt.strip():  # what stands after the last separator of a file
                return Refused(EMPTY, "blank")
            if not found:
                return Refused("no separator", f"no {self.separator!r} in it; expected it to end the prompt")
            if self.keep_separator:
                prompt += self.separator
        return Example(((prompt, True),), completion, sum(len(part.encode()) for part in document.parts))
