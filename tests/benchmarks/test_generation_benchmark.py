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


def test_other_sizes_and_longer_texts(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    options = ["--size", "1x32x2", "--family", "gpt_neox", "--batch", "1", "--prompt", "600", "--new", "3"]
    monkeypatch.setattr(sys, "argv", ["generation", *options, "--rounds", "2", "--threads", "1", "--only", "ours"])
    generation.main()
    assert "gpt_neox 1x32x2, batch 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--size 8x512", "--size 8x512: expected one of tiny, 125M, or as 8x512x8: layers, hidden size, heads"),
        ("--size 1x36x3", "--size 1x36x3: expected heads of a multiple of 8 channels"),
        ("--size 0x32x2", "--size 0x32x2: expected heads"),
        ("--only our", "argument --only: invalid choice: 'our'"),
        ("--new 0", "argument --new: invalid positive value: '0'"),
        ("--rounds 1", "--rounds 1: expected at least 2"),
    ],
)
def test_what_cannot_be_honoured_is_refused(options: str, message: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["generation", *options.split(" ")])
    with pytest.raises(SystemExit, match="2"):
        generation.main()
    assert message in " ".join(capsys.readouterr().err.split())
