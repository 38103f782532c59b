"""The faster backend gives the ids of `tokenizers`, or is not used; what it gives is looked at in every call."""

import json
import lzma
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import sysconfig
import types
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend

from modelzoo import fast_loading, fast_tokenizer, tokenizer_cuts, tokenizer_files
from modelzoo import tokenizer as tokenizer_module
from modelzoo.base_config import UserError
from modelzoo.cli import tokenizer_ahead
from modelzoo.fast_tokenizer import FastEncoder, Unusable
from modelzoo.tokenizer import Tokenizer
from tests.fuzzed_text import STYLES, fuzzed_texts, tokenizer_json
from tests.samples import TRICKY, shared_data


def tokenizer(style="neox", choice="auto"):
    return Tokenizer(Backend.from_str(tokenizer_json(style)), style, choice)


@pytest.fixture
def fast():
    pytest.importorskip("fastokens")


class Wrong:
    """`fastokens`, with another id somewhere in texts that hold `trigger`."""

    def __init__(self, native, trigger="", position=0):
        self.native, self.trigger, self.position = native, trigger, position

    def encode(self, text, **options):
        return self.native.encode(text, **options)

    def encode_batch_flat(self, texts, **options):
        ids, offsets = self.native.encode_batch_flat(texts, **options)
        ids, bounds = np.frombuffer(ids, "<u4").copy(), np.frombuffer(offsets, "<u8").astype(int)
        for text, begin, end in zip(texts, bounds[:-1], bounds[1:], strict=True):
            if self.trigger in text and begin + self.position < end:
                ids[begin + self.position] ^= 1
        return ids.tobytes(), offsets


def spoil(tokenizer, **settings):
    tokenizer.prepare()
    tokenizer._fast._native = Wrong(tokenizer._fast._native, **settings)
    return tokenizer


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("style", STYLES)
def test_fast_ids_are_those_of_tokenizers(style):
    tried = tokenizer(style, "fastokens")
    texts = fuzzed_texts(1, 500)
    ids, offsets = tried.encode_batch_flat(texts)
    assert (ids.dtype, offsets.dtype, len(offsets)) == (np.uint32, np.int64, 501)
    expected_ids, expected_offsets = tokenizer(style, "tokenizers").encode_batch_flat(texts)
    assert np.array_equal(ids, expected_ids)
    assert np.array_equal(offsets, expected_offsets)
    assert tried.notes == []


@pytest.mark.parametrize("choice", ["auto", "tokenizers"])
def test_shapes_of_small_calls(choice):
    tried = tokenizer(choice=choice)
    for texts in ([], [""], ["", "", ""], ["a", ""], TRICKY):
        ids, offsets = tried.encode_batch_flat(texts)
        assert (ids.dtype, offsets.dtype, len(offsets), offsets[0], offsets[-1]) == (
            np.uint32, np.int64, len(texts) + 1, 0, len(ids)
        )  # fmt: skip
        assert [part.tolist() for part in tried.encode_batch(texts)] == [tried.encode(text) for text in texts]


@pytest.mark.usefixtures("fast")
def test_nothing_is_loaded_before_it_is_needed(tmp_path, monkeypatch):
    (tmp_path / "tokenizer.json").write_text(tokenizer_json("neox"))
    loaded = Tokenizer.load(tmp_path)
    loaded.encode("a text")
    assert loaded._fast is None
    assert Tokenizer.load(tmp_path, background=True)._fast is not None
    assert Tokenizer.load(tmp_path, "tokenizers", background=True)._fast is None
    plain = Tokenizer.load(tmp_path, "tokenizers")
    plain.encode_batch(["a text"])
    assert (plain._fast, plain.notes) == (None, [])


def test_unknown_backend(tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer_json("neox"))
    with pytest.raises(UserError, match="tokenizer_backend=fastest: expected one of auto, tokenizers, fastokens"):
        Tokenizer.load(tmp_path, "fastest")


