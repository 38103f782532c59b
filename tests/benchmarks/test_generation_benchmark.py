"""The benchmark of generation runs, compares tokens, and stops where they differ."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import generation
from modelzoo.model.inference import Inference

OPTIONS = ["--size", "tiny", "--family", "gptj", "--batch", "2", "--new", "4", "--rounds", "2", "--only"]
OPTIONS += ["ours", "ours, packed", "ours, packed, bf16"]


def test_measures_and_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["generation", *OPTIONS, "--threads", "1", "--json", str(figures)])
    generation.main()
    [case] = json.loads(figures.read_text())
    assert case["equal"]["ours"] == case["equal"]["ours, packed"] == 1
    assert case["equal"].keys() == {"transformers", "ours", "ours, packed", "ours, packed, bf16"}
    assert {len(seconds) for seconds in case["seconds"].values()} == {2}

    right = Inference.logits
    monkeypatch.setattr(Inference, "logits", lambda self, hidden: right(self, hidden).roll(1, -1))
    with pytest.raises(AssertionError, match="gptj tiny 2: ours: other tokens"):
        generation.main()
