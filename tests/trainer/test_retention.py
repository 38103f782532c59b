"""Which checkpoints stay."""

import pytest

from modelzoo.base_config import UserError
from modelzoo.config_errors import ConfigError
from modelzoo.launch import build_run, resume
from modelzoo.trainer.checkpoint import checkpoints_of, step_of
from modelzoo.trainer.retention import superfluous
from tests.runs import small_config


def kept(steps, newest, keep_last, keep_every=None, damaged=()):
    gone = superfluous(steps, newest, keep_last, keep_every, lambda step: step not in damaged)
    return [step for step in steps if step not in gone]


def test_the_newest_whole_ones_stay():
    steps = list(range(10, 100, 10))
    assert kept(steps, 90, None) == steps
    assert kept(steps, 90, 1) == [90]
    assert kept(steps, 90, 3) == [70, 80, 90]
    assert kept(steps, 90, 99) == steps


def test_damaged_ones_take_no_others_place():
    assert kept([10, 20, 30, 40], 40, 2, damaged=[30, 20]) == [10, 20, 30, 40]
    assert kept([10, 20, 30, 40, 50], 50, 2, damaged=[30, 20]) == [40, 50]


def test_later_ones_are_left_alone():
    assert kept([10, 20, 30, 40], 20, 1) == [20, 30, 40]


def test_multiples_stay():
    assert kept([10, 20, 30, 40, 50, 60], 60, 1, keep_every=20) == [20, 40, 60]


def test_a_run_keeps_the_multiples_and_the_last(dataset, tmp_path):
    keep = ["callbacks.checkpoint.keep_last=1", "callbacks.checkpoint.every_steps=2"]
    trainer = build_run(small_config(dataset, tmp_path, *keep, "callbacks.checkpoint.keep_every_steps=4"))
    trainer.run_dir.mkdir(parents=True)
    trainer.train()
    assert [step_of(folder.name) for folder in checkpoints_of(trainer.run_dir)] == [4, 8, 12]


def test_the_only_whole_one_outlives_a_damaged_one_after_it(dataset, tmp_path):
    keep = ["callbacks.checkpoint.keep_last=2", "callbacks.checkpoint.every_steps=2"]
    first = build_run(small_config(dataset, tmp_path, *keep, "trainer.max_steps=6", "schedule=constant"))
    first.run_dir.mkdir(parents=True)
    first.train()
    config = small_config(dataset, tmp_path, *keep, "trainer.max_steps=8", "schedule=constant")
    again = build_run(config)
    resume(again, config)
    (again.run_dir / "checkpoints" / "step_00000006" / "model.safetensors").write_bytes(b"cut")
    again.train()
    assert [step_of(folder.name) for folder in checkpoints_of(again.run_dir)] == [4, 6, 8]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["callbacks.checkpoint.keep_every_steps=6"], "no multiple of every_steps=4"),
        (
            ["callbacks.checkpoint.keep_every_steps=8", "callbacks.checkpoint.keep_last=null"],
            "keep_last=null keeps all",
        ),
        (["+callbacks.second={kind: checkpoint}"], "each would delete what the other keeps"),
        (["output_dir=s3://bucket/runs"], "is a folder of this machine"),
    ],
)
def test_what_cannot_be_meant_is_refused(dataset, tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message) as error:
        small_config(dataset, tmp_path, *overrides)
    assert isinstance(error.value, UserError)
