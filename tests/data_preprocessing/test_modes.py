import json

import h5py
import numpy as np
import pytest
from pydantic import ValidationError

from data_preprocessing import encoder
from data_preprocessing.config import PreprocessConfig
from data_preprocessing.encoder import content_hash, draw_threshold
from data_preprocessing.modes import Encoded, EncodedBatch
from data_preprocessing.modes.lm import LmMode
from data_preprocessing.modes.prompt_completion import PromptCompletionMode
from data_preprocessing.pipeline import run
from modelzoo.base_config import UserError
from modelzoo.config_files import load_config
from modelzoo.data.dataset import TokenDataset
from modelzoo.data.schema import read_manifest
from modelzoo.tokenizer import Tokenizer
from tests.samples import TRICKY, small_tokenizer

PAIRS = [
    ("the c", "at"),  # " cat" is one token: the boundary falls into it
    ("", "completion only"),
    ("prompt only", ""),
    *zip(TRICKY[1:], reversed(TRICKY[1:]), strict=True),
    *((f"question {i}?" + " the bird" * (i % 5), " the cat" * (i % 4) + ".") for i in range(30)),
]


@pytest.fixture
def base(tmp_path):
    """A folder with a tokenizer and PAIRS."""
    small_tokenizer().save(tmp_path / "tokenizer.json")
    lines = [json.dumps({"prompt": prompt, "completion": completion}) for prompt, completion in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def config(mode="prompt_completion", text_key=("prompt", "completion"), mode_options=None, **settings):
    reader = {"kind": "jsonl", "paths": "pairs.jsonl", "text_key": list(text_key)}
    wanted = {
        "name": "t",
        "reader": reader,
        "mode": {"kind": mode, **(mode_options or {})},
        "tokenizer": "tokenizer.json",
        "output": "out",
    }
    return PreprocessConfig.model_validate({**wanted, **settings})


def split_of(pair):
    drawn = int.from_bytes(content_hash(b"\xff".join(part.encode() for part in pair))[:8], "little")
    return "validation" if drawn < draw_threshold(0.3) else "train"


def expected(tokenizer, pairs):
    """The stream of these pairs and its mask, id by id."""
    stream, mask = [], []
    for prompt, completion in pairs:
        before, after = tokenizer.encode(prompt), tokenizer.encode(completion)
        stream += [*before, *after, tokenizer.end_of_document_id]
        mask += [False] * len(before) + [True] * len(after) + [True]
    return stream, mask


@pytest.mark.parametrize("seq_len", [1, 5, 16, 64, 10_000])
def test_the_loss_is_the_completions_through_to_the_rows(base, seq_len, monkeypatch):
    monkeypatch.setattr(encoder, "BATCH_BYTES", 100)
    run(config(shard_tokens=150, validation_fraction=0.3), base)
    tokenizer = Tokenizer.load(base / "out")
    assert len(read_manifest(base / "out").splits["train"].shards) > 3
    for split in ("train", "validation"):
        pairs = [pair for pair in PAIRS if split_of(pair) == split]
        stream, mask = expected(tokenizer, pairs)
        dataset = TokenDataset(base / "out", split, seq_len)
        batch = dataset.rows(range(dataset.num_rows))
        labels, loss_mask = batch["labels"].ravel(), batch["loss_mask"].ravel()
        assert labels[: len(stream)].tolist() == stream
        assert loss_mask[: len(mask)].tolist() == mask
        assert not loss_mask[len(mask) :].any()  # the padding
        assert dataset.num_tokens == len(stream)
        assert tokenizer.decode(labels[loss_mask]) == "".join(c + "<|endoftext|>" for _, c in pairs)


def test_batching_changes_nothing(base, monkeypatch):
    first = run(config(), base)
    monkeypatch.setattr(encoder, "BATCH_BYTES", 50)
    assert run(config(output="other"), base).manifest == first.manifest  # shard hashes included


def test_the_ledger_counts_the_bytes_of_all_parts(base):
    with (base / "pairs.jsonl").open("a") as file:
        file.write('\n{"prompt": "", "completion": ""}')
    ledger = run(config(), base).manifest.ledger
    assert ledger.bytes_written == sum(len("".join(pair).encode()) for pair in PAIRS)
    assert ledger.bytes_in == ledger.bytes_written + len('{"prompt": "", "completion": ""}')
    assert (ledger.documents_in, ledger.documents_written) == (len(PAIRS) + 1, len(PAIRS))
    assert ledger.rejected_by_reason == {"empty": 1}


def test_lm_joins_the_parts(base):
    run(config("lm"), base)
    tokenizer, dataset = Tokenizer.load(base / "out"), TokenDataset(base / "out", "train", 16)
    for index, pair in enumerate(PAIRS):
        assert dataset.document(index).tolist() == tokenizer.encode("".join(pair))
    with h5py.File(base / "out/train/00000.h5") as file:
        assert "loss_mask" not in file


def test_a_line_without_a_part_is_named(base):
    with (base / "pairs.jsonl").open("a") as file:
        file.write('\n{"prompt": "a", "answer": "b"}\n')
    place = rf"pairs\.jsonl:{len(PAIRS) + 1}: missing key: no key 'completion'; it has 'prompt', 'answer'"
    with pytest.raises(UserError, match=place):
        run(config(), base)
    assert not (base / "out").exists()


@pytest.mark.parametrize(
    "document",
    [
        Encoded(np.array([5, 0], np.uint32)),  # the mode says that there is a mask
        Encoded(np.array([5, 0], np.uint32), np.array([True])),
        Encoded(np.array([5, 0], np.uint32), np.array([0.5, 1.0])),
    ],
)
def test_a_mode_that_breaks_its_word_is_caught(base, monkeypatch, document):
    def encode(self, tokenizer, documents):
        return EncodedBatch.of([[document]] * len(documents))

    monkeypatch.setattr(PromptCompletionMode, "encode", encode)
    with pytest.raises((AssertionError, RuntimeError)):
        run(config(), base)
    assert not (base / "out").exists()


@pytest.mark.parametrize(
    ("reader", "found"),
    [
        ({"kind": "jsonl", "paths": "a"}, "reader.kind=jsonl have 1 here"),
        ({"kind": "jsonl", "paths": "a", "text_key": ["a", "b", "c"]}, "reader.kind=jsonl have 3 here"),
        ({"kind": "text", "paths": "a"}, "reader.kind=text have 1 here"),
    ],
)
def test_a_reader_of_other_parts_is_refused_before_the_run(reader, found):
    with pytest.raises(ValidationError) as caught:
        config(reader=reader)
    message = str(caught.value)
    assert "mode.kind: needs documents of 2 parts (prompt, completion), but those of " + found in message
    assert "use reader.kind=jsonl with a key for each part" in message
    assert "reader.text_key=[prompt, completion]" in message
    config("lm", reader=reader)


def test_the_refusal_names_the_line_beside_other_mistakes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: t\nreader:\n  kind: text\n  paths: a.txt\nmode:\n  kind: prompt_completion\n"
        "tokenizer: t.json\noutput: o\nshard_tokens: 0\n"
    )
    with pytest.raises(UserError) as caught:
        load_config(PreprocessConfig, str(path), [])
    assert "mine.yaml:6: mode.kind = 'prompt_completion'\n    needs documents of 2 parts" in str(caught.value)
    assert "mine.yaml:9: shard_tokens = 0" in str(caught.value)


