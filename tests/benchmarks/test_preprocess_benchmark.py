"""The benchmark itself: it measures whole process trees, and says what differs or is missing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import preprocess
from benchmarks.process_tree import PROC, run
from tests.samples import small_tokenizer

ROOT = Path(__file__).resolve().parents[2]
needs_proc = pytest.mark.skipif(not PROC.is_dir(), reason="memory is read from /proc")


def test_measures_and_compares(tmp_path):
    """The bare peer needs `tokenizers` only, which is here; gpt-neox is not."""
    source, figures = tmp_path / "corpus.jsonl", tmp_path / "figures.json"
    source.write_text("".join(json.dumps({"text": f"the cat saw bird {i}\n"}) + "\n" for i in range(200)))
    small_tokenizer().save(tmp_path / "tokenizer.json")
    command = [
        sys.executable,
        "-m",
        "benchmarks.preprocess",
        "--input",
        source,
        "--json",
        figures,
        "--rounds",
        "1",
        "--patience",
        "0",
    ]
    command += ["--tokenizer", tmp_path / "tokenizer.json", "--only", "tokenizers, bare", "gpt-neox"]
    command += ["--ours", "validation_fraction=0"]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, bare, neox = json.loads(figures.read_text())["arms"]
    assert ours["num_tokens"] == bare["num_tokens"] > 200
    assert len(ours["seconds"]) == len(bare["seconds"]) == 1
    assert bare["ours_times"] == pytest.approx(bare["seconds"][0] / ours["seconds"][0])
    assert neox["note"].startswith("not")
    assert ours["command"][-1] == "validation_fraction=0"
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "tokens against" not in done.stdout


def test_a_peer_without_its_packages_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess, "_versions", lambda python, packages: {"datatrove": "1", "tokenizers": "1"})
    arms, _ = preprocess.peer_arms("python", {}, [])
    notes = {arm.label: arm.note for arm in arms}
    assert notes["datatrove"] == "not installed (orjson)"
    assert notes["tokenizers, bare"] == ""
    assert notes["gpt-neox"] == "not run (--gpt-neox DIR)"
    assert notes["ModelZoo"] == "not run (--cerebras-modelzoo DIR)"
    arms, _ = preprocess.peer_arms("python", {"cerebras_modelzoo": tmp_path}, ["--workers", "2"])
    [command] = [arm.command for arm in arms if arm.label == "ModelZoo"]
    assert command[1].endswith("cerebras_modelzoo_preprocess.py")
    assert command[2:] == ["--workers", "2", "--checkout", str(tmp_path)]


def test_other_counts_and_failures_are_told():
    ours = preprocess.Arm("modelzoo", [], len, seconds=[1.0, 2.0, 6.0], num_tokens=100, busy=[0.0, 0.5])
    other = preprocess.Arm("other", [], len, seconds=[4.0], num_tokens=98)
    failed = preprocess.Arm("third", [], len, note="failed with 1 after 2 s: " + "because " * 20)
    text = preprocess.table([ours, other, failed], 4_000_000)
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[1].split() == ["modelzoo", "2.00", "(1.00–6.00)", "2.00", "1.00", "n/a", "100"]
    assert text.splitlines()[2].split() == ["other", "4.00", "(4.00–4.00)", "1.00", "2.00", "n/a", "98"]
    told = list(preprocess.remarks([ours, other, failed]))
    assert told[0] == "other: -2 tokens against modelzoo."
    assert told[1].startswith("third failed with 1")
    assert told[2].startswith("1 of 2 timed runs began while others")


def test_parts_hold_every_line_once(tmp_path):
    lines = [f"{'x' * length}\n" for length in (1, 50, 3, 3, 70, 2, 9)]
    (tmp_path / "all").write_text("".join(lines))
    preprocess.split_in_parts(tmp_path / "all", tmp_path / "parts", 2)
    parts = [path.read_text() for path in sorted((tmp_path / "parts").iterdir())]
    assert "".join(parts) == "".join(lines)
    assert all(parts)


ORPHAN = """
import os, sys, time
read, write = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.setpgid(0, 0)
        block = bytearray(os.urandom(1)) * 80_000_000
        time.sleep(0.5)
        os.write(write, b"x")
        time.sleep(60)
    os._exit(0)
os.read(read, 1)
print("done")
"""


@needs_proc
def test_memory_counts_processes_whose_parent_has_ended_and_ends_them(tmp_path):
    measured = run([sys.executable, "-c", ORPHAN], {}, tmp_path, 30, sample_memory=True)
    assert (measured.returncode, measured.output) == (0, "done\n")
    assert 80e6 < measured.peak_bytes < 140e6
    assert 0.5 < measured.seconds < 20
    assert not [path for path in PROC.glob("[0-9]*/cmdline") if b"bytearray(os.urandom" in _read(path)]


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_run_that_takes_too_long_is_ended(tmp_path):
    measured = run([sys.executable, "-c", "import time; time.sleep(60)"], {}, tmp_path, 0.5, sample_memory=False)
    assert measured.returncode < 0
    assert measured.seconds < 20
    assert measured.peak_bytes is None
