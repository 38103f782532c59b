from itertools import product

import numpy as np
import pytest
from pydantic import ValidationError

from data_preprocessing.examples import ExampleLimits, Kept
from data_preprocessing.modes import Refused
from data_preprocessing.modes.prompt_completion import PromptCompletionMode
from tests.data_preprocessing.modes import TEXTS, bytes_of, documents, learnt, one, pieces_of
from tests.samples import small_tokenizer

PAIRS = [("the c", "at"), ("", "completion only"), ("prompt only", ""), *zip(TEXTS, reversed(TEXTS), strict=True)]


def mode(**options) -> PromptCompletionMode:
    """A mode; limits as e.g. prompt="truncate_left:5"."""
    limits = {}
    for name in ("prompt", "completion", "example"):
        if name in options:
            policy, max_tokens = options.pop(name).split(":")
            limits[name] = {"max_tokens": int(max_tokens), "policy": policy}
    return PromptCompletionMode.model_validate({**options, "limits": limits})


def test_the_two_are_tokenized_apart_and_the_completion_is_learnt():
    tokenizer = small_tokenizer()
    batch = mode().encode(tokenizer, documents(("the c", "at")))
    assert one(batch) == [*tokenizer.encode("the c"), *tokenizer.encode("at"), 0]
    assert one(batch) != [*tokenizer.encode("the cat"), 0]
    assert learnt(tokenizer, batch) == "at<|endoftext|>"


def test_a_separator_that_is_kept_ends_the_prompt():
    tokenizer = small_tokenizer()
    kept = PromptCompletionMode(separator=" => ", keep_separator=True)
    batch = kept.encode(tokenizer, documents(("the c => at => mat",)))
    assert one(batch) == [*tokenizer.encode("the c => "), *tokenizer.encode("at => mat"), 0]
    assert learnt(tokenizer, batch) == "at => mat<|endoftext|>"
    with pytest.raises(ValidationError, match="needs a separator"):
        PromptCompletionMode(keep_separator=True)


def test_without_limits_everything_is_written():
    tokenizer = small_tokenizer()
    batch = mode().encode(tokenizer, documents(*PAIRS))
    expected = [[[*tokenizer.encode(prompt), *tokenizer.encode(completion), 0]] for prompt, completion in PAIRS]
    assert pieces_of(batch) == expected
    assert tokenizer.decode(batch.ids[batch.loss_mask]) == "".join(c + "<|endoftext|>" for _, c in PAIRS)
    assert (batch.num_bytes == -1).all()


LIMITS = {
    "prompt": [None, "truncate_left:4", "truncate_right:4", "reject:4", "truncate_left:9"],
    "completion": [None, "truncate_right:2", "truncate_right:5", "reject:5"],
    "example": [None, "truncate_left:6", "truncate_right:6", "reject:6", "truncate_left:12", "truncate_right:12"],
}


@pytest.mark.parametrize("limits", list(product(*LIMITS.values())))
def test_every_combination_does_what_its_words_say(limits):
    """Against the docstrings, done step by step on lists of tokens."""
    options = {name: limit for name, limit in zip(LIMITS, limits, strict=True) if limit}
    fitted = mode(**options).limits
    for num_prompt, num_completion in product(range(12), range(12)):
        prompt = [("p", i) for i in range(num_prompt)]
        completion = [("c", i) for i in range(num_completion)]
        refused = False
        for name, limit in options.items():
            policy, number = limit.split(":")
            whole = {"prompt": prompt, "completion": [*completion, 0], "example": [*prompt, *completion, 0]}[name]
            excess = len(whole) - int(number)
            if refused or excess <= 0:
                continue
            if policy == "reject":
                refused = True
            elif name == "prompt":
                prompt = prompt[excess:] if policy == "truncate_left" else prompt[:-excess]
            elif name == "completion":
                completion = completion[:-excess]
            elif policy == "truncate_left":
                refused = len(completion) + 1 > int(number)
                prompt = prompt[excess:]
            else:
                refused = len(prompt) + 2 > int(number)
                completion = completion[:-excess]
        found = fitted.fit(num_prompt, num_completion)
        assert isinstance(found, Refused) == refused, (num_prompt, num_completion, found)
        if not isinstance(found, Refused):
            assert [("p", i) for i in range(found.start, found.stop)] == prompt
            assert [("c", i) for i in range(found.end)] == completion