def test_the_shipped_yaml():
    shipped = load_config(PreprocessConfig, "preprocess/prompt_completion", [])
    assert isinstance(shipped.mode, PromptCompletionMode)
    assert shipped.reader.text_key == shipped.mode.part_names
    assert isinstance(load_config(PreprocessConfig, "preprocess/python_stdlib", []).mode, LmMode)


def test_the_ledger_tells_what_a_limit_cut_off_and_left_out(base):
    """Through the whole road: pieces, refused documents and truncated bytes add up."""
    limit = {"max_tokens": 8, "policy": "split"}
    split = run(config(mode="lm", mode_options={"limit": limit}, output="split"), base).manifest.ledger
    assert split.bytes_written == split.bytes_in
    right = {"max_tokens": 8, "policy": "truncate_right"}
    cut = run(config(mode="lm", mode_options={"limit": right}, output="cut"), base).manifest.ledger
    assert 0 < cut.bytes_written < cut.bytes_in
    assert cut.bytes_written + cut.bytes_truncated == cut.bytes_in
    reject = {"max_tokens": 8, "policy": "reject"}
    left = run(
        config(mode="lm", mode_options={"limit": reject}, output="left", on_error="reject"), base
    ).manifest.ledger
    lengths = [len(small_tokenizer().encode("".join(pair))) + 1 for pair in PAIRS]
    assert left.rejected_by_reason == {"too long": sum(length > 8 for length in lengths)}
