"""Instructions, some with an input, and the output to learn: records in the form of Alpaca."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from data_preprocessing.examples import Example, ExampleLimits, encode_examples
from data_preprocessing.modes import EncodedBatch, ModeConfig
from data_preprocessing.readers import Document
from modelzoo.base_config import Problem

if TYPE_CHECKING:
    from modelzoo.tokenizer import Tokenizer

FIELD = re.compile(r"\{(instruction|input)\}")


class InstructionMode(ModeConfig):
    """The prompt that a template makes of instruction and input, the output, then the end-of-document id; the
    loss is that of the last two.

    The templates are those of Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca, train.py), and as there
    nothing is put between prompt and output. Prompt and output are tokenized apart. Text of the data is never
    taken for a template: `{input}` in an instruction stays as it is.
    """

    kind: Literal["instruction"] = "instruction"
    prompt_with_input: str = (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    )
    """The prompt of a record with an input: `{instruction}` and `{input}` stand for the two, other braces for
    themselves."""
    prompt_without_input: str = (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Response:"
    )
    """The prompt of a record whose input is empty; `{instruction}` stands for the instruction."""
    limits: ExampleLimits = ExampleLimits()
    """What becomes of examples that are too long; the completion is the output, the template is part of the
    prompt."""

    has_loss_mask: ClassVar[bool] = True

    @property
    def part_names(self) -> tuple[str, ...]:
        return ("instruction", "input", "output")

    def problems(self) -> Iterator[Problem]:
        expected = {"prompt_with_input": ["input", "instruction"], "prompt_without_input": ["instruction"]}
        for name, fields in expected.items():
            found = sorted(FIELD.findall(getattr(self, name)))
            if found != fields:
                wanted = " and ".join(f"{{{field}}}" for field in reversed(fields))
                yield Problem((name,), f"must hold {wanted} once and no other field; it has {found}")

    def encode(self, tokenizer: Tokenizer, documents: Sequence[Document]) -> EncodedBatch:
        return encode_examples(tokenizer, [self._example(document) for document in documents], self.limits)

    def _example(self, document: Document) -> Example:
        instruction, input_, output = document.parts
        template = self.prompt_with_input if input_ else self.prompt_without_input
        values = {"instruction": instruction, "input": input_}
        runs = FIELD.split(template)  # text, field, text, field, …, text
        prompt = tuple((values[run], True) if index % 2 else (run, False) for index, run in enumerate(runs))
        return Example(prompt, output, sum(len(part.encode()) for part in document.parts))
