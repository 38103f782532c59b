"""One run on 1, 2 and 4 ranks: the same losses, gradients and weights, however the ranks split it."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from modelzoo.base_config import UserError
from modelzoo.cli.train import run
from modelzoo.config_errors import ConfigError
from modelzoo.trainer.callbacks.metrics import read_metrics
from modelzoo.trainer.checkpoint import checkpoints_of, read_tensors
from modelzoo.trainer.config import AcceleratorConfig
from tests.runs import small_config, small_overrides

STEPS = 8
MASKED = ["trainer.global_batch_size=8", "model.padded_vocab_size=276", f"trainer.max_steps={STEPS}"]


def train(dataset, folder, *overrides, name="gptj_tiny", environment=None, check=True, background=False):
    command = [sys.executable, "-c", "from modelzoo.cli.main import main; main()", "train", name]
    command += [*small_overrides(dataset, folder), *MASKED, *overrides]
    variables = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    variables |= {"OMP_NUM_THREADS": "1", **(environment or {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": variables}
    if background:
        return subprocess.Popen(command, **pipes)
    done = subprocess.run(command, **pipes, timeout=300)
    assert not check or done.returncode == 0, done.stderr
    return done


def split(replicate, shard, tensor):
    return [
        f"accelerator.{key}={value}"
        for key, value in zip(("replicate", "shard", "tensor"), (replicate, shard, tensor), strict=True)
    ]


def series(folder, key="loss"):
    (run_dir,) = folder.iterdir()
    return [record[key] for record in read_metrics(run_dir / "metrics.jsonl") if key in record]


def tensors(folder, name="model"):
    (run_dir,) = folder.iterdir()
    return read_tensors(checkpoints_of(run_dir)[-1], name)


def assert_same_run(one, other):
    for key in ("loss", "gradient_norm", "validation_loss"):
        assert series(one, key) == pytest.approx(series(other, key), rel=1e-5), key
    for name in ("model", "optimizer"):
        theirs = tensors(other, name)
        assert tensors(one, name).keys() == theirs.keys()
        for key, value in tensors(one, name).items():
            pair = value, theirs[key]
            if (
                key.endswith("qkv.bias") and value.dim()
            ):  # a key adds alike to a query's logits: its gradient is rounding
                pair = tuple(both.unflatten(0, (4, 3, -1))[:, [0, 2]] for both in pair)
            torch.testing.assert_close(*pair, rtol=1e-3, atol=2e-5, msg=lambda m, key=key: f"{key}: {m}")


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    train(dataset, folder)
    return folder


SPLITS = [(2, 1, 1), (1, 2, 1), (1, 1, 2), (4, 1, 1), (1, 4, 1), (1, 1, 4), (2, 2, 1), (2, 1, 2), (1, 2, 2)]


@pytest.mark.long
@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_any_split_is_the_same_run(dataset, tmp_path, alone, sizes):
    done = train(dataset, tmp_path, *split(*sizes), "trainer.micro_batch_size=1")
    assert "ranks (replicate" in done.stderr
    assert_same_run(tmp_path, alone)


@pytest.mark.long
@pytest.mark.parametrize("name", ["gpt2_tiny", "gpt_neox_tiny"])
def test_any_split_is_the_same_run_for_other_families(dataset, tmp_path, name):
    without = ["~model.position.fraction"] if name == "gpt2_tiny" else []
    train(dataset, tmp_path / "alone", *without, name=name)
    train(dataset, tmp_path / "parts", *without, *split(1, 2, 2), name=name)
    assert_same_run(tmp_path / "parts", tmp_path / "alone")


@pytest.mark.long
def test_the_number_of_ranks_may_change_in_mid_run(dataset, tmp_path, alone):
    for last_step, sizes in ((3, (1, 1, 1)), (5, (1, 2, 1)), (STEPS, (1, 1, 2))):
        stop = [] if last_step == STEPS else [f"trainer.max_steps={STEPS}", "callbacks.checkpoint.every_steps=1"]
        run = train(dataset, tmp_path, *split(*sizes), *stop, background=True)
        wait_for_step(run, tmp_path, last_step)
        if last_step < STEPS:
            run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=120) in (0, 3)
    assert_same_run(tmp_path, alone)


def wait_for_step(run, folder, step):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and run.poll() is None:
        done = [len(series(folder))] if folder.exists() and any(folder.glob("*/metrics.jsonl")) else [0]
        if done[0] >= step:
            return
        time.sleep(0.05)


@pytest.mark.long
def test_torchrun_launches_it_too(dataset, tmp_path, alone):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    command += [sys.executable, "-c", "from modelzoo.cli.main import main; main()", "train", "gptj_tiny"]
    command += [*small_overrides(dataset, tmp_path), *MASKED, "accelerator.shard=2"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, alone)


def test_the_numbers_of_ranks_are_those_of_the_run(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    overrides = [*small_overrides(dataset, tmp_path), *MASKED, *split(2, 1, 1), "trainer.max_steps=5"]
    numbers = run("gptj_tiny", overrides)
    assert numbers["step"] == 5
    alone = run("gptj_tiny", [*small_overrides(dataset, tmp_path / "alone"), *MASKED, "trainer.max_steps=5"])
    for key in ("loss", "gradient_norm", "validation_loss"):
        assert numbers[key] == pytest.approx(alone[key], rel=1e-5), key
    assert {"loss", "validation_loss", "tokens_per_second"} <= numbers.keys()


def test_what_one_rank_finds_wrong_ends_all(dataset, tmp_path):
    done = train(tmp_path / "missing", tmp_path, *split(2, 1, 1), check=False)
    assert done.returncode == 2
    assert "missing" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mesh_of_another_size_is_refused(monkeypatch):
    assert AcceleratorConfig(shard=2, tensor=2).mesh(8) == (2, 2, 2)
    assert AcceleratorConfig(shard=2, tensor=2).num_ranks(9) == 8
    assert AcceleratorConfig(shard=2).num_ranks(1) == 2
    with pytest.raises(UserError, match="do not make 6 ranks"):
        AcceleratorConfig(shard=4).mesh(6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["accelerator.tensor=3"], "does not divide model.num_heads=4"),
        (["accelerator.tensor=2", "model.padded_vocab_size=275"], "does not divide the 275 rows"),
        (["accelerator.tensor=2", "model.padded_vocab_size=276", "model.dropout=0.1"], "dropout"),
        (["accelerator.replicate=3"], "does not divide among"),
        (["accelerator.shard=16"], "does not divide among"),
    ],
)
def test_splits_that_do_not_divide_are_refused_at_check_time(dataset, tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        small_config(dataset, tmp_path, *overrides)
