import json

import h5py
import numpy as np
import pytest

from modelzoo.base_config import UserError
from modelzoo.data.config import SourceConfig
from modelzoo.data.dataset import TokenDataset
from modelzoo.data.sources import open_dataset
from tests.data.datasets import build
from tests.data.test_dataset import FakeTokenizer
from tests.samples import shared_data

MSL = 12


def examples(num, num_features=3, seed=0):
    """(num, 3 or 5, MSL) as ModelZoo writes them, the last two tokens of each example being padding."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(1, 50, (num, MSL + 1))
    mask = np.ones((num, MSL), dtype=int)
    mask[:, -2:] = 0
    rows = [ids[:, :-1], mask, ids[:, 1:]]
    if num_features == 5:
        span = [3, 2, 1, 0, 0, 4, 3, 2, 1, 0, 0, 0]  # documents of 4, 1 and 5 tokens
        position = [0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 0, 0]
        rows += [np.tile(span, (num, 1)), np.tile(position, (num, 1))]
    return np.stack(rows, axis=1).astype(np.int32)


def write(path, data, **options):
    with h5py.File(path, "w") as file:
        if data.ndim == 3:
            options = {"chunks": (1, *data.shape[1:]), "compression": "gzip", **options}
            file.attrs["n_examples"] = len(data)
        file.create_dataset("data", data=data, **options)


def write_parameters(folder, **processing):
    (folder / "data_params.json").write_text(json.dumps({"processing": processing}))


def read(folder, seq_len=MSL, isolate=False, vocab_size=60, **source):
    return open_dataset(SourceConfig(path=str(folder), **source), seq_len, isolate, vocab_size)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("num_features", [3, 5])
@pytest.mark.parametrize("seq_len", [MSL, 6, 4, 1])
def test_sample_files_give_their_rows(tmp_path, num_features, seq_len, compressed):
    parts = [examples(5, num_features), examples(1, num_features, seed=1), examples(3, num_features, seed=2)]
    for number, part in enumerate(parts):
        write(
            tmp_path / f"output_chunk_{number}_0.h5",
            part,
            **({} if compressed else {"chunks": None, "compression": None}),
        )
    dataset = read(tmp_path, seq_len)
    data = np.concatenate(parts)
    assert len(dataset) == 9 * MSL // seq_len
    assert dataset.num_tokens == 9 * MSL
    batch = dataset.rows(range(len(dataset)))
    for name, feature in (("input_ids", 0), ("loss_mask", 1), ("labels", 2)):
        assert np.array_equal(batch[name], data[:, feature].reshape(-1, seq_len))
    assert (batch["labels"].dtype, batch["loss_mask"].dtype) == (np.int64, np.bool_)
    picked = dataset.rows([len(dataset) - 1, 0, 0])
    assert np.array_equal(picked["labels"], batch["labels"][[-1, 0, 0]])
    with pytest.raises(IndexError):
        dataset.rows([len(dataset)])


def test_attention_spans_become_segments(tmp_path):
    write(tmp_path / "a.h5", examples(2, 5))
    batch = read(tmp_path, isolate=True).rows([0, 1])
    assert batch["segment_ids"].tolist() == [[1, 1, 1, 1, 2, 3, 3, 3, 3, 3, 0, 0]] * 2
    assert batch["position_ids"].tolist() == examples(2, 5)[:, 4].tolist()
    halves = read(tmp_path, seq_len=6, isolate=True).rows([0, 1])
    assert halves["segment_ids"].tolist() == [[1, 1, 1, 1, 2, 3], [1, 1, 1, 1, 0, 0]]
    assert halves["position_ids"].tolist() == [[0, 1, 2, 3, 0, 0], [0, 1, 2, 3, 0, 0]]  # a piece starts anew
    assert any("isolate_documents=true" in note for note in read(tmp_path).notes)
    wrong = examples(2, 5)
    wrong[:, 3, 1] = 9
    write(tmp_path / "a.h5", wrong)
    with pytest.raises(UserError, match="attention spans that do not count down"):
        read(tmp_path, isolate=True).rows([0])


@pytest.mark.parametrize(("seq_len", "fits"), [(13, False), (5, False), (24, False), (3, True)])
def test_sample_files_say_which_length_they_have(tmp_path, seq_len, fits):
    write(tmp_path / "a.h5", examples(2))
    if fits:
        assert len(read(tmp_path, seq_len)) == 2 * MSL // seq_len
        return
    with pytest.raises(UserError, match=r"cut to 12 tokens .* use data\.seq_len=12, or a length that divides it"):
        read(tmp_path, seq_len)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
@pytest.mark.parametrize("seq_len", [1, 5, 7, 41, 100])
def test_corpus_files_read_as_our_own_stream(tmp_path, dtype, seq_len):
    """The same tokens in both formats give the same rows at any length."""
    stream = build(tmp_path / "ours").astype(dtype)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    write(theirs / "a.h5", stream[:17])
    write(theirs / "b.h5", stream[17:17])  # empty
    write(theirs / "c.h5", stream[17:])
    write_parameters(theirs, vocab_size=50, eos_id=0)
    dataset, ours = read(theirs, seq_len), TokenDataset(tmp_path / "ours", "train", seq_len)
    assert (dataset.num_tokens, len(dataset)) == (42, len(ours))
    found, expected = dataset.rows(range(len(ours))), ours.rows(range(len(ours)))
    for name in expected:
        assert np.array_equal(found[name], expected[name])
        assert found[name].dtype == expected[name].dtype


def test_what_the_files_do_not_say_is_said(tmp_path):
    write(tmp_path / "a.h5", np.array([5, 6, 49], dtype=np.uint16))
    dataset = read(tmp_path, 2)
    assert (dataset.vocab_size, dataset.end_of_document_id) == (60, 49)
    assert "do not say which tokenizer wrote them: nothing of it is checked" in dataset.notes[0]
    assert "takes its last token, 49, for the end-of-document id" in dataset.notes[1]
    write_parameters(tmp_path, vocab_size=55, eos_id=3)
    dataset = read(tmp_path, 2)
    assert (dataset.vocab_size, dataset.end_of_document_id) == (55, 3)
    assert len(dataset.notes) == 1
    dataset.check_against(FakeTokenizer("ab", vocab_size=55, end_of_document_id=3), 60)
    for tokenizer in (FakeTokenizer("ab", vocab_size=54, end_of_document_id=3), FakeTokenizer("ab", vocab_size=55)):
        with pytest.raises(UserError, match="name the tokenizer that the data was written with"):
            dataset.check_against(tokenizer, 60)
    with pytest.raises(UserError, match=r"model\.vocab_size=54"):
        dataset.check_against(None, 54)


def test_options_that_the_files_cannot_serve_are_refused(tmp_path):
    write(tmp_path / "a.h5", examples(2))
    with pytest.raises(UserError, match="have no splits; use split=null instead of train"):
        read(tmp_path, split="train")
    with pytest.raises(UserError, match="use packing=stream instead of best_fit"):
        read(tmp_path, packing="best_fit")
    with pytest.raises(UserError, match="does not say where documents start"):
        read(tmp_path, isolate=True)
    build(tmp_path / "ours")
    with pytest.raises(UserError, match=r"split=null, but a dataset of this program has splits"):
        read(tmp_path / "ours")


def damaged(folder, kind):
    """A folder of two good files, the second of which then suffers."""
    write(folder / "a.h5", examples(40))
    second = folder / "b.h5"
    write(second, examples(40, seed=1))
    content = second.read_bytes()
    match kind:
        case "cut short":
            second.write_bytes(content[: len(content) // 2])
        case "empty":
            second.write_bytes(b"")
        case "text":
            second.write_text("not HDF5")
        case "flipped":
            with h5py.File(second) as file:
                place = file["data"].id.get_chunk_info(0)
            start = place.byte_offset + place.size // 2
            second.write_bytes(
                content[:start] + bytes(b ^ 0xFF for b in content[start : start + 8]) + content[start + 8 :]
            )
        case "other dataset":
            second.unlink()
            with h5py.File(second, "w") as file:
                file["tokens"] = [1, 2]
        case "other shape":
            write(second, examples(40)[:, :2])
        case "other length":
            write(second, examples(40)[:, :, :6])
        case "floats":
            write(second, examples(40).astype(np.float32))
        case "corpus":
            write(second, np.arange(5, dtype=np.uint16))
        case "count":
            with h5py.File(second, "r+") as file:
                file.attrs["n_examples"] = 41
        case "id":
            data = examples(40)
            data[3, 2, 1] = 60
            write(second, data)
        case "negative":
            data = examples(40)
            data[3, 0, 1] = -100
            write(second, data)
        case "json":
            (folder / "data_params.json").write_text("{")
        case "vocabulary":
            write_parameters(folder, vocab_size="many")
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut short", r"b\.h5: truncated, or not an HDF5 file"),
        ("empty", r"b\.h5: truncated, or not an HDF5 file"),
        ("text", r"b\.h5: truncated, or not an HDF5 file"),
        ("flipped", r"b\.h5: example 0 cannot be read"),
        ("other dataset", r"b\.h5: no dataset `data`"),
        ("other shape", r"b\.h5: data of shape \(40, 2, 12\) and type int32; expected integers, \(N, 3, MSL\)"),
        ("other length", r"b\.h5: examples of shape \(3, 6\), but .*a\.h5 has \(3, 12\)"),
        ("floats", r"b\.h5: data of shape .* and type float32"),
        ("corpus", r"both sample files \(a\.h5\) and corpus files \(b\.h5\)"),
        ("count", r"b\.h5: 40 examples, but its attribute n_examples says 41"),
        ("id", r"holds the id 60, but its tokenizer has 60"),
        ("negative", r"holds the id -100"),
        ("json", r"data_params\.json: not a JSON object"),
        ("vocabulary", r"processing\.vocab_size='many'; expected a whole number"),
    ],
)
def test_damage_is_named(tmp_path, kind, message):
    folder = damaged(tmp_path, kind)
    with pytest.raises(UserError, match=message):
        list(read(folder).evaluation_batches(16))


def test_a_changed_file_has_another_fingerprint(tmp_path):
    write(tmp_path / "a.h5", examples(3))
    before = read(tmp_path).fingerprint
    assert read(tmp_path).fingerprint == before
    write(tmp_path / "a.h5", examples(3, seed=1))
    changed = read(tmp_path).fingerprint
    (tmp_path / "a.h5").rename(tmp_path / "b.h5")
    assert len({before, changed, read(tmp_path).fingerprint}) == 3


@pytest.mark.parametrize(("family", "num_rows", "eos"), [("gpt2", 427, 50256), ("neox", 433, 0)])
def test_files_that_modelzoo_wrote(family, num_rows, eos):
    folder = shared_data(f"modelzoo_hdf5/{family}")
    counts = json.loads((folder / "data_params.json").read_text())["post-process"]
    dataset = read(folder, 512, vocab_size=50304)
    assert (len(dataset), dataset.end_of_document_id) == (num_rows, eos) == (counts["n_examples"], eos)
    batch = dataset.rows(range(num_rows))
    assert batch["loss_mask"].sum() == counts["loss_valid_tokens"]
    whole = batch["loss_mask"].all(axis=1)
    assert np.array_equal(batch["input_ids"][whole][:, 1:-1], batch["labels"][whole][:, :-2])
    quarters = read(folder, 128, vocab_size=50304)
    assert np.array_equal(quarters.rows(range(len(quarters)))["labels"], batch["labels"].reshape(-1, 128))
