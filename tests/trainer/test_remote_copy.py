"""Checkpoints on another file system: whole or not counted, and a run that goes on from them."""

import shutil

import fsspec
import pytest
import torch

from modelzoo.base_config import UserError
from modelzoo.launch import build_run, resume
from modelzoo.trainer.callbacks import checkpoint as checkpoint_callback
from modelzoo.trainer.checkpoint import checkpoints_of, damage, step_of
from modelzoo.trainer.remote_copy import RemoteCopy, require_copied
from tests.runs import small_config


@pytest.fixture(params=["memory://bucket/runs", "folder"])
def url(request, tmp_path):
    yield str(tmp_path / "remote") if request.param == "folder" else request.param
    fsspec.filesystem("memory").store.clear()


def config_of(dataset, tmp_path, url, *extra):
    keep = [f"callbacks.checkpoint.copy_to={url}", "callbacks.checkpoint.keep_last=2", "schedule=constant"]
    return small_config(dataset, tmp_path / "runs", *keep, *extra)


def launch(config):
    trainer = build_run(config)
    folder, notes = resume(trainer, config)
    trainer.run_dir.mkdir(parents=True, exist_ok=True)
    return trainer, folder, notes


def test_a_run_goes_on_from_the_copy_where_it_has_no_checkpoint(dataset, tmp_path, url):
    first, *_ = launch(config_of(dataset, tmp_path, url))
    first.train()
    copies = RemoteCopy(url, "gptj_tiny")
    assert copies.steps() == [8, 12]
    assert all(copies.holds(folder) for folder in checkpoints_of(first.run_dir))

    shutil.rmtree(first.run_dir)
    again, folder, notes = launch(config_of(dataset, tmp_path, url, "trainer.max_steps=14"))
    assert (again.step, damage(folder)) == (12, None)
    assert f"step_00000012 is fetched from {url}" in notes
    assert all(torch.equal(v, again.model.state_dict()[k]) for k, v in first.model.state_dict().items())
    again.train()
    assert copies.steps() == [12, 14]


def damage_copy(url, name, how):
    files, root = fsspec.core.url_to_fs(url)
    path = f"{root}/gptj_tiny/checkpoints/{name}"
    if how == "damaged":
        files.pipe_file(path, b"cut")
    else:
        files.rm(path)


def test_a_damaged_copy_is_passed_over_and_an_unfinished_one_does_not_count(dataset, tmp_path, url):
    first, *_ = launch(config_of(dataset, tmp_path, url, "callbacks.checkpoint.keep_last=3"))
    first.train()
    shutil.rmtree(first.run_dir)
    damage_copy(url, "step_00000012/manifest.json", "missing")
    damage_copy(url, "step_00000008/optimizer.safetensors", "damaged")
    again, _, notes = launch(config_of(dataset, tmp_path, url))
    assert again.step == 4
    assert any("step_00000008: optimizer.safetensors does not match its sha256" in note for note in notes)
    assert [step_of(folder.name) for folder in checkpoints_of(again.run_dir)] == [4]

    shutil.rmtree(again.run_dir)
    damage_copy(url, "step_00000004/model.safetensors", "missing")
    with pytest.raises(UserError, match="every checkpoint of this run is damaged"):
        launch(config_of(dataset, tmp_path, url))


def test_the_newer_of_here_and_there_is_taken(dataset, tmp_path, url):
    first, *_ = launch(config_of(dataset, tmp_path, url))
    first.train()
    shutil.rmtree(first.run_dir / "checkpoints" / "step_00000012")
    _, folder, _ = launch(config_of(dataset, tmp_path, url))
    assert folder.name == "step_00000012"
    _, _, notes = launch(config_of(dataset, tmp_path, url))
    assert not any("fetched" in note for note in notes)


def test_a_copy_that_fails_is_tried_again_and_at_the_end_an_error(dataset, tmp_path, url, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint_callback, "PAUSES_SECONDS", (0.0, 0.0))
    copy, failing = RemoteCopy.copy, [3]

    def fail(self, folder):
        failing[0] -= 1
        if failing[0] >= 0:
            raise ConnectionError("no route")
        copy(self, folder)

    monkeypatch.setattr(RemoteCopy, "copy", fail)
    trainer, *_ = launch(config_of(dataset, tmp_path, url))
    trainer.train()  # at steps 4, 8 and 12, and once more at the end
    assert "step_00000008 is not copied" in (told := capsys.readouterr().err)
    assert "ConnectionError: no route; it is tried again at the next save" in told
    assert RemoteCopy(url, "gptj_tiny").steps() == [8, 12]

    failing[0] = 1000
    at_once = "callbacks.checkpoint.asynchronous=false"  # so that the last step's own save has told before the end
    trainer, *_ = launch(config_of(dataset, tmp_path, url, "trainer.max_steps=16", at_once))
    with pytest.raises(UserError, match=r"step_00000016 is not copied .* the same command tries again"):
        trainer.train()
    assert "step_00000016" in (told := capsys.readouterr().err)
    assert "it is tried again now" in told
    assert "next save" not in told
    trainer, _, (note,) = launch(config_of(dataset, tmp_path, url, "trainer.max_steps=16", at_once))
    assert note.endswith("ConnectionError: no route; a run that goes on tries again")
    failing[0] = 0
    _, folder, _ = launch(config_of(dataset, tmp_path, url, "trainer.max_steps=16"))
    assert RemoteCopy(url, "gptj_tiny").holds(folder)


def test_an_unknown_protocol_is_refused_before_training(dataset, tmp_path):
    with pytest.raises(UserError, match="copy_to=nowhere://x: Protocol not known"):
        launch(config_of(dataset, tmp_path, "nowhere://x"))


def test_a_finished_run_that_is_not_copied_is_an_error_each_time(dataset, tmp_path, url):
    trainer, *_ = launch(config_of(dataset, tmp_path, url))
    assert trainer.train()
    last = checkpoints_of(trainer.run_dir)[-1]
    copies = RemoteCopy(url, trainer.run_dir.name)
    require_copied(last, copies)
    copies.remove(step_of(last.name))
    for _ in range(2):
        with pytest.raises(UserError, match=f"{last.name}: is not copied to .*; mend that"):
            require_copied(last, copies)
