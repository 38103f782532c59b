"""What fails while a run goes on: the document, file or cause is named, and no output is left."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from data_preprocessing.inputs import InputReader
from data_preprocessing.modes.lm import LmMode
from data_preprocessing.pipeline import run
from data_preprocessing.tasks import Task
from modelzoo.base_config import UserError
from tests.data_preprocessing.corpus import config, files_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def forks(monkeypatch):
    """Workers are forks, and so have what a test has planted: threads that other tests have left are asleep."""
    monkeypatch.setattr("data_preprocessing.workers.threading.active_count", lambda: 1)


def break_mode(monkeypatch, act):
    encode = LmMode.encode

    def broken(self, tokenizer, documents):
        if any("planted" in document.text for document in documents):
            act()
        return encode(self, tokenizer, documents)

    monkeypatch.setattr(LmMode, "encode", broken)


def planted(base):
    """A document of its own among the others; its line."""
    path = base / "b.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")
    lines.insert(20, json.dumps({"text": "planted"}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return lines.index(json.dumps({"text": "planted"})) + 1


@pytest.mark.usefixtures("forks")
@pytest.mark.parametrize("number", [1, 2])
def test_a_mode_that_fails_names_the_document(base, monkeypatch, number):
    line = planted(base)
    break_mode(monkeypatch, lambda: 1 / 0)
    with pytest.raises(RuntimeError, match=rf"b\.jsonl:{line}: the program failed here\n[^$]*ZeroDivisionError"):
        run(config(workers=number), base)
    assert not (base / "out").exists()


@pytest.mark.usefixtures("forks")
def test_a_worker_that_dies_names_where(base, monkeypatch):
    line = planted(base)
    break_mode(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(
        UserError, match=r"b\.jsonl:(\d+): a worker died \(killed by signal SIGKILL\) between here and b"
    ) as e:
        run(config(workers=2), base)
    first, last = (int(number) for number in re.findall(r"b\.jsonl:(\d+)", str(e.value)))
    assert first <= line <= last + 40
    assert not (base / "out").exists()


def test_stop_names_the_first_in_reading_order(base):
    lines = {name: (base / f"{name}.jsonl").read_text(encoding="utf-8").split("\n") for name in "abc"}
    first = next(n for n, line in enumerate(lines["a"], 1) if line in ("{", '{"text": 3}'))
    for number in (1, 3):
        with pytest.raises(UserError, match=rf"^a\.jsonl:{first}: not "):
            run(config(workers=number, on_error="stop"), base)


def test_workers_that_cannot_start_are_told_of(base):
    """A script without `if __name__ == "__main__"` runs itself again in each spawned worker."""
    script = base / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
        "from data_preprocessing import pipeline, workers\n"
        "from tests.data_preprocessing.corpus import config\n"
        "workers.sys.platform, pipeline.SMALL_BYTES = 'darwin', 0\n"
        f"pipeline.run(config(workers=2), Path({str(base)!r}))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "a worker died (exit code 1)" in done.stderr


@pytest.mark.parametrize("number", [1, 3])
def test_what_is_broken_beyond_a_limit_stops_nothing(base, number):
    settings = {"on_error": "stop", "max_documents": 3, "deduplication": None}
    (base / "a.jsonl").write_text("".join(json.dumps({"text": f"good {i}"}) + "\n" for i in range(90)))
    (base / "b.jsonl").write_text("broken\n" * 90)
    with (base / "a.jsonl").open("r+") as file:  # in the chunk of the limit itself
        lines = file.readlines()
        file.seek(0)
        file.writelines([*lines[:4], "broken\n", *lines[4:]])
    manifest = run(config(workers=number, **settings, validation_fraction=0.0), base).manifest
    assert manifest.ledger.documents_in == 3
    for index in range(2):
        other = config(workers=1, output="tasks", **settings, validation_fraction=0.0)
        run(other, base, task=Task(index, 2))
    run(other, base, merge_tasks=True)
    assert files_of(base / "out") == files_of(base / "tasks")


def test_a_mode_that_fails_beyond_a_limit_stops_nothing(base, monkeypatch):
    (base / "a.jsonl").write_text("".join(json.dumps({"text": f"good {i}"}) + "\n" for i in range(90)))
    planted(base)
    break_mode(monkeypatch, lambda: 1 / 0)
    settings = {"max_documents": 3, "deduplication": None, "validation_fraction": 0.0}
    assert run(config(workers=3, **settings), base).manifest.ledger.documents_written == 3


@pytest.mark.parametrize(
    "change", [lambda text: text + '{"text": "more"}\n', lambda text: text[: text.index("\n") + 1]]
)
def test_a_file_that_changes_while_it_is_read_stops_the_run(base, monkeypatch, change):
    size = InputReader.__init__

    def then_change(self, *args):
        size(self, *args)
        path = base / "c.jsonl"
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    monkeypatch.setattr(InputReader, "__init__", then_change)
    with pytest.raises(UserError, match=r"c\.jsonl: changed while it was read \([\d,]+ bytes at first, then [\d,]+\)"):
        run(config(workers=1), base)


@pytest.mark.usefixtures("forks")
def test_a_disk_that_is_full_for_a_chunk(base, monkeypatch):
    def full(arrays, path, metadata):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("data_preprocessing.spill.save_file", full)
    for number in (1, 2):
        with pytest.raises(UserError, match="no space left on the device"):
            run(config(workers=number), base)


@pytest.mark.parametrize("output", ["", ".", "/", ".."])
def test_an_output_without_a_name_is_refused(output):
    with pytest.raises(UserError, match="expected the path of a directory to write"):
        run(config(output=output))
