import itertools
import multiprocessing
import pickle
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest

from modelzoo.base_config import UserError
from modelzoo.data.dataset import TokenDataset
from modelzoo.data.loader import BatchLoader
from tests.data.datasets import LENGTHS, build


@pytest.mark.parametrize("seq_len", [1, 2, 5, 6, 7, 13, 41, 42, 43, 100])
def test_every_token_is_a_target_once_and_follows_its_input(tmp_path, seq_len):
    stream = build(tmp_path)
    dataset = TokenDataset(tmp_path, "train", seq_len)
    batch = dataset.rows(np.arange(dataset.num_rows))
    assert {name: array.shape for name, array in batch.items()} == dict.fromkeys(
        ("input_ids", "labels", "loss_mask"), (dataset.num_rows, seq_len)
    )
    mask = batch["loss_mask"]
    assert batch["labels"][mask].tolist() == stream.tolist()
    assert batch["input_ids"][mask].tolist() == [0, *stream[:-1]]
    assert not batch["labels"][~mask].any()  # padding reads end of document
    assert (~mask).sum() == dataset.num_rows * seq_len - 42
    assert batch["labels"].dtype == batch["input_ids"].dtype == np.int64
    assert mask.dtype == np.bool_


def test_rows_come_as_asked_for(tmp_path):
    build(tmp_path)
    dataset = TokenDataset(tmp_path, "train", 5)
    whole = dataset.rows(range(9))
    for name, array in dataset.rows([8, 3, 3, 0]).items():
        assert np.array_equal(array, whole[name][[8, 3, 3, 0]])
    assert dataset.rows([])["labels"].shape == (0, 5)
    for index in (-1, 9):
        with pytest.raises(IndexError):
            dataset.rows([index])


def test_attributes_and_documents(tmp_path):
    stream = build(tmp_path)
    dataset = TokenDataset(tmp_path, "train", 5)
    assert (dataset.num_tokens, dataset.num_documents, dataset.num_bytes) == (42, 8, 30)
    assert (dataset.vocab_size, dataset.end_of_document_id, dataset.tokenizer_sha256) == (50, 0, "ab")
    assert dataset.num_rows == len(dataset) == 9
    ends = np.cumsum([0, *itertools.chain(*LENGTHS)])
    for index, (start, end) in enumerate(itertools.pairwise(ends)):
        assert dataset.document(index).tolist() == stream[start : end - 1].tolist()
    with pytest.raises(IndexError, match="document 8 of 8"):
        dataset.document(8)


def test_stored_loss_mask(tmp_path):
    stream = build(tmp_path, masked=True)
    batch = TokenDataset(tmp_path, "train", 5).rows(range(9))
    assert np.array_equal(batch["loss_mask"].ravel()[:42], stream % 2 == 1)
    assert not batch["loss_mask"].ravel()[42:].any()


def test_compressed_file_is_read_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr("modelzoo.data.dataset.VERIFIED_BYTES", 0)
    build(tmp_path)
    expected = TokenDataset(tmp_path, "train", 5).rows(range(9))
    for path in tmp_path.glob("*.h5"):
        with h5py.File(path, "r+") as file:
            tokens = file["tokens"][:]
            del file["tokens"]
            file.create_dataset("tokens", data=tokens, chunks=(2,), compression="gzip")
            assert file["tokens"].id.get_offset() is None
    found = TokenDataset(tmp_path, "train", 5).rows(range(9))
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_maps_are_not_pickled(tmp_path):
    build(tmp_path)
    dataset = TokenDataset(tmp_path, "train", 5)
    expected = dataset.rows([0, 8])["labels"]
    assert dataset._stream._opened
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy._stream._opened == {}
    assert np.array_equal(copy.rows([0, 8])["labels"], expected)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_a_worker_process(tmp_path, method):
    build(tmp_path)
    dataset = TokenDataset(tmp_path, "train", 5)
    expected = dataset.rows([0, 8])["labels"]
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert np.array_equal(pool.apply(dataset.rows, ([0, 8],))["labels"], expected)


def test_any_flipped_byte_of_a_small_split_is_found(tmp_path):
    build(tmp_path)
    path = tmp_path / "00001.h5"
    content = path.read_bytes()
    for place in range(0, len(content), 501):  # in a header it could keep HDF5 busy for ever
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UserError, match=r"00001\.h5: its sha256 is not the one in .*manifest\.json"):
            TokenDataset(tmp_path, "train", 5)