def test_absent_package_is_said_once(monkeypatch):
    monkeypatch.setattr(fast_tokenizer, "is_installed", lambda: False)
    tried = tokenizer()
    for _ in range(2):
        assert tried.encode_batch(TRICKY)[2].tolist() == tried.encode(TRICKY[2])
    assert len(tried.notes) == 1
    assert "fastokens is not installed" in tried.notes[0]
    with pytest.raises(UserError, match=r"fastokens is not installed .* use tokenizer_backend=tokenizers"):
        tokenizer(choice="fastokens").prepare()


@pytest.mark.parametrize("fault", ["other ids", "panic", "cannot read"])
def test_a_backend_that_differs_on_the_probes_is_not_used(monkeypatch, fault):
    class Panic(BaseException):
        """As Rust's panics come to Python."""

    class Native:
        @staticmethod
        def from_json_str(text):
            if fault == "cannot read":
                raise Panic("unknown section")
            return Native()

        def no_truncation(self):
            pass

        no_padding = no_truncation

        def encode(self, text, **options):
            if fault == "panic":
                raise Panic("index out of range")
            return types.SimpleNamespace(ids=[1])

    monkeypatch.setattr(fast_tokenizer, "is_installed", lambda: True)
    monkeypatch.setitem(sys.modules, "fastokens", types.SimpleNamespace(Tokenizer=Native))
    tried = tokenizer()
    assert tried.encode_batch(TRICKY)[2].tolist() == tried.encode(TRICKY[2])
    assert len(tried.notes) == 1
    assert "encoding with tokenizers" in tried.notes[0]
    with pytest.raises(UserError, match="use tokenizer_backend=tokenizers"):
        tokenizer(choice="fastokens").prepare()


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    "texts", [["some words of a text " * 300], ["日本語。" * 2000], [f"word {i}" for i in range(900)]]
)
def test_a_wrong_id_in_what_was_given_is_seen(texts):
    tried = spoil(tokenizer(), position=1)
    with pytest.raises(UserError, match=r"differ at token 1 of a text: fastokens gives .* tokenizers .* around"):
        tried.encode_batch_flat(texts)


@pytest.mark.usefixtures("fast")
def test_a_backend_wrong_for_one_text_in_ten_is_seen_within_some_calls():
    tried = spoil(tokenizer(), trigger="7")
    calls = ([f"text {call} {number} " + "of some words " * 200 for number in range(10)] for call in range(100))
    with pytest.raises(UserError, match="tokenizer_backend=tokenizers"):
        list(map(tried.encode_batch_flat, calls))


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("style", STYLES)
def test_a_right_backend_never_raises_an_alarm(style, monkeypatch):
    """Also where samples are cut in the middle of anything."""
    monkeypatch.setattr(fast_tokenizer, "MIN_SAMPLE_CHARACTERS", 20)
    tried = tokenizer(style, "fastokens")
    for text in fuzzed_texts(2, 300, 100):
        tried.encode_batch_flat([text])


@pytest.mark.usefixtures("fast")
def test_a_failure_while_encoding(monkeypatch):
    class Panic(BaseException):
        """As Rust's panics come to Python."""

    def encode_batch_flat(texts, **options):
        raise Panic("index out of range")

    tried = tokenizer()
    tried.prepare()
    tried._fast._native = types.SimpleNamespace(encode_batch_flat=encode_batch_flat)
    with pytest.raises(
        UserError, match=r"fastokens fails \(Panic: index out of range\) .* tokenizer_backend=tokenizers"
    ):
        tried.encode_batch(["a text"])


@pytest.mark.usefixtures("fast")
def test_the_sample_is_a_small_share():
    tried = tokenizer()
    texts = ["some words of a text " * 5000 for _ in range(10)]
    seen = []
    ids, offsets = tried.encode_batch_flat(texts)
    fast_tokenizer.check_sample(
        texts, ids, offsets, lambda text: seen.append(text) or tried.encode(text), tried.decode, ""
    )
    assert 450 < sum(map(len, seen)) < 700
    assert not seen[0].endswith(" ")


