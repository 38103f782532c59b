"""One run on 1, 2 and 4 ranks: the same losses, gradients and weights, however the ranks split it."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.multiprocessing import spawn

from modelzoo.base_config import UserError
from modelzoo.cli.train import run
from modelzoo.compare.all_reduces import count_all_reduces
from modelzoo.config_errors import ConfigError
from modelzoo.launch import build_run
from modelzoo.run_config import load_run_config
from modelzoo.trainer.accelerator import LACKS, choose_accelerator
from modelzoo.trainer.callbacks.metrics import read_metrics
from modelzoo.trainer.checkpoint import checkpoints_of, read_tensors
from modelzoo.trainer.config import AcceleratorConfig
from tests.runs import small_config, small_overrides, write_masked_dataset

STEPS = 50
SETTINGS = [
    "trainer.global_batch_size=8",
    "model.padded_vocab_size=276",
    f"trainer.max_steps={STEPS}",
    "callbacks.evaluate.every_steps=20",
    "callbacks.checkpoint.every_steps=null",
]


def train(dataset, folder, *overrides, name="gptj_tiny", environment=None, check=True, background=False):
    command = [sys.executable, "-c", "from modelzoo.cli.main import main; main()", "train", name]
    command += [*small_overrides(dataset, folder), *SETTINGS, *overrides]
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


def assert_same_run(one, other, late_norms=1e-5):
    """`late_norms`: how far norms of gradients may be apart after 20 steps."""
    for key in ("loss", "gradient_norm", "validation_loss"):
        ours, theirs = series(one, key), series(other, key)
        assert ours[:20] == pytest.approx(theirs[:20], rel=1e-5), key
        assert ours == pytest.approx(theirs, rel=late_norms if key == "gradient_norm" else 1e-5), key
    for key in ("batch_sha256", "batches_sha256"):
        assert series(one, key) == series(other, key)
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
def masked(tmp_path_factory):
    """Rows that count a few tokens or many."""
    return write_masked_dataset(tmp_path_factory.mktemp("masked"))


@pytest.fixture(scope="module")
def alone(masked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    train(masked, folder)
    return folder


SPLITS = [(2, 1, 1), (1, 2, 1), (1, 1, 2), (4, 1, 1), (1, 4, 1), (1, 1, 4), (2, 2, 1), (2, 1, 2), (1, 2, 2)]


@pytest.mark.long
@pytest.mark.parametrize("sizes", SPLITS, ids=str)
def test_any_split_is_the_same_run(masked, tmp_path, alone, sizes):
    done = train(masked, tmp_path, *split(*sizes), "trainer.micro_batch_size=2")
    assert "ranks (replicate" in done.stderr
    assert_same_run(tmp_path, alone)


def gradients_of_ranks(rank, sizes, overrides, micro_batch_sizes, out):
    """On each of some ranks: the whole gradient of batch 0 for each micro-batch size, written by the first."""
    world = math.prod(sizes)
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29655"}
    trainer = build_run(load_run_config("gptj_tiny", [*overrides, *split(*sizes)]))
    for size in micro_batch_sizes:
        trainer.config = trainer.config.model_copy(update={"micro_batch_size": size})
        trainer._apply_gradients = lambda *_: {}
        trainer.update()
        gradients = trainer.parallel.whole((n, p.grad) for n, p in trainer.model.named_parameters())
        trainer.optimizer.zero_grad()
        if rank == 0:
            torch.save(gradients, out / f"{sizes}_{size}.pt")
    trainer.parallel.close()


@pytest.mark.long
def test_micro_batches_and_ranks_give_one_gradient(masked, tmp_path, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    overrides = [*small_overrides(masked, tmp_path), *SETTINGS]
    expected = 0
    for sizes in [(1, 1, 1), *SPLITS]:
        shares = [size for size in (1, 2, 4, 8) if size <= 8 // (sizes[0] * sizes[1])]
        expected += len(shares)
        spawn(gradients_of_ranks, (sizes, overrides, shares, tmp_path), math.prod(sizes))
    whole = {name: g.double() for name, g in torch.load(tmp_path / f"{(1, 1, 1)}_8.pt").items()}
    size = math.sqrt(sum(float(g.norm()) ** 2 for g in whole.values()))
    files = list(tmp_path.glob("*.pt"))
    assert len(files) == expected
    for file in files:
        gradients = torch.load(file)
        assert gradients.keys() == whole.keys()
        distance = math.sqrt(sum(float((gradients[name].double() - g).norm()) ** 2 for name, g in whole.items()))
        assert distance < 1e-6 * size, file.name


@pytest.mark.long
def test_a_parallel_residual_sums_once_between_ranks_and_a_sequential_one_twice():
    names = ["gpt2_124M", "gptj_125M", "gpt_neox_125M"]
    counts = count_all_reduces({name: load_run_config(name).model for name in names})
    assert {name: [own["forward"], own["backward"]] for name, own in counts.items()} == {
        "gpt2_124M": [2, 2],
        "gptj_125M": [1, 1],
        "gpt_neox_125M": [1, 2],
    }


def test_an_offloaded_model_is_the_same_run(dataset, tmp_path, monkeypatch):
    """The CPU has nowhere to move to, and so it is passed over there; what is done elsewhere works here too."""
    plain = small_config(dataset, tmp_path / "plain")
    offloaded = small_config(dataset, tmp_path / "offloaded", "accelerator.cpu_offload=true")
    assert "cpu_offload is not to be had on cpu" in choose_accelerator(offloaded.accelerator).notes[0]
    monkeypatch.setitem(LACKS, "cpu", {})
    taken = []
    for config in (plain, offloaded):
        trainer = build_run(config)
        trainer.run_dir.mkdir(parents=True)
        try:
            assert (trainer.parallel.mesh is None) == (config is plain)
            trainer.train()
        finally:
            trainer.parallel.close()
        taken.append([r["loss"] for r in read_metrics(trainer.run_dir / "metrics.jsonl") if "loss" in r])
    assert taken[1] == pytest.approx(taken[0], rel=1e-6)


@pytest.mark.long
def test_bf16_is_gathered_in_halves_and_close(dataset, tmp_path):
    """Ranks gather the blocks' weights in bf16: LayerNorms round theirs, the rest is what autocast does alone."""
    bf16 = ["accelerator.precision=bf16", "trainer.max_steps=8"]
    train(dataset, tmp_path / "alone", *bf16)
    train(dataset, tmp_path / "ranks", *bf16, *split(1, 2, 1))
    train(dataset, tmp_path / "fp32", "trainer.max_steps=8")
    alone, ranks, fp32 = (torch.tensor(series(tmp_path / name)) for name in ("alone", "ranks", "fp32"))
    assert (ranks - alone).abs().max() < 5e-3
    assert (ranks - fp32).abs().max() > 1e-5


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gpt2_tiny", "~model.position.fraction"),
        ("gpt_neox_tiny", "model.position.fraction=0.25"),
        ("gptj_tiny", "+model.position.unrotated=sinusoidal"),
    ],
)
def test_any_split_is_the_same_run_for_other_families(dataset, tmp_path, name, change):
    train(dataset, tmp_path / "alone", change, name=name)
    train(dataset, tmp_path / "parts", change, *split(1, 2, 2), name=name)
    late_norms = 1e-4 if name == "gpt2_tiny" else 1e-5  # micro-batches alone put them 1.3e-5 apart
    assert_same_run(tmp_path / "parts", tmp_path / "alone", late_norms)


