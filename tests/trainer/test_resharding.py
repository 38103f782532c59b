"""A checkpoint of N ranks goes on on M: the same weights, optimizer state and next loss."""

import shutil
from pathlib import Path

import pytest
import torch

from modelzoo.launch import build_run, resume
from modelzoo.run_config import load_run_config
from modelzoo.trainer import run_state
from modelzoo.trainer.callbacks.metrics import read_metrics
from modelzoo.trainer.checkpoint import checkpoints_of, damage, read_tensors
from modelzoo.trainer.checkpoint_writer import CheckpointWriter
from tests.runs import small_overrides
from tests.trainer.killing import Ranks

SPLITS = {
    1: [(1, 1, 1)],
    2: [(1, 2, 1), (2, 1, 1), (1, 1, 2)],
    4: [(1, 4, 1), (2, 2, 1), (1, 2, 2)],
}


def overrides_of(dataset, folder, sizes):
    split = [f"accelerator.{key}={size}" for key, size in zip(("replicate", "shard", "tensor"), sizes, strict=True)]
    common = ["model.padded_vocab_size=276", "schedule=constant", "~callbacks.evaluate", "trainer.max_steps=5"]
    return [*small_overrides(dataset, folder), *common, "schedule.warmup_steps=3", *split]


def go_on(overrides: list[str], copy: Path) -> None:
    """On each rank: bring back a run, save it elsewhere as it is, and train to the end."""
    config = load_run_config("gptj_tiny", overrides)
    trainer = build_run(config)
    resume(trainer, config)
    writer = CheckpointWriter(trainer.parallel, asynchronous=True)
    run_dir, trainer.run_dir = trainer.run_dir, copy
    run_state.save(trainer, writer, lambda folder: None)
    writer.settle(wait=True)
    trainer.run_dir = run_dir
    trainer.train()
    trainer.parallel.close()


def losses(folder):
    return [record["loss"] for record in read_metrics(folder / "gptj_tiny" / "metrics.jsonl") if "loss" in record]


def reshard(dataset, tmp_path, sizes, others):
    """Five steps on one split; from the fourth on on every other, and what was brought back there is saved again."""
    saved = tmp_path / "saved"
    assert set(Ranks(overrides_of(dataset, saved, sizes), _num_ranks(sizes)).join()) == {0}
    folder, last = checkpoints_of(saved / "gptj_tiny")
    assert damage(folder) is None
    assert len(list(folder.glob("optimizer*.safetensors"))) == _num_ranks(sizes)
    shutil.rmtree(last)
    for number, other in enumerate(others):
        there, copy = tmp_path / f"on_{number}", tmp_path / f"again_{number}"
        shutil.copytree(saved, there)
        on_other = Ranks(overrides_of(dataset, there, other), _num_ranks(other), target=go_on, arguments=(copy,))
        assert set(on_other.join()) == {0}
        (again,) = checkpoints_of(copy)
        for name in ("model", "optimizer"):
            theirs, ours = read_tensors(folder, name), read_tensors(again, name)
            assert theirs.keys() == ours.keys()
            assert all(torch.equal(value, ours[key]) for key, value in theirs.items()), name
        assert len(losses(there)) == 5
        assert losses(there)[4] == pytest.approx(losses(saved)[4], rel=1e-6)


def _num_ranks(sizes):
    return sizes[0] * sizes[1] * sizes[2]


def test_what_two_ranks_saved_goes_on_on_one(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    reshard(dataset, tmp_path, (1, 2, 1), [(1, 1, 1)])


@pytest.mark.long
@pytest.mark.parametrize("sizes", [split for splits in SPLITS.values() for split in splits], ids=str)
def test_any_split_goes_on_on_any_other(dataset, tmp_path, sizes):
    others = [split for splits in SPLITS.values() for split in splits if split != sizes]
    reshard(dataset, tmp_path, sizes, others)
