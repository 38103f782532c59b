"""The same bytes for any number of workers, however the work is cut, and an account that adds up."""

import json

import numpy as np
import pytest

from data_preprocessing import workers
from data_preprocessing.encoder import split_of
from data_preprocessing.pipeline import run
from tests.data_preprocessing.corpus import config, documents_of, files_of
from tests.samples import small_tokenizer


def expected_documents(base):
    """What should be written, in reading order, by other code than the program's."""
    texts = []
    for name in ("a", "b", "c"):
        for line in (base / f"{name}.jsonl").read_text(encoding="utf-8").split("\n"):
            try:
                text = json.loads(line)["text"]
            except (ValueError, KeyError):
                continue
            if isinstance(text, str) and text and text not in texts:
                texts.append(text)
    return texts


def test_every_document_is_written_once_shuffled(base):
    manifest = run(config(workers=1), base).manifest
    expected = expected_documents(base)
    for split in ("train", "validation"):
        written = documents_of(base / "out", split)
        in_order = [text for text in expected if split_of(text, 0.2) == split]
        assert sorted(written) == sorted(in_order)
        assert written != in_order
    assert len(manifest.splits["train"].shards) > 3
    before = [place for place, text in enumerate(expected) if split_of(text, 0.2) == "train"]
    train = documents_of(base / "out", "train")
    places = np.argsort([train.index(expected[place]) for place in before])
    assert abs(np.corrcoef(places, np.arange(len(places)))[0, 1]) < 0.3  # far across chunks, not within them


def test_the_account_adds_up_and_lists_every_rejected_document(base):
    ledger = run(config(workers=1), base).manifest.ledger
    lines = [
        (f"{name}.jsonl", number, line)
        for name in ("a", "b", "c")
        for number, line in enumerate((base / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")[:-1], 1)
    ]
    assert ledger.documents_in == len(lines) == ledger.documents_written + ledger.documents_rejected
    assert ledger.documents_written == len(expected_documents(base))
    listed = [json.loads(line) for line in (base / "out/rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(listed) == ledger.documents_rejected
    by_place = {(file, number): line for file, number, line in lines}
    reasons = {"": "empty", "{": "not JSON", '{"text": 3}': "not a string"}
    seen = set()
    for entry in listed:
        line = by_place[entry["file"], entry["number"]]
        assert entry["reason"] == reasons.get(line, "duplicate")
    for file, number, line in lines:  # and each line is where it belongs
        rejected = any((entry["file"], entry["number"]) == (file, number) for entry in listed)
        assert rejected == (line in reasons or line in seen)
        seen.add(line)
    places = [(entry["file"], entry["number"]) for entry in listed]
    assert places == sorted(places)
    tokenizer = small_tokenizer()
    tokens = sum(len(tokenizer.encode(text)) for text in expected_documents(base))
    assert ledger.tokens_written == tokens + ledger.pieces_written


def test_a_planted_loss_is_noticed(base, monkeypatch):
    from data_preprocessing.merge import Merger

    blocks = Merger._blocks
    monkeypatch.setattr(
        Merger, "_blocks", lambda *a, **k: (block.split(len(block[0]) - 1)[0] for block in blocks(*a, **k))
    )
    with pytest.raises(AssertionError, match=r"ledger\.pieces_written"):
        run(config(workers=1), base)
    assert not (base / "out").exists()


@pytest.mark.parametrize("number", [2, 3, 5])
def test_workers_change_nothing(base, number):
    run(config(workers=1), base)
    run(config(workers=number, output="other"), base)
    assert files_of(base / "out") == files_of(base / "other")


def test_spawned_workers_change_nothing(base, monkeypatch):
    run(config(workers=1), base)
    monkeypatch.setattr(workers.sys, "platform", "darwin")
    run(config(workers=2, output="other"), base)
    assert files_of(base / "out") == files_of(base / "other")


def test_ranges_and_batches_change_nothing(base, monkeypatch):
    run(config(workers=1), base)
    monkeypatch.setattr("data_preprocessing.merge.RANGE_TOKENS", 10**9)
    monkeypatch.setattr("data_preprocessing.encoder.BATCH_BYTES", 1)
    run(config(workers=1, output="other"), base)
    assert files_of(base / "out") == files_of(base / "other")
