import pytest
from pydantic import ValidationError

from data_preprocessing.modes.instruction import InstructionMode
from tests.data_preprocessing.modes import documents, learnt, one
from tests.samples import small_tokenizer

WITH = """Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

### Instruction:
Name it.

### Input:
a cat

### Response:"""
WITHOUT = """Below is an instruction that describes a task. \
Write a response that appropriately completes the request.

### Instruction:
Say hi.

### Response:"""


def mode(**options) -> InstructionMode:
    return InstructionMode.model_validate(options)


@pytest.mark.parametrize(
    ("record", "prompt"), [(("Name it.", "a cat", "It."), WITH), (("Say hi.", "", "Hi."), WITHOUT)]
)
def test_the_published_templates(record, prompt):
    tokenizer = small_tokenizer()
    batch = mode().encode(tokenizer, documents(record))
    assert one(batch) == [*tokenizer.encode(prompt), *tokenizer.encode(record[2]), 0]
    assert learnt(tokenizer, batch) == record[2] + "<|endoftext|>"
    assert batch.num_bytes.tolist() == [-1]


def test_own_templates():
    tokenizer = small_tokenizer()
    asked = mode(prompt_with_input='{"q": "{instruction}"} {input}\n', prompt_without_input="Q {instruction}\n")
    assert tokenizer.decode(one(asked.encode(tokenizer, documents(("do", "it", "done"))))) == (
        '{"q": "do"} it\ndone<|endoftext|>'
    )
    assert tokenizer.decode(one(asked.encode(tokenizer, documents(("do", "", "done"))))) == "Q do\ndone<|endoftext|>"


def test_data_is_never_a_template():
    tokenizer = small_tokenizer()
    asked = mode(prompt_with_input="{instruction}|{input}|", prompt_without_input="{instruction}|")
    batch = asked.encode(tokenizer, documents(("{input} {0} {", "{instruction.__class__}", "<|endoftext|>")))
    assert tokenizer.decode(one(batch)[:-1]) == "{input} {0} {|{instruction.__class__}|<|endoftext|>"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_with_input": "{instruction}"}, r"prompt_with_input: must hold {instruction} and {input} once"),
        ({"prompt_with_input": "{input}{input}{instruction}"}, "prompt_with_input: must hold"),
        ({"prompt_without_input": "{instruction}{input}"}, "prompt_without_input: must hold {instruction} once"),
        ({"prompt_without_input": "nothing"}, "prompt_without_input: must hold"),
    ],
)
def test_templates_that_lose_data_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        mode(**options)


def test_limits_count_the_bytes_of_the_record_not_of_the_template():
    tokenizer = small_tokenizer()

    def cut(policy: str, max_tokens: int) -> tuple[str, int]:
        asked = mode(
            prompt_with_input="<<{instruction}--{input}>>",
            prompt_without_input="{instruction}",
            limits={"prompt": {"max_tokens": max_tokens, "policy": policy}},
        )
        batch = asked.encode(tokenizer, documents(("ABC", "XYZ", "out")))
        (num_bytes,) = batch.num_bytes.tolist()
        return tokenizer.decode(one(batch)[:-1]), num_bytes

    prompt = "<<ABC--XYZ>>"  # 12 characters, 12 tokens
    assert len(tokenizer.encode(prompt)) == 12
    for kept in range(2, 12):
        for policy, text in (("truncate_left", prompt[-kept:]), ("truncate_right", prompt[:kept])):
            assert cut(policy, kept) == (text + "out", sum(c in "ABCXYZ" for c in text) + 3), (policy, kept)
    assert cut("truncate_left", 12) == (prompt + "out", -1)


def test_what_the_reader_must_give():
    assert mode().part_names == ("instruction", "input", "output")
