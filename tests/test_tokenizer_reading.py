"""A tokenizer put together from its parts is the one that `tokenizers` reads."""

import json

import pytest
from tokenizers import Tokenizer as Backend

from modelzoo import tokenizer_reading
from modelzoo.tokenizer import Tokenizer
from tests.fuzzed_text import tokenizer_json
from tests.test_fast_tokenizer import TRICKY

TOKEN = {"single_word": False, "lstrip": True, "rstrip": False, "normalized": True, "special": False}


def older(content):
    """As files were written before merges were pairs and a few options had come."""
    model = content["model"]
    model["merges"] = [" ".join(merge) for merge in model["merges"]]
    del model["ignore_merges"], model["byte_fallback"], content["pre_tokenizer"]["use_regex"]


def with_tokens(content):
    last = max(*content["model"]["vocab"].values(), *(token["id"] for token in content["added_tokens"]))
    content["added_tokens"] += [
        {"id": last + 1, "content": "  two spaces", **TOKEN},
        {"id": last + 2, "content": "<|end|>", **TOKEN, "special": True},
    ]


def with_options(content):
    content["model"].update(ignore_merges=True, fuse_unk=True, unk_token="!")
    content["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}


def reordered(content):
    content["model"]["vocab"] = dict(reversed(content["model"]["vocab"].items()))


def of_another_kind(content):
    content["model"] = {"type": "WordLevel", "vocab": content["model"]["vocab"], "unk_token": "!"}


def with_wrong_ids(content):
    content["added_tokens"].append({"id": 10**6, "content": "<|far|>", **TOKEN})


@pytest.mark.parametrize("name", ["gpt2", "neox"])
@pytest.mark.parametrize("change", [None, older, with_tokens, with_options, reordered, of_another_kind, with_wrong_ids])
def test_a_tokenizer_is_what_tokenizers_reads(name, change):
    content = json.loads(tokenizer_json(name))
    if change:
        change(content)
    text = json.dumps(content, indent=1)
    read, written = tokenizer_reading.read(text)
    expected = Backend.from_str(text)
    assert read.to_str() == expected.to_str()
    assert (written is None) == (change in (reordered, of_another_kind, with_wrong_ids))
    if written:
        assert written.json == expected.to_str()
        assert written.content == json.loads(written.json)
    for each in (read, expected):
        each.encode_special_tokens = True
    for text in TRICKY:
        assert read.encode(text).ids == expected.encode(text).ids


@pytest.mark.parametrize(
    "text", ["", "[]", '{"model": {}}', '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}']
)
def test_what_is_no_tokenizer_fails_as_tokenizers_does(text):
    def failure(read):
        with pytest.raises(Exception, match=r"\w") as raised:
            read(text)
        return str(raised.value)

    assert failure(tokenizer_reading.read) == failure(Backend.from_str)


def test_truncation_in_the_file_is_not_in_the_tokenizer(tmp_path):
    content = json.loads(tokenizer_json("neox"))
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps(content))
    with_options(content)
    content["model"] = json.loads(tokenizer_json("neox"))["model"]
    cut = tmp_path / "cut.json"
    cut.write_text(json.dumps(content))
    loaded = [Tokenizer.load(path) for path in (plain, cut)]
    assert loaded[0].json == loaded[1].json
    assert loaded[0].sha256 == loaded[1].sha256
    assert len(loaded[1].encode("far more than five tokens of text, certainly")) > 5