@pytest.mark.parametrize("limits", list(product(*LIMITS.values())))
def test_ids_mask_and_bytes_of_cut_examples(limits):
    tokenizer = small_tokenizer()
    options = {name: limit for name, limit in zip(LIMITS, limits, strict=True) if limit}
    asked = mode(**options)
    pairs = [(f"the dog saw {'x' * i}日", "é the other cat" + "y" * i) for i in range(3)] + [("é", "b")]
    batch = asked.encode(tokenizer, documents(*pairs))
    masks = iter(np.split(batch.loss_mask, np.cumsum(batch.lengths)[:-1]))
    claims = bytes_of(batch, ["".join(pair) for pair in pairs])
    for (prompt, completion), pieces, claimed in zip(pairs, pieces_of(batch), claims, strict=True):
        p, c = tokenizer.encode(prompt), tokenizer.encode(completion)
        kept = asked.limits.fit(len(p), len(c))
        if isinstance(kept, Refused):
            assert not pieces
            assert claimed == 0
            continue
        ids = [*p[kept.start : kept.stop], *c[: kept.end]]
        assert pieces == [[*ids, 0]]
        mask = next(masks).tolist()
        assert mask == [False] * (kept.stop - kept.start) + [True] * kept.end + [kept.end == len(c)]
        assert claimed == len(tokenizer.decode_bytes(ids))


def test_each_limit_is_used():
    tokenizer = small_tokenizer()
    pair = ("the dog saw", " the cat and the bird")
    whole = one(mode().encode(tokenizer, documents(pair)))
    seen = set()
    for limit in (
        {"prompt": "truncate_left:2"},
        {"prompt": "truncate_right:2"},
        {"completion": "truncate_right:5"},
        {"example": "truncate_left:8"},
        {"example": "truncate_right:8"},
    ):
        seen.add(tuple(one(mode(**limit).encode(tokenizer, documents(pair)))))
    assert len(seen) == 5
    assert tuple(whole) not in seen
    for name in ("prompt", "completion", "example"):
        batch = mode(**{name: "reject:3"}).encode(tokenizer, documents(pair))
        reason, detail = batch.refused[0]
        assert reason == "too long"
        assert f"{name} of " in detail
        assert detail.endswith(f"mode.limits.{name} admits 3")
    assert Kept(0, 3, 2) == ExampleLimits().fit(3, 2)


def test_the_end_of_a_cut_completion_is_not_learnt():
    tokenizer = small_tokenizer()
    pair = ("the dog", "abcdefgh")
    assert learnt(tokenizer, mode(completion="truncate_right:4").encode(tokenizer, documents(pair))) == "abc"
    assert learnt(tokenizer, mode(prompt="truncate_left:2").encode(tokenizer, documents(pair))).endswith("text|>")


@pytest.mark.parametrize("name", ["completion", "example", "prompt"])
def test_policies_without_a_meaning_are_refused(name):
    policy = {"completion": "truncate_left", "example": "split", "prompt": "split"}[name]
    with pytest.raises(ValidationError, match=r"truncate_right"):
        mode(**{name: f"{policy}:5"})


def test_a_separator_splits_one_text_at_its_first_occurrence():
    tokenizer = small_tokenizer()
    asked = mode(separator=" => ")
    assert len(asked.part_names) == 1
    assert mode().part_names == ("prompt", "completion")
    texts = ["the c => at", "no arrow", "a => b => c", " => only", "only => ", "\n"]
    batch = asked.encode(tokenizer, documents(*texts))
    pairs = [("the c", "at"), None, ("a", "b => c"), ("", "only"), ("only", ""), None]
    assert pieces_of(batch) == [
        [[*tokenizer.encode(pair[0]), *tokenizer.encode(pair[1]), 0]] if pair else [] for pair in pairs
    ]
    detail = "no ' => ' in it; expected it to end the prompt"
    assert batch.refused == {1: ("no separator", detail), 5: ("empty", "blank")}
    assert (batch.num_bytes == -1).all()  # the separator is no loss
    cut = mode(separator=" => ", prompt="truncate_left:2").encode(tokenizer, documents("xyz => at"))
    assert cut.num_bytes.tolist() == [len("xyz => at") - 1]
    with pytest.raises(ValidationError, match="at least 1 character"):
        mode(separator="")
