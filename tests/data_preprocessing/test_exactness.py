"""The same bytes for any number of workers, tasks and interruptions, and an account that adds up."""

import json
import multiprocessing
import os
import pkgutil
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from data_preprocessing import chunks, pipeline, workers
from data_preprocessing.config import PreprocessConfig
from data_preprocessing.encoder import split_of
from data_preprocessing.inputs import InputReader
from data_preprocessing.modes.lm import LmMode
from data_preprocessing.pipeline import run
from data_preprocessing.tasks import Task
from modelzoo.base_config import UserError
from modelzoo.data.dataset import TokenDataset
from modelzoo.data.schema import read_manifest
from modelzoo.tokenizer import Tokenizer
from tests.samples import TRICKY, small_tokenizer

ROOT = Path(__file__).parents[2]
LINES = 240
EVERYTHING = {
    "validation_fraction": 0.2,
    "shuffle_seed": 7,
    "deduplication": {"kind": "exact"},
    "on_error": "reject",
    "shard_tokens": 500,
    "tokenizer_backend": "tokenizers",
}


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


def write_corpus(folder, names=("a", "b", "c")):
    draw = random.Random(3)
    for name in names:
        lines = []
        for number in range(LINES // len(names)):
            own = f"{name} {number} " + "the cat " * draw.randrange(12)
            text = own if draw.random() < 0.8 else draw.choice([*TRICKY[1:], "a copy", "again"])
            lines.append(draw.choice([json.dumps({"text": text})] * 9 + ["", "{", '{"text": 3}']))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def config(**settings):
    reader = {"kind": "jsonl", "paths": ["a.jsonl", "b.jsonl", "c.jsonl"]}
    given = {"name": "t", "reader": reader, "tokenizer": "tokenizer.json", "output": "out", **EVERYTHING, **settings}
    return PreprocessConfig.model_validate(given)


def files_of(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


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


def documents_of(path, split):
    tokenizer, dataset = Tokenizer.load(path), TokenDataset(path, split, 16)
    return [tokenizer.decode(dataset.document(i)) for i in range(dataset.num_documents)]


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


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("many_lots", [True, False])
def test_tasks_that_merge_give_the_same(base, count, many_lots, monkeypatch):
    if not many_lots:  # one lot: tasks share its chunks instead
        monkeypatch.setattr(pipeline, "lots", lambda inputs, size: chunks.lots(inputs, 10**9))
    run(config(workers=1), base)
    for index in reversed(range(count)):
        with pytest.raises(UserError, match=r"no task has ended|tasks have not ended: --task"):
            run(config(workers=1, output="other"), base, merge_tasks=True)
        assert run(config(workers=1, output="other"), base, task=Task(index, count)).manifest is None
    run(config(workers=1, output="other"), base, merge_tasks=True)
    assert files_of(base / "out") == files_of(base / "other")
    assert not (base / "other.partial").exists()


def test_tasks_of_other_settings_do_not_merge(base):
    run(config(workers=1), base, task=Task(0, 2))
    run(config(workers=1, shuffle_seed=8), base, task=Task(1, 2))
    with pytest.raises(UserError, match=r"1-of-2\.json:\n  settings\.shuffle_seed: 8 there, 7 here"):
        run(config(workers=1), base, merge_tasks=True)


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


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("limit", [{"max_documents": 37}, {"max_bytes": 1900}, {"max_tokens": 801}])
def test_limits_take_a_prefix(base, number, limit):
    settings = {"deduplication": None, "shuffle_seed": None, "validation_fraction": 0.0}
    run(config(workers=1, output="all", **settings), base)
    whole = documents_of(base / "all", "train")
    manifest = run(config(workers=number, **settings, **limit), base).manifest
    some = documents_of(base / "out", "train")
    assert 0 < len(some) < len(whole)
    assert some == whole[: len(some)]
    tokenizer = small_tokenizer()
    sizes = {
        "max_documents": [1] * len(some),
        "max_bytes": [len(text.encode()) for text in some],
        "max_tokens": [len(tokenizer.encode(text)) + 1 for text in some],
    }
    ((name, most),) = limit.items()
    assert sum(sizes[name][:-1]) < most <= sum(sizes[name])
    assert manifest.ledger.documents_written == len(some)
    run(config(workers=number + 1, output="again", **settings, **limit), base)
    assert files_of(base / "out") == files_of(base / "again")
    assert run(config(workers=1, **settings, **limit), base).already_done


def test_sources_have_limits_and_accounts_of_their_own(base):
    sources = {
        "first": {"reader": {"kind": "jsonl", "paths": "a.jsonl"}, "max_documents": 9},
        "second": {"reader": {"kind": "jsonl", "paths": "b.jsonl"}},
        "third": {"reader": {"kind": "jsonl", "paths": "c.jsonl"}, "fraction": 0.5},
    }
    settings = {"reader": None, "sources": sources, "deduplication": None}
    manifest = run(config(workers=1, **settings), base).manifest
    run(config(workers=3, output="other", **settings), base)
    assert files_of(base / "out") == files_of(base / "other")
    ledger = read_manifest(base / "out").ledger
    assert ledger == manifest.ledger
    assert ledger.sources["first"].documents_written == 9
    assert ledger.sources["second"].documents_written > 50
    third = ledger.sources["third"]
    assert 0 < ledger.documents_left_out < third.documents_in
    assert 15 < third.documents_written < 50


def test_fraction_is_of_documents_and_stable(base):
    settings = {"deduplication": None, "shuffle_seed": None, "validation_fraction": 0.0}
    run(config(workers=1, output="half", fraction=0.5, **settings), base)
    run(config(workers=1, output="more", fraction=0.7, **settings), base)
    run(config(workers=1, output="all", **settings), base)
    half, more, whole = (documents_of(base / name, "train") for name in ("half", "more", "all"))
    assert set(half) < set(more) < set(whole)
    assert [text for text in whole if text in set(half)] == half


def test_workers_that_cannot_start_are_told_of(base):
    """A script without `if __name__ == "__main__"` runs itself again in each spawned worker."""
    script = base / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
        "from data_preprocessing import pipeline, workers\n"
        "from tests.data_preprocessing.test_exactness import config\n"
        "workers.sys.platform, pipeline.SMALL_BYTES = 'darwin', 0\n"
        f"pipeline.run(config(workers=2), Path({str(base)!r}))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "a worker died (exit code 1)" in done.stderr


def test_tasks_that_saw_other_files_do_not_merge(base):
    def task(number):
        run(config(workers=1), base, task=Task(number, 2))

    def merge():
        run(config(workers=1), base, merge_tasks=True)

    def edit(name, change):
        path = base / name
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")

    task(0)
    edit("b.jsonl", lambda text: text.replace("cat", "dog"))  # as long as before
    task(1)
    with pytest.raises(UserError, match=r"b\.jsonl: changed between one task and the next; run all tasks again"):
        merge()
    task(0)
    edit("c.jsonl", lambda text: text + '{"text": "more"}\n')
    with pytest.raises(UserError, match=r"0-of-2\.json:\n  files\..*c\.jsonl: \d+ there, \d+ here"):
        merge()
    task(0)
    task(1)
    merge()
    run(config(workers=1, output="plain"), base)
    assert files_of(base / "out") == files_of(base / "plain")


def test_another_number_of_tasks_says_what_to_delete(base):
    run(config(workers=1), base, task=Task(0, 3))
    for number in range(2):
        run(config(workers=1), base, task=Task(number, 2))
    with pytest.raises(UserError, match=r"different numbers of tasks \(0-of-2, 0-of-3, 1-of-2\); delete those"):
        run(config(workers=1), base, merge_tasks=True)
    (base / "out.partial/tasks/0-of-3.json").unlink()
    assert run(config(workers=1), base, merge_tasks=True).manifest


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