@pytest.mark.usefixtures("fast")
def test_prepare_starts_no_thread_and_workers_may_be_forked(tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer_json("neox"))
    program = """
import os, sys
from modelzoo.tokenizer import Tokenizer
before = os.listdir("/proc/self/task")
loaded = Tokenizer.load(sys.argv[1], "fastokens")
loaded.prepare()
print(len(os.listdir("/proc/self/task")) - len(before))
"""
    environment = {name: value for name, value in os.environ.items() if name != "FASTOKENS_BPE_THREADS"}
    command = [sys.executable, "-c", program, str(tmp_path)]
    if sys.platform == "linux":
        assert subprocess.check_output(command, env=environment, text=True).strip() == "0"
    tried = tokenizer()
    tried.prepare()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for text, ids in zip(TRICKY, pool.map(tried.encode, TRICKY), strict=True):
            assert ids == tried.encode(text)
        assert [ids.tolist() for ids in pool.apply_async(tried.encode_batch, (TRICKY,)).get(timeout=30)] == [
            tried.encode(text) for text in TRICKY
        ]


@pytest.mark.usefixtures("fast")
def test_what_was_begun_ahead_is_used_for_the_same_text_only(tmp_path):
    text, other = tokenizer_json("neox"), tokenizer_json("gpt2")
    fast_loading.begin_ahead(text)
    begun = fast_loading._ahead[text]
    assert fast_loading.loading(other) is not begun
    assert fast_loading.loading(text) is begun
    assert fast_loading.loading(text) is not begun  # it is one encoder's alone


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize(
    ("yaml", "overrides"),
    [("tokenizer: {path}", []), ("tokenizer: '{path}'  # ours", []), ("tokenizer: nothing", ["tokenizer={path}"])],
)
def test_preprocess_begins_the_tokenizer_that_the_config_names(tmp_path, monkeypatch, yaml, overrides):
    (tmp_path / "tokenizer.json").write_text(tokenizer_json("neox"))
    config = tmp_path / "corpus.yaml"
    config.write_text("name: corpus\n" + yaml.format(path=tmp_path / "tokenizer.json"))
    monkeypatch.setattr(fast_loading, "_ahead", {})
    tokenizer_ahead.begin([str(config), *(override.format(path=tmp_path) for override in overrides)])
    assert list(fast_loading._ahead) == [tokenizer_files.read(tmp_path / "tokenizer.json")]


@pytest.mark.usefixtures("fast")
def test_an_id_beyond_memory_is_not_for_fastokens(tmp_path):
    """It makes a table of as many entries, and ends the process where that fails."""
    content = json.loads(tokenizer_json("neox"))
    content["added_tokens"].append({**content["added_tokens"][0], "id": 3_000_000_000, "content": "<|far|>"})
    fast_loading.begin_ahead(json.dumps(content))
    assert not fast_loading._ahead
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(Unusable, match="beyond what fastokens takes"):
        FastEncoder(json.dumps(content))
    loaded = Tokenizer.load(tmp_path, background=True)  # `tokenizers` gives the token the next id
    assert loaded.encode_batch(["text"])[0].tolist() == loaded.encode("text")


@pytest.mark.parametrize(
    "yaml",
    [
        "",
        "tokenizer: missing.json",
        "tokenizer: {path}",
        "\tnot: yaml",
        "reader: tokenizer",
        "tokenizer: {path}/tokenizer.json\ntokenizer_backend: tokenizers",
    ],
)
def test_a_config_that_names_no_tokenizer_begins_nothing(tmp_path, monkeypatch, yaml):
    (tmp_path / "corpus.yaml").write_text(yaml.format(path=tmp_path))
    if "backend" in yaml:  # else, it is a directory without one
        (tmp_path / "tokenizer.json").write_text(tokenizer_json("neox"))
    monkeypatch.setattr(fast_loading, "_ahead", {})
    tokenizer_ahead.begin([str(tmp_path / "corpus.yaml")])
    tokenizer_ahead.begin([str(tmp_path / "absent.yaml")])
    assert not fast_loading._ahead


