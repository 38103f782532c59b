import json

import h5py
import numpy as np
import pytest

from modelzoo.base_config import UserError
from modelzoo.data.schema import (
    SCHEMA_VERSION,
    Manifest,
    Pieces,
    ShardHeader,
    ShardInfo,
    SplitInfo,
    TokenizerInfo,
    content_sha256,
    file_sha256,
    find_split,
    open_shard,
    read_manifest,
    token_dtype,
    write_manifest,
    write_shard,
)
from tests.shards import ledger, write_arrays

HEADER = ShardHeader(SCHEMA_VERSION, "ab" * 32, 300, 0, "lm", 2, 7, 20, "{}")
TOKENS = np.array([5, 6, 0, 7, 8, 299, 0])
OFFSETS = np.array([0, 3, 7])


def shard(path, header=HEADER, tokens=TOKENS, loss_mask=None):
    write_arrays(path, header, tokens, OFFSETS, loss_mask)
    return path


def manifest():
    info = ShardInfo(file="train/00000.h5", sha256="cd", num_documents=2, num_tokens=7, num_bytes=20)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        settings={"reader": {"paths": ["a.jsonl"]}},
        inputs=(),
        tokenizer=TokenizerInfo(sha256="ab", vocab_size=300, end_of_document_id=0),
        splits={"train": SplitInfo(shards=(info,), num_documents=2, num_tokens=7, num_bytes=20)},
        ledger=ledger(2, 20, 7),
    )


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "<u2"), (65_537, "<u4")])
def test_ids_take_as_few_bytes_as_hold_them(tmp_path, vocab_size, dtype):
    assert token_dtype(vocab_size) == np.dtype(dtype)
    tokens = np.array([1, 2, 0, 3, 4, vocab_size - 1, 0])
    path = shard(tmp_path / "a.h5", HEADER._replace(vocab_size=vocab_size), tokens)
    with h5py.File(path) as file:
        assert file["tokens"].dtype == np.dtype(dtype)
        assert file["tokens"][:].tolist() == tokens.tolist()


def test_round_trip_mapped_and_byte_identical(tmp_path):
    mask = np.array([0, 1, 1, 1, 1, 1, 0])
    path = shard(tmp_path / "a.h5", loss_mask=mask)
    assert open_shard(path) == HEADER
    with h5py.File(path) as file:
        offset = file["tokens"].id.get_offset()
        assert file["document_offsets"].dtype == np.uint64
        assert file["loss_mask"][:].tolist() == mask.tolist()
    assert np.memmap(path, "<u2", "r", offset, (7,)).tolist() == TOKENS.tolist()
    assert file_sha256(shard(tmp_path / "b.h5", loss_mask=mask)) == file_sha256(path)


def test_blocks_are_all_written(tmp_path):
    blocks = [Pieces(np.array([3]), np.array([9]), TOKENS[:3]), Pieces(np.array([4]), np.array([11]), TOKENS[3:])]
    write_shard(tmp_path / "a.h5", HEADER, blocks, has_loss_mask=False)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["tokens"][:].tolist() == TOKENS.tolist()
        assert file["document_offsets"][:].tolist() == OFFSETS.tolist()


def test_blocks_that_lack_a_document_are_a_programmers_error(tmp_path):
    with pytest.raises(AssertionError):
        write_shard(tmp_path / "a.h5", HEADER, [Pieces(np.array([3]), np.array([20]), TOKENS[:3])], has_loss_mask=False)


def test_counts_that_disagree_are_a_programmers_error(tmp_path):
    with pytest.raises(AssertionError):
        shard(tmp_path / "a.h5", HEADER._replace(num_tokens=8))


def test_truncated_shard(tmp_path):
    path = shard(tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"a\.h5: truncated, or not an HDF5 file.*modelzoo preprocess"):
        open_shard(path)
    with pytest.raises(UserError, match=r"b\.h5: no such file"):
        open_shard(tmp_path / "b.h5")


def set_attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


def replace(name, data):
    def change(file):
        del file[name]
        if data is not None:
            file[name] = data

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.attrs.__delitem__("mode"), "lacks the attributes mode"),
        (set_attribute("schema_version", 9), "schema version 9, this program reads 2"),
        (replace("tokens", None), "dataset tokens is missing"),
        (replace("tokens", TOKENS.astype(np.int64)), "dataset tokens has shape .* and type int64"),
        (replace("tokens", TOKENS[:-1].astype(np.uint16)), r"has shape \(6,\)"),
        (replace("document_offsets", np.array([0, 3, 6], np.uint64)), "document_offsets end at 6"),
        (lambda file: file.create_dataset("loss_mask", data=np.ones(3, np.uint8)), "dataset loss_mask"),
    ],
)
def test_shard_against_its_header(tmp_path, change, message):
    path = shard(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(UserError, match=message):
        open_shard(path)


def test_manifest_round_trip_and_split(tmp_path):
    written = write_manifest(tmp_path, manifest())
    assert read_manifest(tmp_path) == written == manifest().model_copy(update={"sha256": written.sha256})
    assert written.sha256 == content_sha256(manifest().model_dump(mode="json"))
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    assert find_split(tmp_path, manifest(), "train").num_tokens == 7
    with pytest.raises(UserError, match=r"no split 'validation'; this dataset has train; set validation_frac"):
        find_split(tmp_path, manifest(), "validation")


def test_manifest_errors(tmp_path):
    with pytest.raises(UserError, match=r"not finished, or not a dataset.*modelzoo preprocess"):
        read_manifest(tmp_path)
    with pytest.raises(UserError, match="no such directory"):
        read_manifest(tmp_path / "nowhere")
    path = tmp_path / "manifest.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: not valid JSON"):
        read_manifest(tmp_path)
    path.write_text(json.dumps({"schema_version": 3}))
    with pytest.raises(UserError, match="schema version 3"):
        read_manifest(tmp_path)
    content = manifest().model_dump(mode="json")
    content["splits"]["train"]["num_tokens"] = "7"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"splits\.train\.num_tokens: Input should be a valid integer"):
        read_manifest(tmp_path)
