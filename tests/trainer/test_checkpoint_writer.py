"""Saving beside the steps: a snapshot that later steps do not reach, several ranks, and errors that are not lost."""

import json
import math
import subprocess
import threading
from types import SimpleNamespace

import pytest
import torch

from modelzoo.base_config import UserError
from modelzoo.launch import build_run
from modelzoo.trainer import checkpoint_writer
from modelzoo.trainer.bad_updates import BadUpdateError
from modelzoo.trainer.callbacks.base import Callback
from modelzoo.trainer.checkpoint import checkpoints_of, damage, latest_checkpoint, read_tensors, step_folder
from modelzoo.trainer.checkpoint_writer import CheckpointWriter, owners
from tests.runs import small_config

STATE = {"state.json": "{}\n"}


def rank(number, num_ranks):
    """Stands for the mesh of a rank whose threads alone are looked at."""
    return SimpleNamespace(
        rank=number,
        num_ranks=num_ranks,
        is_main=number == 0,
        from_main=lambda make: "token",
        any=lambda flag: flag,
        of_all=lambda value: [value],
    )


def writer_of(number=0, num_ranks=1, asynchronous=True):
    return CheckpointWriter(rank(number, num_ranks), asynchronous)


@pytest.fixture
def held(monkeypatch):
    """Writing waits until this is set."""
    event = threading.Event()
    write_files = checkpoint_writer.write_files

    def wait(*arguments):
        assert event.wait(10)
        return write_files(*arguments)

    monkeypatch.setattr(checkpoint_writer, "write_files", wait)
    yield event
    event.set()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("again", [1, 2])
def test_the_snapshot_is_a_copy(tmp_path, held, again):
    writer, weight = writer_of(), torch.zeros(3, 4).t()
    for step in range(again):  # the buffers serve again
        held.clear()
        folder = step_folder(tmp_path, step)
        writer.save(folder, {"model": [("w", weight)]}, {"cpu": torch.zeros(1)}, STATE)
        weight.add_(1)  # as the optimizer does, in place
        assert not folder.exists()
        held.set()
        writer.settle(wait=True)
        assert damage(folder) is None
        assert torch.equal(read_tensors(folder, "model")["w"], torch.full((4, 3), float(step)))


def test_a_save_waits_for_the_one_before(tmp_path, held):
    writer = writer_of()
    writer.save(step_folder(tmp_path, 1), {"model": [("w", torch.ones(3))]}, {}, STATE)
    threading.Timer(0.2, held.set).start()
    writer.save(step_folder(tmp_path, 2), {"model": [("w", torch.ones(3))]}, {}, STATE)
    assert damage(step_folder(tmp_path, 1)) is None
    writer.settle(wait=True)
    assert damage(step_folder(tmp_path, 2)) is None


def test_an_error_in_the_thread_is_raised_at_the_next_step_and_nothing_stays(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "write_files", fail)
    writer = writer_of()
    writer.save(step_folder(tmp_path, 1), {"model": [("w", torch.ones(3))]}, {}, STATE)
    writer._thread.join()
    with pytest.raises(UserError, match="no space left on the device for a checkpoint of 0 MiB"):
        writer.settle(wait=False)
    assert names(tmp_path / "checkpoints") == []
    writer.settle(wait=True)  # and is raised once


def test_every_tensor_has_one_owner_and_none_much_more_to_write_than_another():
    sizes = {f"layer{i}": 1000 + i for i in range(10)} | {"embedding": 9000, "bias": 4}
    for num_ranks in (1, 2, 3, 4, 20):
        by_rank = owners(sizes, num_ranks)
        assert sorted(name for names in by_rank for name in names) == sorted(sizes)
        assert by_rank == owners(dict(reversed(sizes.items())), num_ranks)
        loads = [sum(sizes[name] for name in names) for names in by_rank]
        assert max(loads) <= max(9000, sum(sizes.values()) / num_ranks + 1010)