def test_shard_that_is_not_the_manifests(tmp_path, monkeypatch):
    monkeypatch.setattr("modelzoo.data.dataset.VERIFIED_BYTES", 0)
    build(tmp_path)
    with h5py.File(tmp_path / "00001.h5", "r+") as file:
        file.attrs["tokenizer_sha256"] = "other"
    with pytest.raises(UserError, match=r"00001\.h5: tokenizer_sha256=other, but .*manifest\.json says ab"):
        TokenDataset(tmp_path, "train", 5)
    (tmp_path / "00001.h5").unlink()
    with pytest.raises(UserError, match=r"00001\.h5: no such file"):
        TokenDataset(tmp_path, "train", 5)
    with pytest.raises(UserError, match="no split 'test'; this dataset has train"):
        TokenDataset(tmp_path, "test", 5)


@dataclass
class FakeTokenizer:
    sha256: str
    path: Path = Path("given/tokenizer.json")
    vocab_size: int = 50
    end_of_document_id: int = 0


def test_check_against(tmp_path):
    build(tmp_path)
    dataset = TokenDataset(tmp_path, "train", 5)
    dataset.check_against(None, 50)
    dataset.check_against(FakeTokenizer("ab"), 64)
    with pytest.raises(UserError, match=rf"{tmp_path} was written .* given/tokenizer\.json has cd"):
        dataset.check_against(FakeTokenizer("cd"), 64)
    with pytest.raises(UserError, match=r"ids up to 49, but model\.vocab_size=49; use at least 50"):
        dataset.check_against(None, 49)


@pytest.mark.parametrize("batch_size", [1, 4, 9, 20])
def test_an_epoch_holds_every_window_once(tmp_path, batch_size, monkeypatch):
    stream = build(tmp_path)
    monkeypatch.setattr("modelzoo.data.order.ORDER_BLOCK", 4)  # so that an epoch has several
    loader = BatchLoader(TokenDataset(tmp_path, "train", 5), batch_size, seed=3)
    steps = 9  # 9 windows: batch_size whole epochs
    batches = [loader.batch(step) for step in range(steps)]
    rows = np.concatenate([batch["labels"] for batch in batches]).reshape(batch_size, 9, 5)
    masks = np.concatenate([batch["loss_mask"] for batch in batches]).reshape(batch_size, 9, 5)
    for epoch, mask in zip(rows, masks, strict=True):
        assert sorted(epoch[mask]) == sorted(stream)
    firsts = {tuple(epoch[:, 0]) for epoch in rows}
    assert len(firsts) == batch_size  # no two epochs in the same order


def test_batches_depend_on_nothing_but_the_step(tmp_path):
    build(tmp_path)
    dataset = TokenDataset(tmp_path, "train", 5)
    one, two = BatchLoader(dataset, 4, seed=1), BatchLoader(dataset, 4, seed=1)
    forward = [one.batch(step)["labels"] for step in range(12)]
    backward = [two.batch(step)["labels"] for step in reversed(range(12))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))
    other = [BatchLoader(dataset, 4, seed=2).batch(step)["labels"] for step in range(12)]
    assert not all(np.array_equal(a, b) for a, b in zip(forward, other, strict=True))


def test_parts_make_up_the_batch(tmp_path):
    build(tmp_path)
    loader = BatchLoader(TokenDataset(tmp_path, "train", 5), 6, seed=1)
    whole = loader.batch(1)["labels"]
    parts = [loader.batch(1, slice(start, start + 2))["labels"] for start in (0, 2, 4)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_state_and_order(tmp_path):
    build(tmp_path)
    dataset = TokenDataset(tmp_path, "train", 5)
    loader = BatchLoader(dataset, 4, seed=11, shuffle=False)
    assert loader.num_batches_per_epoch == 3
    assert loader.state(5) == {
        "seed": 11,
        "epoch": 2,
        "index": 2,
        "manifest_sha256": dataset.fingerprint,
    }
    expected = dataset.rows([8, 0, 1, 2])["labels"]
    assert np.array_equal(loader.batch(2)["labels"], expected)


def test_evaluation_batches(tmp_path):
    stream = build(tmp_path)
    dataset = TokenDataset(tmp_path, "train", 5)
    batches = list(dataset.evaluation_batches(4))
    assert [len(batch["labels"]) for batch in batches] == [4, 4, 1]
    seen = np.concatenate([batch["labels"][batch["loss_mask"]] for batch in batches])
    assert seen.tolist() == stream.tolist()
    assert len(list(dataset.evaluation_batches(4, max_batches=2))) == 2


def test_another_process_opens_files_anew(tmp_path):
    """HDF5's handles are not to be shared after a fork, even where reading through them happens to work."""
    build(tmp_path)
    stream = TokenDataset(tmp_path, "train", 5)._stream
    first = stream.open(0, "tokens")
    assert stream.open(0, "tokens") is first
    stream._owner -= 1  # as a forked process finds it
    assert stream.open(0, "tokens") is not first
