"""Completions in a batch: how they end, what they say, and that rows are free again."""

from typing import Any

import pytest

from modelzoo.batching import Batcher, Completion, Piece
from modelzoo.model.sampling import Sampling
from tests.decoders import ScriptedDecoder
from tests.samples import small_tokenizer

TOKENIZER = small_tokenizer()
ANSWERS = {"a": "the cat", "b": "the dog and the cat", "c": "é😀 né"}


def batcher(**options: Any) -> Batcher:
    return Batcher(ScriptedDecoder(TOKENIZER, ANSWERS, **options), TOKENIZER)  # type: ignore[arg-type]


def ask(prompt: str, max_new_tokens: int = 50, **options: Any) -> Completion:
    return Completion(TOKENIZER.encode(prompt), Sampling(), max_new_tokens, **options)


def done(completion: Completion, by: Batcher) -> tuple[str, str | None]:
    assert list(by.run([completion])) == [completion]
    assert by.decoder.rows == {}  # type: ignore[attr-defined]
    assert len(by) == 0
    return completion.text, completion.finish_reason


@pytest.mark.parametrize(
    ("prompt", "options", "expected"),
    [
        ("a", {}, ("the cat", "end_of_document")),
        ("b", {"stop": (" and",)}, ("the dog", "stop")),
        ("b", {"stop": ("cat",)}, ("the dog and the ", "stop")),  # in the last token of all
        ("a", {"stop": ("cats",)}, ("the cat", "end_of_document")),  # the beginning of one, at the end
        ("c", {}, ("é😀 né", "end_of_document")),
        ("c", {"max_new_tokens": 4}, ("é�", "length")),  # é takes two tokens, 😀 four
        ("z", {"max_new_tokens": 7}, ("xxxxxxx", "length")),
        ("z", {"max_new_tokens": 7, "stop": ("xx",)}, ("", "stop")),
    ],
)
def test_how_a_completion_ends(prompt, options, expected):
    assert done(ask(prompt, **options), batcher()) == expected


def test_the_end_of_a_document_counts_as_a_token():
    completion = ask("a")
    done(completion, batcher())
    assert completion.num_tokens == len(TOKENIZER.encode("the cat")) + 1


@pytest.mark.parametrize("stop", [(), (" and",), ("z",)])
def test_pieces_add_up_and_tokens_come_with_the_text_they_begin_in(stop):
    pieces: list[Piece] = []
    completion = ask("b", stop=stop, on_piece=pieces.append)
    text, reason = done(completion, batcher())
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + [reason]
    offset = 0
    for piece in pieces:
        for shown in piece.tokens:
            assert offset <= shown.offset < offset + len(piece.text)
            assert text.startswith(TOKENIZER.decode([shown.token.token_id]), shown.offset)
        offset += len(piece.text)
    assert sum(len(piece.tokens) for piece in pieces) == len(TOKENIZER.encode(text))


def test_more_than_fit_take_turns_and_each_says_what_it_says_alone():
    by = batcher(max_rows=2)
    asked = [ask(prompt) for prompt in "abcabcab"]
    finished = list(by.run(asked))
    assert set(map(id, finished)) == set(map(id, asked))
    assert [completion.text for completion in asked] == [ANSWERS[prompt] for prompt in "abcabcab"]
    assert by.decoder.most_rows == 2  # type: ignore[attr-defined]


def test_giving_up():
    by = batcher()
    first, second, never = ask("z"), ask("z"), ask("z")
    by.add(first)
    by.add(second)
    by.step()
    by.remove(first)
    by.remove(first)
    by.remove(never)
    assert len(by) == 1
    assert by.num_free == 3
    by.step()
    assert (first.text, second.text) == ("x", "xx")
    assert by.clear() == [second]
    assert by.num_free == 4