def save_on(ranks, folder, tensors, only=None):
    """Save on several ranks of one process; each has every tensor whole."""
    writers = [writer_of(number, ranks) for number in range(ranks)]
    for number, writer in enumerate(writers):
        if number in (only or range(ranks)):
            writer.save(folder, {"model": tensors.items(), "optimizer": [("step/w0", torch.tensor(7.0))]}, {}, STATE)
    return writers


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_ranks_write_files_that_any_reader_reads(tmp_path, order):
    tensors = {f"w{i}": torch.randn(50 + i, 2) for i in range(7)}
    folder = step_folder(tmp_path, 3)
    writers = save_on(3, folder, tensors)
    for number in order:
        writers[number].settle(wait=True)
    assert names(folder) == [
        "manifest.json",
        *(f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
        "optimizer.safetensors",  # of one tensor
        "random.safetensors",
        "state.json",
    ]
    assert damage(folder) is None
    read = read_tensors(folder, "model")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], value) for name, value in tensors.items())


def test_a_checkpoint_that_a_rank_has_no_part_in_does_not_appear(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_writer, "PATIENCE_SECONDS", 0.2)
    main, _ = save_on(2, step_folder(tmp_path, 3), {"w": torch.ones(3), "v": torch.ones(3)}, only=[0])
    with pytest.raises(RuntimeError, match=r"the ranks \[1\] have stopped writing"):
        main.settle(wait=True)
    assert names(tmp_path / "checkpoints") == []


def test_synchronous_and_asynchronous_saves_are_the_same_files(dataset, tmp_path):
    manifests = []
    for asynchronous in (True, False):
        extra = ["model.dropout=0.1", f"callbacks.checkpoint.asynchronous={asynchronous}"]
        trainer = build_run(small_config(dataset, tmp_path / str(asynchronous), *extra))
        trainer.run_dir.mkdir(parents=True)
        trainer.train()
        folders = checkpoints_of(trainer.run_dir)
        assert [damage(folder) for folder in folders] == [None, None]
        files = [json.loads((folder / "manifest.json").read_text())["files"] for folder in folders]
        # config.yaml says which of the two it was, state.json how long it took
        manifests.append([{n: file for n, file in each.items() if n.endswith("tensors")} for each in files])
    assert manifests[0] == manifests[1]


def test_a_run_that_ends_with_an_error_completes_its_save(dataset, tmp_path, held):
    class Spoil(Callback):
        def on_step_end(self, trainer):
            if trainer.step == 4:
                loss = trainer.model.loss
                trainer.model.loss = lambda **part: (loss(**part)[0] * math.nan, 1)
                threading.Timer(0.3, held.set).start()

    trainer = build_run(small_config(dataset, tmp_path))
    trainer.run_dir.mkdir(parents=True)
    trainer.callbacks["spoil"] = Spoil()
    with pytest.raises(BadUpdateError):
        trainer.train()
    assert names(trainer.run_dir / "checkpoints") == ["step_00000004"]
    assert latest_checkpoint(trainer.run_dir)[1] == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        permitted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        permitted = False
    if not permitted:
        pytest.skip("this user may not mount a small tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_full_disk_ends_the_run_and_leaves_what_was_saved(dataset, small_disk, asynchronous):
    keep = ["callbacks.checkpoint.keep_last=null", "callbacks.checkpoint.every_steps=2"]
    config = small_config(dataset, small_disk, *keep, f"callbacks.checkpoint.asynchronous={asynchronous}")
    trainer = build_run(config)
    trainer.run_dir.mkdir(parents=True)
    with pytest.raises(UserError, match="no space left on the device for a checkpoint of 0 MiB"):
        trainer.train()
    assert trainer.step < trainer.total_steps
    assert names(trainer.run_dir / "checkpoints") == [folder.name for folder in checkpoints_of(trainer.run_dir)] != []
    assert latest_checkpoint(trainer.run_dir)[1] == []
