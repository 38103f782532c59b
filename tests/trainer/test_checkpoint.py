"""Checkpoints: whole or not there, verified, without code in them."""

import errno
import json
import time
from types import SimpleNamespace

import pytest
import torch

from modelzoo.base_config import UserError
from modelzoo.launch import build_run
from modelzoo.trainer import checkpoint
from modelzoo.trainer.callbacks import checkpoint as checkpoint_callback
from modelzoo.trainer.checkpoint import damage, find_checkpoint, latest_checkpoint, read_tensors, write_checkpoint
from tests.runs import small_config


def write(run_dir, step, value=1.0):
    folder = checkpoint.step_folder(run_dir, step)
    write_checkpoint(folder, {"model": {"w": torch.full((3,), value)}}, {"state.json": json.dumps({"step": step})})
    return folder


def test_a_checkpoint_reads_back(tmp_path):
    folder = write(tmp_path, 7)
    assert damage(folder) is None
    assert torch.equal(read_tensors(folder, "model")["w"], torch.ones(3))
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "model.safetensors", "state.json"]
    assert [p.name for p in folder.parent.iterdir()] == ["step_00000007"]


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_a_flipped_byte_a_cut_and_a_missing_file_are_found(tmp_path, name):
    folder = write(tmp_path, 1)
    path, content = folder / name, (folder / name).read_bytes()
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:-1], b""):
        path.write_bytes(damaged)
        assert name in damage(folder)
    path.unlink()
    assert damage(folder) == f"{name} is missing"


def test_a_flipped_bit_anywhere_is_found_or_says_the_same(tmp_path):
    folder = write(tmp_path, 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    for path in folder.iterdir():
        content = path.read_bytes()
        for place in range(len(content)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
            if damage(folder) is None:  # white space of the manifest
                assert path.name == "manifest.json"
                assert json.loads(path.read_bytes()) == manifest
        path.write_bytes(content)
    assert damage(folder) is None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("model-00001-of-00001.safetensors", True),  # which would be read instead
        ("tokenizer.json", True),
        ("notes.txt", False),
    ],
)
def test_a_file_too_many_is_damage_where_it_would_be_read(tmp_path, name, found):
    folder = write(tmp_path, 1)
    (folder / name).write_bytes((folder / "model.safetensors").read_bytes())
    assert damage(folder) == (f"{name} is not listed in manifest.json, and would be read" if found else None)


def test_a_manifest_cannot_point_elsewhere(tmp_path):
    folder = write(tmp_path, 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    (tmp_path / "other").write_bytes((folder / "model.safetensors").read_bytes())
    manifest["files"]["../../other"] = manifest["files"]["model.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert damage(folder) == "manifest.json lists '../../other', which is no file of this folder"


def test_a_file_is_hashed_once_a_program_and_again_when_it_has_changed(tmp_path, monkeypatch):
    folder, hashed = write(tmp_path, 1), []
    digest = checkpoint.hashlib.file_digest
    monkeypatch.setattr(checkpoint.hashlib, "file_digest", lambda file, how: hashed.append(file) or digest(file, how))
    monkeypatch.setattr(checkpoint, "SETTLED_SECONDS", -1.0)
    assert damage(folder) is None
    assert damage(folder) is None
    assert len(hashed) == 2
    time.sleep(0.02)  # the clock of the file system
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-1] + b"x")
    assert "model.safetensors does not match" in damage(folder)


def test_one_that_was_being_replaced_is_put_back(tmp_path):
    folder = write(tmp_path, 1)
    folder.rename(folder.with_name(".step_00000001.replaced"))  # killed here
    assert latest_checkpoint(tmp_path) == (None, [])
    checkpoint.sweep(tmp_path)
    assert latest_checkpoint(tmp_path) == (folder, [])


def test_latest_is_the_newest_whole_one_and_says_what_is_wrong_with_the_others(tmp_path):
    write(tmp_path, 9)
    newest = write(tmp_path, 10)
    assert latest_checkpoint(tmp_path) == (newest, [])
    (newest / "model.safetensors").write_bytes(b"cut")
    folder, warnings = latest_checkpoint(tmp_path)
    assert folder.name == "step_00000009"
    assert len(warnings) == 1
    assert "step_00000010: model.safetensors does not match" in warnings[0]


def test_a_requested_checkpoint_that_is_damaged_or_missing_is_an_error(tmp_path):
    folder = write(tmp_path, 3)
    assert find_checkpoint(folder) == find_checkpoint(tmp_path) == folder
    (folder / "manifest.json").write_text("{")
    for path in (folder, tmp_path):
        with pytest.raises(UserError, match="manifest"):
            find_checkpoint(path)
    with pytest.raises(UserError, match="no such checkpoint"):
        find_checkpoint(tmp_path / "checkpoints" / "step_00000099")
    with pytest.raises(UserError, match=r"no checkpoint to be used"):
        find_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_and_says_so(tmp_path, monkeypatch, number):
    write(tmp_path, 1)

    def fail(*_):
        raise OSError(number, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_tensor_file", fail)
    with pytest.raises(UserError, match="no space left on the device for a checkpoint"):
        write(tmp_path, 2)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]


def test_any_other_failure_leaves_nothing_either(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_manifest", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 2)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_disk_too_small_for_a_checkpoint_is_noticed_before_training(dataset, tmp_path, monkeypatch):
    trainer = build_run(small_config(dataset, tmp_path))
    trainer.run_dir.mkdir(parents=True)
    monkeypatch.setattr(checkpoint_callback.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="0 MiB are free, a checkpoint takes"):
        trainer.train()
    assert trainer.step == 0


def test_what_a_killed_process_left_is_swept_and_never_taken_for_a_checkpoint(tmp_path):
    write(tmp_path, 1)
    for name in (".step_00000002.partial", ".step_00000001.removed"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert latest_checkpoint(tmp_path)[0].name == "step_00000001"
    checkpoint.sweep(tmp_path)
    write(tmp_path, 1, value=2.0)  # the same step again
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]
    assert torch.equal(read_tensors(latest_checkpoint(tmp_path)[0], "model")["w"], torch.full((3,), 2.0))


def test_a_checkpoint_of_another_format_is_refused(tmp_path):
    folder = write(tmp_path, 1)
    assert damage(folder) is None
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
    (folder / checkpoint.MANIFEST).write_text(json.dumps(manifest | {"format_version": 1}))
    with pytest.raises(UserError, match="format_version 1, and this version of modelzoo reads 2"):
        find_checkpoint(folder)