@pytest.mark.long
def test_the_number_of_ranks_may_change_in_mid_run(masked, tmp_path, alone):
    for last_step, sizes in ((10, (1, 1, 1)), (20, (1, 2, 1)), (STEPS, (1, 1, 2))):
        stop = [] if last_step == STEPS else [f"trainer.max_steps={STEPS}", "callbacks.checkpoint.every_steps=1"]
        run = train(masked, tmp_path, *split(*sizes), *stop, background=True)
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
def test_torchrun_launches_it_too(masked, tmp_path, alone):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    command += [sys.executable, "-c", "from modelzoo.cli.main import main; main()", "train", "gptj_tiny"]
    command += [*small_overrides(masked, tmp_path), *SETTINGS, "accelerator.shard=2"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, alone)


def test_the_numbers_of_ranks_are_those_of_the_run(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    overrides = [*small_overrides(dataset, tmp_path), *SETTINGS, *split(2, 1, 1), "trainer.max_steps=5"]
    numbers = run("gptj_tiny", overrides)
    assert numbers["step"] == 5
    alone = run("gptj_tiny", [*small_overrides(dataset, tmp_path / "alone"), *SETTINGS, "trainer.max_steps=5"])
    for key in ("loss", "gradient_norm", "validation_loss"):
        assert numbers[key] == pytest.approx(alone[key], rel=1e-5), key
    assert numbers["batches_sha256"] == alone["batches_sha256"]
    assert {"loss", "validation_loss", "tokens_per_second", "peak_memory_bytes"} <= numbers.keys()


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
