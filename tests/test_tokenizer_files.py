"""Every form in which a tokenizer is found."""

import json
import sys
import types

import pytest
from tokenizers import AddedToken

from modelzoo import tokenizer_files
from modelzoo.base_config import UserError
from modelzoo.tokenizer import Tokenizer, special_token
from tests.samples import TRICKY, small_tokenizer


@pytest.fixture
def pair(tmp_path):
    """vocab.json and merges.txt, in a directory of their own."""
    small_tokenizer().backend.model.save(str(tmp_path))
    return tmp_path


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def other_end(folder, **tokens):
    """The pair with `</s>` instead of `<|endoftext|>`."""
    path = folder / "vocab.json"
    path.write_text(path.read_text().replace("<|endoftext|>", "</s>"))
    return write(folder, **tokens)


def ids(tokenizer):
    return [tokenizer.encode(text) for text in TRICKY]


def test_a_pair_has_the_fingerprint_of_the_tokenizer_json(pair):
    assert Tokenizer.load(pair).sha256 == small_tokenizer().sha256


def test_windows_line_ends_of_merges(pair):
    path = pair / "merges.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert ids(Tokenizer.load(pair)) == ids(small_tokenizer())


@pytest.mark.parametrize("eos", ["</s>", {"content": "</s>", "lstrip": False}])
@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map"])
def test_the_end_of_a_document_is_eos_token_where_there_is_no_endoftext(pair, eos, name, tmp_path):
    loaded = Tokenizer.load(other_end(pair, **{name: {"eos_token": eos}}))
    assert (loaded.end_of_document_token, loaded.end_of_document_id) == ("</s>", 0)
    assert 0 not in loaded.encode("a</s>b")
    loaded.save(tmp_path / "saved" / "tokenizer.json")  # the name travels in the one file
    again = Tokenizer.load(tmp_path / "saved")
    assert (again.end_of_document_token, again.sha256) == ("</s>", loaded.sha256)
    assert ids(again) == ids(loaded)
    assert again.decode(again.encode("a</s>b")) == "a</s>b"


def test_endoftext_comes_before_eos_token(pair):
    write(pair, tokenizer_config={"eos_token": "t"})
    assert Tokenizer.load(pair).end_of_document_token == "<|endoftext|>"


def test_no_end_of_a_document_at_all(pair):
    with pytest.raises(UserError, match=r"no token <\|endoftext\|>, .* and no eos_token"):
        Tokenizer.load(other_end(pair, tokenizer_config={"eos_token": "<absent>"}))


def test_an_end_in_the_template_of_a_tokenizer_json(tmp_path):
    text = small_tokenizer().backend.to_str().replace("<|endoftext|>", "<eot>")
    bos = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    content = json.loads(tokenizer_files.with_end(text, "<eot>"))
    content["post_processor"] = {"type": "Sequence", "processors": [bos, content["post_processor"]]}
    write(tmp_path, tokenizer=content)
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.end_of_document_token, loaded.end_of_document_id) == ("<eot>", 0)
    assert loaded.encode("") == []


def test_a_tokenizer_json_with_eos_token_beside(tmp_path):
    (tmp_path / "tokenizer.json").write_text(small_tokenizer().backend.to_str().replace("<|endoftext|>", "<eot>"))
    with pytest.raises(UserError, match="no token"):
        Tokenizer.load(tmp_path)
    write(tmp_path, special_tokens_map={"eos_token": {"content": "<eot>"}})
    assert Tokenizer.load(tmp_path).end_of_document_token == "<eot>"
    assert Tokenizer.load(tmp_path / "tokenizer.json").end_of_document_token == "<eot>"


def test_added_tokens_of_a_hugging_face_directory(pair):
    reference = small_tokenizer()
    reference.backend.add_tokens([AddedToken("  ", normalized=False), special_token("<|user|>")])
    write(
        pair,
        tokenizer_config={
            "added_tokens_decoder": {
                "0": {"content": "<|endoftext|>", "special": True, "normalized": False},
                "275": {"content": "  ", "special": False, "normalized": False},
                "276": {"content": "<|user|>", "special": True},
            }
        },
    )
    loaded = Tokenizer.load(pair)
    assert (loaded.sha256, loaded.vocab_size) == (Tokenizer(reference.backend, "reference").sha256, 277)
    assert loaded.encode("a  b")[1] == 275
    assert 276 not in loaded.encode("<|user|>")


def test_added_tokens_of_the_older_files(pair):
    write(pair, added_tokens={"  ": 275, "<|user|>": 276})
    write(pair, special_tokens_map={"additional_special_tokens": ["<|user|>"], "pad_token": "<|user|>"})
    loaded = Tokenizer.load(pair)
    assert loaded.encode("a  b")[1] == 275
    assert 276 not in loaded.encode("<|user|>")
    assert loaded.backend.token_to_id("<|user|>") == 276


def test_a_broken_file_beside(pair):
    (pair / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: not JSON"):
        Tokenizer.load(pair)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1, 2]", b'{"a": "b"}', b"one two three\n"])
def test_a_broken_pair(pair, name, content):
    (pair / name).write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(pair)


def test_a_name_on_the_hub(tmp_path, monkeypatch):
    small_tokenizer().save(tmp_path / "tokenizer.json")
    asked = []
    monkeypatch.setattr(tokenizer_files, "download", lambda *name: asked.append(name) or tmp_path)
    for path in ("hf://owner/some-name.v2", "hf://owner/some-name.v2@refs/pr/1", tmp_path / "hf://owner/some-name.v2"):
        assert Tokenizer.load(path).sha256 == small_tokenizer().sha256
    assert asked == [("owner/some-name.v2", None), ("owner/some-name.v2", "refs/pr/1"), ("owner/some-name.v2", None)]
    with pytest.raises(UserError, match=r"no such file; .* \(on the hub it would be hf://owner/name\)"):
        Tokenizer.load("owner/name")


def test_what_is_asked_of_the_hub(tmp_path, monkeypatch):
    def snapshot_download(repository, revision, allow_patterns):
        assert (repository, revision) == ("owner/name", "main")
        assert {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"} <= set(allow_patterns)
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(UserError, match="no tokenizer in this directory"):
        Tokenizer.load("hf://owner/name@main")
    small_tokenizer().save(tmp_path / "tokenizer.json")
    assert Tokenizer.load("hf://owner/name@main").vocab_size == 275


def test_the_hub_out_of_reach(monkeypatch):
    def snapshot_download(*args, **options):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(UserError, match=r"hf://owner/name: cannot be downloaded \(ConnectionError: no route to host\)"):
        Tokenizer.load("hf://owner/name")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"hf://owner/name: needs the package huggingface_hub"):
        Tokenizer.load("hf://owner/name")
