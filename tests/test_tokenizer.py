import json

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from modelzoo.base_config import UserError
from modelzoo.tokenizer import Tokenizer, byte_level
from tests.fuzzed_text import STYLES, fuzzed_texts, normalized, tokenizer_json
from tests.samples import TRICKY, shared_data, small_tokenizer


@pytest.mark.parametrize("text", TRICKY)
def test_round_trip_is_byte_exact(text):
    tokenizer = small_tokenizer()
    assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("style", STYLES)
def test_round_trip_of_fuzzed_text(style):
    tokenizer = Tokenizer(Backend.from_str(tokenizer_json(style)), style)
    texts = fuzzed_texts(3, 400)
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert tokenizer.decode_bytes(ids) == normalized(style, text).encode()
        assert tokenizer.decode(ids) == normalized(style, text)
        assert tokenizer.end_of_document_id not in ids
    assert style != "neox" or any(normalized(style, text) != text for text in texts)


@pytest.mark.parametrize(("name", "style"), [("gpt2-encoder.json", "gpt2"), ("20B_tokenizer.json", "neox")])
def test_round_trip_of_fuzzed_text_through_the_published_tokenizers(name, style):
    tokenizer = Tokenizer.load(shared_data("tokenizers") / name)
    texts = fuzzed_texts(4, 1000)
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert tokenizer.decode_bytes(ids) == normalized(style, text).encode()
        assert ids.tolist() == tokenizer.encode(text)


@pytest.mark.parametrize("choice", ["auto", "tokenizers"])
@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ud83d\ude80"])
def test_unpaired_surrogates_are_refused(text, choice):
    tokenizer = Tokenizer(small_tokenizer().backend, "small", choice)
    at = text.index(text.strip("ab")[0])
    with pytest.raises(UserError, match=rf"text 1 of 1: \\ud.{{3}} at character {at} stands alone, which no UTF-8"):
        tokenizer.encode(text)
    with pytest.raises(UserError, match=rf"text 3 of 3: \\ud.{{3}} at character {at} stands alone"):
        tokenizer.encode_batch(["fine", "", text])
    assert tokenizer.decode_bytes(tokenizer.encode("🚀")) == "🚀".encode()


def test_special_token_spelt_in_text_is_ordinary_text():
    tokenizer = small_tokenizer()
    assert tokenizer.end_of_document_id not in tokenizer.encode("a<|endoftext|>b")
    tokenizer.backend.encode_special_tokens = False  # the mutant
    assert tokenizer.end_of_document_id in tokenizer.encode("a<|endoftext|>b")


def test_batch_equals_one_by_one():
    tokenizer = small_tokenizer()
    batch = tokenizer.encode_batch(TRICKY)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in TRICKY]
    assert all(ids.dtype == np.uint32 for ids in batch)


def test_decoding_part_of_a_character_and_an_unused_id():
    tokenizer = small_tokenizer()
    ids = tokenizer.encode("🚀")
    assert tokenizer.decode_bytes(ids[:1]) == "🚀".encode()[:1]
    assert tokenizer.decode(ids[:1]) == "�"
    assert tokenizer.decode([tokenizer.vocab_size + 5]) == "�"
    assert tokenizer.decode([tokenizer.end_of_document_id]) == "<|endoftext|>"


def test_fingerprint_survives_saving_and_sees_a_change(tmp_path):
    tokenizer = small_tokenizer()
    tokenizer.save(tmp_path / "deep" / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "deep")
    assert again.sha256 == tokenizer.sha256
    assert again.vocab_size == tokenizer.vocab_size == 275
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["tokenizer.json"]
    assert small_tokenizer(274).sha256 != tokenizer.sha256


def test_truncation_and_padding_of_a_file_are_switched_off(tmp_path):
    tokenizer = small_tokenizer()
    sha256 = tokenizer.sha256
    tokenizer.backend.enable_truncation(4)
    tokenizer.backend.enable_padding(length=64)
    tokenizer.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path / "tokenizer.json")
    text = "a long text that has more than four tokens"
    assert again.decode(again.encode(text)) == text
    assert again.sha256 == sha256