@pytest.mark.usefixtures("fast")
def test_a_process_may_end_while_the_encoder_loads(tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer_json("neox"))
    load = f"from modelzoo.tokenizer import Tokenizer; Tokenizer.load({str(tmp_path)!r}, background=True)"
    program = f"{load}; raise SystemExit(2)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 2


@pytest.mark.parametrize("prepared", [False, True])
def test_a_spawned_worker_loads_its_own(prepared):
    tried = tokenizer()
    if prepared:
        tried.prepare()
    again = pickle.loads(pickle.dumps(tried))
    assert (again.sha256, again.path, again._choice) == (tried.sha256, tried.path, "auto")
    assert [ids.tolist() for ids in again.encode_batch(TRICKY)] == [tried.encode(text) for text in TRICKY]
    assert (again._fast is None) == (tried._fast is None) or not prepared


@pytest.mark.parametrize("choice", ["auto", "tokenizers"])
@pytest.mark.parametrize("style", STYLES)
def test_a_long_text_in_pieces_has_the_ids_of_the_whole(style, choice, monkeypatch):
    tried = tokenizer(style, choice)
    assert tried._is_cuttable
    texts = [" ".join(fuzzed_texts(seed, 30)) for seed in range(8)] + ["no place to cut" + "." * 500, ""]
    whole = [tried.backend.encode(text, add_special_tokens=False).ids for text in texts]
    for size in (1, 50, 400):
        monkeypatch.setattr(tokenizer_module, "PIECE_CHARACTERS", size)
        monkeypatch.setattr(tokenizer_module, "SHORT_PIECE_CHARACTERS", size)
        monkeypatch.setattr(tokenizer_module, "GROUP_CHARACTERS", 2 * size)
        assert [ids.tolist() for ids in tried.encode_batch(texts)] == whole
        assert [tried.encode(text) for text in texts] == whole
    assert sum(len(list(tokenizer_cuts.pieces(text, size))) for text in texts) > 2 * len(texts)


def test_cuts_anywhere_would_be_wrong(monkeypatch):
    """The mutant of SAFE_CUT."""
    tried = tokenizer("gpt2")
    text = " the word" * 20
    whole = tried.encode(text)
    monkeypatch.setattr(tokenizer_module, "PIECE_CHARACTERS", 5)
    assert tried.encode(text) == whole
    monkeypatch.setattr(tokenizer_cuts, "SAFE_CUT", re.compile(r".(?=.)"))
    assert tried.encode(text) != whole


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": ".{10}"}, "behavior": "Isolated", "invert": False}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}},
        {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
        {"added": {"content": "a\nb"}},
        {"added": {"content": "new york", "special": True}},
        {"added": {"content": "x", "lstrip": True}},
    ],
)
def test_tokenizers_not_known_to_be_cuttable_are_not_cut(change):
    specification = json.loads(tokenizer_json("neox"))
    assert tokenizer_cuts.is_cuttable(specification)
    if added := change.pop("added", None):
        specification["added_tokens"].append({**specification["added_tokens"][-1], **added})
    assert not tokenizer_cuts.is_cuttable(specification | change)


def corpora():
    for name in ("wiki_10MB", "medquad", "sotu"):
        with lzma.open(shared_data(f"corpora/{name}.jsonl.xz"), "rt", encoding="utf-8") as file:
            yield [json.loads(line)["text"] for line in file]
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))
    yield [path.read_text(encoding="utf-8", errors="replace") for path in sources if "site-packages" not in path.parts]


@pytest.mark.long
@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("name", ["gpt2-encoder.json", "20B_tokenizer.json"])
def test_whole_corpora_have_equal_ids(name):
    path = shared_data("tokenizers") / name
    fast, slow = Tokenizer.load(path, "fastokens"), Tokenizer.load(path, "tokenizers")
    for texts in corpora():
        for given, expected in zip(fast.encode_batch_flat(texts), slow.encode_batch_flat(texts), strict=True):
            assert np.array_equal(given, expected)
