"""The benchmark of loading runs, its arms read the same corpus, and every whole loader in it ends at tensors."""

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks import loader
from benchmarks.loader_readers import OURS, readers_of_others, readers_of_ours, write_corpus

READER = """
import h5py
from pathlib import Path

class H5Reader:
    def __init__(self, data_dirs, read_extra_token):
        self.data = h5py.File(next(Path(data_dirs[0]).glob("*.h5")))["data"]

    def __getitem__(self, i):
        return self.data[i]

    def __len__(self):
        return len(self.data)
"""


def test_measures_its_own_process_and_another(tmp_path, monkeypatch):
    """ModelZoo's part is played by a reader of its name, in its place."""
    place = tmp_path / "src/cerebras/modelzoo/data/common/h5_map_dataset"
    place.mkdir(parents=True)
    (place / "readers.py").write_text(READER)
    figures = tmp_path / "figures.json"
    options = ["--tokens", "2e4", "--seq-len", "64", "--batch-size", "4", "--batches", "2", "--rounds", "3"]
    options += ["--cerebras-modelzoo", str(tmp_path), "--json", str(figures)]
    monkeypatch.setattr(sys, "argv", ["loader", *options])
    monkeypatch.setattr(loader, "PEERS", ("ModelZoo",))
    threads = torch.get_num_threads()
    try:
        loader.main()
    finally:
        torch.set_num_threads(threads)
    times = json.loads(figures.read_text())
    assert {OURS, "nanoGPT get_batch", "memmap rows, int64", "ModelZoo"} <= times.keys()
    assert {len(values) for values in times.values()} == {3}


def test_a_peer_that_cannot_run_is_named(tmp_path, capsys):
    (tmp_path / "peer.py").write_text("raise ImportError('not here')")
    assert loader.outside([sys.executable, str(tmp_path / "peer.py"), "litdata"]) is None
    assert capsys.readouterr().out == "litdata: skipped (ImportError: not here)\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return folder, write_corpus(folder, 20_000, 64)


def test_whole_loaders_end_at_what_a_model_is_given(corpus):
    folder, tokens = corpus
    ours = readers_of_ours(folder, 64, 4)
    x, y = readers_of_others(folder, tokens, 64, 4)["nanoGPT get_batch"](0)
    assert x.dtype == y.dtype == torch.int64
    assert x.shape == y.shape == (4, 64)
    assert torch.equal(x[:, 1:], y[:, :-1])
    for name, reader in ours.items():
        batch = reader(0)
        batch = batch[0] if isinstance(batch, tuple) else batch
        assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64, name
        assert batch["input_ids"].shape == (4, 64), name


def test_our_arms_read_the_corpus(corpus):
    folder, tokens = corpus
    readers = readers_of_ours(folder, 64, 4)
    one, many = readers[OURS], readers["ours: 16 shards"]
    batches = [one(step) for step in range(79)]
    labels = torch.cat([batch["labels"] for batch in batches])[:313]  # an epoch
    masks = [batch.get("loss_mask", torch.ones(batch["labels"].shape, dtype=torch.bool)) for batch in batches]
    read = labels[torch.cat(masks)[:313]].numpy()
    assert np.array_equal(np.sort(read), np.sort(tokens))
    assert all(torch.equal(batches[step]["input_ids"], many(step)["input_ids"]) for step in range(5))
