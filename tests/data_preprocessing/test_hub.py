import json
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from data_preprocessing.readers import hub
from modelzoo.base_config import UserError
from tests.data_preprocessing.reading import read_files, reader, summary


class Rows(list):
    """Stands for a dataset that is streamed."""

    column_names: list[str] | None = None

    def select_columns(self, names):
        return Rows({name: row[name] for name in names} for row in self)


@pytest.fixture
def loader(monkeypatch):
    """Answers in place of the package datasets, and keeps what it was asked for."""
    asked = []

    def load_dataset(*args, **options):
        asked.append((*args, options))
        if options["split"] == "nothing":
            raise ValueError('Unknown split "nothing"')
        return Rows({"text": f"{options['split']} {i}", "other": object(), "n": i} for i in range(3))

    monkeypatch.setattr(hub, "_datasets", lambda: SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_rows_of_splits(loader, tmp_path):
    settings = {"kind": "hub", "dataset": "owner/name", "config": "en", "split": ["train", "test"], "revision": "v1"}
    items = read_files(tmp_path, **settings)
    assert summary(items)[2:4] == [
        ("hub:owner/name/en/train@v1:3", "train 2"),
        ("hub:owner/name/en/test@v1:1", "test 0"),
    ]
    assert loader[0] == ("owner/name", "en", {"split": "train", "revision": "v1", "streaming": True})
    assert [item.text for item in read_files(tmp_path, kind="hub", dataset="a/b", template="{n}: {text}")] == [
        "0: train 0", "1: train 1", "2: train 2",
    ]  # fmt: skip
    assert reader(kind="hub", dataset="a/b").files(tmp_path) == ["hub:a/b/train@newest"]


def test_what_is_no_text_is_rejected(monkeypatch, tmp_path):
    rows = Rows({"text": value} for value in ("a", b"b", b"\xff", object(), None, "", 3))
    monkeypatch.setattr(hub, "_datasets", lambda: SimpleNamespace(load_dataset=lambda *args, **options: rows))
    found = [text for _, text in summary(read_files(tmp_path, kind="hub", dataset="a/b"))]
    assert found == ["a", "b", *["[not a string]"] * 3, "[empty]", "[not a string]"]


def test_what_cannot_be_read(loader, tmp_path):
    with pytest.raises(UserError, match=r'hub:a/b/nothing@newest: ValueError: Unknown split "nothing"'):
        read_files(tmp_path, kind="hub", dataset="a/b", split="nothing")
    for wrong in ({"paths": "x"}, {"members": "x"}):
        with pytest.raises(ValidationError, match=r"not for reader\.kind=hub"):
            reader(kind="hub", dataset="a/b", **wrong)


def test_a_local_directory(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="the reader of hub datasets needs the package datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    lines = [json.dumps({"body": f"line {i}", "id": i}) for i in range(5)]
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(lines))
    items = read_files(tmp_path, kind="hub", dataset="set", text_key="body")
    assert [item.text for item in items] == [f"line {i}" for i in range(5)]
