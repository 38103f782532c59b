"""The same batches, to the last byte, with any number of torch's worker processes however they are started."""

import hashlib

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from modelzoo.data.dataset import TokenDataset
from modelzoo.data.loader import BatchLoader
from modelzoo.data.mixture import MixtureLoader, Source
from modelzoo.data.modelzoo_files import open_modelzoo_files
from tests.data.datasets import build
from tests.data.test_modelzoo_files import examples, write

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
STEPS = 30
METHODS = ("fork", "spawn", "forkserver")
QUICK = [(0, None), *((1, method) for method in METHODS), (3, "fork")]
GRID = [(workers, method) for workers in (1, 2, 5, 16) for method in METHODS]


@pytest.fixture
def loader(tmp_path):
    """Every way of reading in one: a mapped stream, a packed one, and compressed sample files."""
    build(tmp_path / "a")
    build(tmp_path / "b", masked=True)
    (tmp_path / "c").mkdir()
    write(tmp_path / "c" / "a.h5", examples(7))
    sources = {
        "stream": Source(TokenDataset(tmp_path / "a", "train", 6), 2),
        "packed": Source(TokenDataset(tmp_path / "b", "train", 6, "best_fit"), 1),
        "samples": Source(open_modelzoo_files(tmp_path / "c", 6, False, 50), 1),
    }
    return MixtureLoader(sources, 4, seed=5)


def digest(batches):
    """sha256 of every byte of every batch, in order."""
    state = hashlib.sha256()
    for batch in batches:
        for name in sorted(batch):
            state.update(name.encode() + np.ascontiguousarray(batch[name]).tobytes())
    return state.hexdigest()


def by_torch(loader, workers, method, start=0):
    return DataLoader(
        loader,
        batch_size=None,
        sampler=range(start, STEPS),
        num_workers=workers,
        multiprocessing_context=method,
        persistent_workers=False,
    )


def check(loader, workers, method):
    expected = digest(loader.batch(step) for step in range(STEPS))
    # by now this process holds maps and HDF5 handles, which a forked worker inherits
    assert digest(by_torch(loader, workers, method)) == expected
    assert digest(loader.batch(step) for step in range(STEPS)) == expected  # nor have the workers disturbed it


@pytest.mark.parametrize(("workers", "method"), QUICK)
def test_batches_do_not_depend_on_the_workers(loader, workers, method):
    check(loader, workers, method)


@pytest.mark.long
@pytest.mark.parametrize(("workers", "method"), GRID)
def test_batches_do_not_depend_on_many_workers(loader, workers, method):
    check(loader, workers, method)


def test_a_late_start_goes_on_where_it_should(loader):
    expected = digest(loader.batch(step) for step in range(17, STEPS))
    assert digest(by_torch(loader, 2, "fork", start=17)) == expected


def test_a_dataset_is_map_style_with_one_gather_a_batch(tmp_path):
    build(tmp_path)
    dataset = TokenDataset(tmp_path, "train", 5, isolate_documents=True)
    calls = []

    class Counted(TokenDataset):
        def rows(self, indices):
            calls.append(len(indices))
            return super().rows(indices)

    counted = Counted(tmp_path, "train", 5, isolate_documents=True)
    batches = list(DataLoader(counted, batch_size=4))
    assert calls == [4, 4, 1]
    whole = dataset.rows(range(9))
    for name, array in whole.items():
        assert np.array_equal(torch.cat([batch[name] for batch in batches]), array)
        assert np.array_equal(dataset[3][name], array[3])
    assert len(dataset) == 9
    with pytest.raises(IndexError):
        dataset[9]


def test_a_shuffled_loader_has_the_length_of_an_epoch(tmp_path):
    build(tmp_path)
    loader = BatchLoader(TokenDataset(tmp_path, "train", 5), 4, seed=1)
    assert len(loader) == 3
    assert digest(DataLoader(loader, batch_size=None)) == digest(loader.batch(step) for step in range(3))
