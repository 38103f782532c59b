"""Processes that are killed while they save: what is under a checkpoint's name is always whole, and the run's own."""

import time

import pytest

from modelzoo.base_config import UserError
from modelzoo.cli.train import run
from modelzoo.trainer.checkpoint import checkpoints_of, latest_checkpoint, step_of
from tests.runs import small_overrides
from tests.trainer.killing import Ranks, digest_of, kill_at_random, newest_step, uninterrupted


def overrides_of(dataset, folder, steps, *extra):
    save = ["callbacks.checkpoint.every_steps=1", "callbacks.evaluate.every_steps=7", f"trainer.max_steps={steps}"]
    return [*small_overrides(dataset, folder), "schedule=constant", "schedule.warmup_steps=3", *save, *extra]


def test_kills_while_saving_lose_nothing_and_the_run_goes_on(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    extra = ["model.dropout=0.1", "trainer.micro_batch_size=4"]
    expected = uninterrupted(overrides_of(dataset, tmp_path / "whole", 16, *extra))
    overrides, run_dir = overrides_of(dataset, tmp_path, 16, *extra), tmp_path / "gptj_tiny"
    kill_at_random(overrides, run_dir, num_kills=5, num_ranks=1, seed=0, expected=expected)
    assert Ranks(overrides, 1).join() == [0]
    last, warnings = latest_checkpoint(run_dir)
    assert (last.name, warnings) == ("step_00000016", [])
    assert digest_of(last) == expected[16]
    assert [path.name for path in (run_dir / "checkpoints").iterdir() if path.name.startswith(".")] == []


@pytest.mark.long
@pytest.mark.parametrize(("seed", "hidden_size", "keep_last"), [(1, 32, 2), (2, 192, 1)])
def test_a_hundred_kills_while_saving(dataset, tmp_path, seed, hidden_size, keep_last):
    extra = [f"model.hidden_size={hidden_size}", f"callbacks.checkpoint.keep_last={keep_last}"]
    expected = uninterrupted(overrides_of(dataset, tmp_path / "whole", 500, *extra))
    overrides = overrides_of(dataset, tmp_path, 500, *extra)
    left = kill_at_random(overrides, tmp_path / "gptj_tiny", 50, 1, seed, expected)
    assert ".partial" in left  # kills did come in the middle of a save


@pytest.mark.long
@pytest.mark.parametrize(("hidden_size", "steps", "in_a_write"), [(32, 120, False), (192, 60, True)])
def test_kills_of_one_rank_or_both_while_saving(dataset, tmp_path, hidden_size, steps, in_a_write):
    extra = ["accelerator.shard=2", f"model.hidden_size={hidden_size}"]
    whole = overrides_of(dataset, tmp_path / "whole", steps, *extra, "callbacks.checkpoint.keep_last=null")
    assert Ranks(whole, 2).join(patience_seconds=300) == [0, 0]
    folders = checkpoints_of(tmp_path / "whole" / "gptj_tiny")
    expected = {step_of(folder.name): digest_of(folder) for folder in folders}
    left = kill_at_random(overrides_of(dataset, tmp_path, steps, *extra), tmp_path / "gptj_tiny", 20, 2, 3, expected)
    assert not in_a_write or ".partial" in left


@pytest.mark.long
def test_a_second_run_is_refused_until_the_first_is_killed(dataset, tmp_path):
    overrides, run_dir = overrides_of(dataset, tmp_path, 400), tmp_path / "gptj_tiny"
    first = Ranks(overrides, 1)
    while newest_step(run_dir) < 2:
        time.sleep(0.01)
    with pytest.raises(UserError, match=r"another process is training .*gptj_tiny"):
        run("gptj_tiny", overrides)
    first.kill([0])
    assert run("gptj_tiny", [*overrides, "trainer.max_steps=60"])["step"] == 60
