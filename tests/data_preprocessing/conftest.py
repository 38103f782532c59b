"""Fixtures of the tests of the preprocessing."""

import pytest

from data_preprocessing import chunks, pipeline
from tests.data_preprocessing.corpus import write_corpus
from tests.samples import small_tokenizer


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A folder with a tokenizer and three files of LINES lines, some of them broken, empty or copies."""
    monkeypatch.setattr(chunks, "MIN_CHUNK_BYTES", 700)
    monkeypatch.setattr(chunks, "MAX_CHUNK_BYTES", 700)
    monkeypatch.setattr("data_preprocessing.streams.FRAME_BYTES", 200)
    monkeypatch.setattr("data_preprocessing.merge.RANGE_TOKENS", 1500)
    monkeypatch.setattr(pipeline, "SMALL_BYTES", 0)
    small_tokenizer().save(tmp_path / "tokenizer.json")
    write_corpus(tmp_path)
    return tmp_path