@pytest.mark.parametrize("names", [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")])
def test_pair_of_files(tmp_path, names):
    tokenizer = small_tokenizer()
    vocabulary, merges = (tmp_path / name for name in names)
    tokenizer.backend.model.save(str(tmp_path))
    for written, wanted in zip(("vocab.json", "merges.txt"), (vocabulary, merges), strict=True):
        (tmp_path / written).rename(wanted)
    for path in (tmp_path, vocabulary):
        loaded = Tokenizer.load(path)
        assert [loaded.encode(text) for text in TRICKY] == [tokenizer.encode(text) for text in TRICKY]
        assert loaded.end_of_document_id == 0
    merges.unlink()
    with pytest.raises(UserError, match=rf"{names[1]}: no such file"):
        Tokenizer.load(vocabulary)


def test_what_is_not_there_or_not_a_tokenizer(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such file; expected a tokenizer\.json"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no tokenizer in this directory"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be read as a tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="no `model` section"):
        Tokenizer.load(tmp_path)


def test_tokenizers_that_lose_bytes_are_refused():
    by_chance = json.loads(small_tokenizer().backend.to_str())
    by_chance["model"]["dropout"] = 0.1
    with pytest.raises(UserError, match=r"model\.dropout gives a text other ids each time"):
        Tokenizer(Backend.from_str(json.dumps(by_chance)), "by_chance")
    with pytest.raises(UserError, match="242 bytes missing"):
        Tokenizer(byte_level(models.BPE(vocab={"a": 0, "<|endoftext|>": 1}, merges=[])), "few")
    prefixed = Backend.from_str(small_tokenizer().backend.to_str())
    prefixed.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(UserError, match="not a byte-level tokenizer"):
        Tokenizer(prefixed, "prefixed")
    without = json.loads(small_tokenizer().backend.to_str().replace("<|endoftext|>", "<|other|>"))
    with pytest.raises(UserError, match=r"no token <\|endoftext\|>"):
        Tokenizer(Backend.from_str(json.dumps(without)), "without")


def test_tokens_whose_ids_cannot_tell_them_apart_are_refused(tmp_path):
    """`tokenizers` writes one of two tokens with one id, by chance, and none where an id is as large as can be."""
    for name, id_ in (("twice", 5), ("huge", 2**32 - 1)):
        content = json.loads(tokenizer_json("gpt2"))
        content["model"]["vocab"]["zzzq"] = id_
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"tokens in model.vocab, of which \d+ can be told apart by their ids"):
            Tokenizer.load(tmp_path / f"{name}.json", "tokenizers")


def test_a_panic_of_the_reader_is_an_error_of_the_file(tmp_path):
    content = json.loads(tokenizer_json("gpt2"))
    content["model"]["continuing_subword_prefix"] = "##"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="cannot be read as a tokenizer"):
        Tokenizer.load(tmp_path, "tokenizers")


@pytest.mark.parametrize(
    ("tokenizer", "fixture", "vocab_size", "end"),
    [
        ("gpt2-encoder.json", "gpt2_fixture.json", 50257, 50256),
        ("20B_tokenizer.json", "neox20b_fixture.json", 50277, 0),
    ],
)
def test_published_ids(tmp_path, tokenizer, fixture, vocab_size, end):
    folder = shared_data("tokenizers")
    loaded = Tokenizer.load(folder / tokenizer)
    assert (loaded.vocab_size, loaded.end_of_document_id) == (vocab_size, end)
    for case in json.loads((folder / fixture).read_text(encoding="utf-8")):
        assert loaded.encode(case["text"]) == case["ids"]
        assert loaded.decode(case["ids"]) == case["text"]
    loaded.save(tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path).sha256 == loaded.sha256
