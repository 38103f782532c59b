"""A run that was killed goes on: with what was done, if it is whole and of the same content, and to the same bytes."""

import multiprocessing
import os
import pkgutil
import signal
import sys
import time
from pathlib import Path

import pytest

from data_preprocessing import chunks
from data_preprocessing.modes.lm import LmMode
from data_preprocessing.pipeline import run
from tests.data_preprocessing.corpus import config, files_of
from tests.samples import small_tokenizer

EVENTS = (
    "data_preprocessing.encoder.write_spill",
    "data_preprocessing.merge.write_shard",
    "data_preprocessing.pipeline.write_manifest",
    "data_preprocessing.pipeline.os.rename",
    "data_preprocessing.pipeline.shutil.rmtree",
)
"""What changes the disk: before and after each of them a run may be killed."""


def run_until(base, event, number, count):
    """In a process of its own: run, and kill it at the event of this number, wherever it comes from."""
    main = os.getpid()
    patch = pytest.MonkeyPatch()
    for name in EVENTS:
        act = pkgutil.resolve_name(name)

        def killing(*args, act=act, **kwargs):
            for moment in (lambda: None, lambda: act(*args, **kwargs)):
                moment()
                with count.get_lock():
                    count.value += 1
                    if count.value == event:
                        os.kill(main, signal.SIGKILL)
                        time.sleep(60)

        patch.setattr(name, killing)
    run(config(workers=number), base)


@pytest.mark.parametrize("number", [1, 2])
def test_killed_anywhere_and_run_again(base, number):
    """SIGKILL before or after any write, from the first chunk to the last clean-up, and each time the run goes on."""
    run(config(workers=1, output="whole"), base)
    context = multiprocessing.get_context("fork")
    killed, step = 0, 1
    for step in range(1, 60):
        # the first run dies at event 1, the next one, which has less to do, at event 2 of its own …
        process = context.Process(target=run_until, args=(base, step, number, context.Value("i", 0)))
        process.start()
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        if (base / "out").exists():
            assert files_of(base / "out") == files_of(base / "whole")  # whole whenever it is there
        if process.exitcode == 0:
            break
        killed += 1
    assert killed > 8
    assert not (base / "out.partial").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_workers_of_a_killed_run_end(base):
    children = multiprocessing.get_context("fork").Queue()

    def target():
        encode = LmMode.encode

        def slow(self, *args):
            children.put(os.getpid())
            time.sleep(30)
            return encode(self, *args)

        pytest.MonkeyPatch().setattr(LmMode, "encode", slow)
        run(config(workers=2), base)

    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    pids = [children.get(timeout=30) for _ in range(2)]
    process.kill()
    process.join()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "orphans"
        time.sleep(0.05)


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_what_is_done_is_not_done_again(base, monkeypatch):
    calls = []
    encode = LmMode.encode
    monkeypatch.setattr(LmMode, "encode", lambda self, *args: calls.append(1) or encode(self, *args))
    monkeypatch.setattr("data_preprocessing.merge.Merger.write", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(config(workers=1), base)
    before = len(calls)
    monkeypatch.undo()
    monkeypatch.setattr(LmMode, "encode", lambda self, *args: calls.append(1) or encode(self, *args))
    for path in sorted((base / "out.partial/chunks").iterdir())[:2]:  # damage is noticed
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
    patch = pytest.MonkeyPatch()
    for name in ("MIN_CHUNK_BYTES", "MAX_CHUNK_BYTES"):
        patch.setattr(chunks, name, 700)
    patch.setattr("data_preprocessing.streams.FRAME_BYTES", 200)
    run(config(workers=1), base)
    patch.undo()
    assert 0 < len(calls) - before <= 2 < before


@pytest.mark.parametrize("change", ["input", "mode", "tokenizer"])
def test_leftovers_of_other_content_are_not_used(base, change, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("data_preprocessing.merge.Merger.write", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(config(workers=1), base)
    settings = {}
    if change == "input":
        text = (base / "b.jsonl").read_text(encoding="utf-8")
        (base / "b.jsonl").write_text(text.replace("cat", "dog"), encoding="utf-8")
    elif change == "mode":
        settings = {"normalization": "nfc", "validation_fraction": 0.3}
    else:
        small_tokenizer(265).save(base / "tokenizer.json")
    run(config(workers=1, **settings), base)
    run(config(workers=1, output="fresh", **settings), base)
    assert files_of(base / "out") == files_of(base / "fresh")
