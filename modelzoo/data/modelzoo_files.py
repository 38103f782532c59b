"""Files that Cerebras ModelZoo's preprocessing wrote, read as they are. No torch.

A directory of `*.h5` files, each with a dataset `data`, and most often a `data_params.json`:

- sample files: (N, 3, MSL) integers; the rows of an example are input_ids, a mask (named attention_mask, but it
  is the loss mask: 1 where a target counts) and labels, already shifted. With 5 rows there follow attention_span
  (how many later tokens may still look at this one) and position_ids, for several documents in a row.
- corpus files: (num_tokens,) unsigned integers, an end-of-document id after each document.

Nothing in them says which tokenizer they were written with.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from modelzoo.base_config import UserError
from modelzoo.data.packing import segments
from modelzoo.data.rows import Batch, RowDataset, mask_of_filled
from modelzoo.data.stream import Stream

PARAMETERS = "data_params.json"
SHAPES = "(N, 3, MSL) or (N, 5, MSL) in sample files, (num_tokens,) in corpus files"
REMEDY = "restore the file, or write the directory again with the program it came from"
BLOCKS, BLOCK_BYTES = 16, 4096
"""What is hashed of each file for its fingerprint: evenly spaced blocks, both ends among them."""


class SampleFiles(RowDataset):
    """Sample files, in rows of MSL tokens or of any length that divides it."""

    def __init__(self, path: Path, seq_len: int, isolate_documents: bool, vocab_size: int) -> None:
        """`vocab_size` is that of the model, used where the files do not tell theirs."""
        shapes = {file: _shape(file) for file in h5_files(path)}
        (first, (_, num_features, msl)), *others = shapes.items()
        for file, shape in others:
            if shape[1:] != (num_features, msl):
                raise UserError(f"{file}: examples of shape {shape[1:]}, but {first} has {(num_features, msl)}")
        if msl % seq_len:
            raise UserError(
                f"{path}: its rows were cut to {msl} tokens when they were written, so data.seq_len={seq_len} "
                f"cannot be read from them; use data.seq_len={msl}, or a length that divides it"
            )
        if isolate_documents and num_features == 3:
            raise UserError(_no_isolation(path))
        _describe(self, path, seq_len, vocab_size)
        self.isolate_documents = isolate_documents
        if num_features == 5 and not isolate_documents:
            self.notes += (f"{path}: holds attention spans; only data.isolate_documents=true goes by them",)
        self._stream = Stream(list(shapes), [shape[0] for shape in shapes.values()])
        self._pieces = msl // seq_len
        self._inverted = _parameters(path, "dataset").get("inverted_mask") is True
        self.num_rows = len(self._stream) * self._pieces
        self.num_tokens = self.num_rows * seq_len

    def rows(self, indices: Sequence[int] | np.ndarray) -> Batch:
        numbers = self._row_numbers(indices)
        data = np.empty((len(numbers), 4, self.seq_len), dtype=np.int64)
        example, piece = np.divmod(numbers, self._pieces)
        file = np.searchsorted(self._stream.starts[1:], example, side="right")
        where = zip(file.tolist(), (example - self._stream.starts[file]).tolist(), piece.tolist(), strict=True)
        for row, (number, local, part) in enumerate(where):
            columns = slice(part * self.seq_len, (part + 1) * self.seq_len)
            try:
                found = self._stream.open(number, "data")[local][:4, columns]  # h5py's quickest way; a chunk is whole
            except OSError as error:  # a compressed chunk that does not unpack
                name = self._stream.files[number]
                raise UserError(f"{name}: example {local} cannot be read ({error}); {REMEDY}") from error
            data[row, : len(found)] = found
        input_ids, mask, labels, span = data.swapaxes(0, 1)
        self._check_ids(input_ids)
        self._check_ids(labels)
        loss_mask = (mask == 0) if self._inverted else (mask != 0)
        batch = {"input_ids": input_ids, "labels": labels, "loss_mask": loss_mask}
        if self.isolate_documents:
            batch["position_ids"], batch["segment_ids"] = self._segments(span, loss_mask)
        return batch

    def _segments(self, span: np.ndarray, loss_mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        last = span == 0  # of its document, and every token of padding
        if not (last[:, :-1] | (span[:, 1:] == span[:, :-1] - 1)).all():
            raise UserError(
                f"{self.path}: attention spans that do not count down to the end of a document; read these files "
                "with data.isolate_documents=false"
            )
        starts = np.concatenate([np.ones_like(last[:, :1]), last[:, :-1]], axis=1)
        row, column = starts.nonzero()
        filled = np.full(len(span), self.seq_len)
        position_ids, segment_ids = segments(row, column, filled, self.seq_len)
        segment_ids[starts & last & ~loss_mask] = 0
        return position_ids, segment_ids


class CorpusFiles(RowDataset):
    """Corpus files: one stream, read in rows of any length, as `TokenDataset` reads its own."""

    def __init__(self, path: Path, seq_len: int, isolate_documents: bool, vocab_size: int) -> None:
        """`vocab_size` is that of the model, used where the files do not tell theirs."""
        shapes = {file: _shape(file) for file in h5_files(path)}
        if isolate_documents:
            raise UserError(_no_isolation(path))
        self._stream = Stream(list(shapes), [shape[0] for shape in shapes.values()])
        _describe(self, path, seq_len, vocab_size)
        self.num_tokens = len(self._stream)
        if self.num_tokens == 0:
            raise UserError(f"{path}: no tokens in its files; {REMEDY}")
        self.num_rows = -(-self.num_tokens // seq_len)
        if self.end_of_document_id is None:
            last = np.empty(1, dtype=np.int64)
            self._stream.read("data", self.num_tokens - 1, last, 0)
            self.end_of_document_id = int(last[0])
            self.notes += (f"{path}: takes its last token, {last[0]}, for the end-of-document id",)

    def rows(self, indices: Sequence[int] | np.ndarray) -> Batch:
        numbers = self._row_numbers(indices)
        assert self.end_of_document_id is not None
        first = numbers * self.seq_len
        try:
            tokens = self._stream.gather("data", first - 1, self.seq_len + 1, self.end_of_document_id)
        except OSError as error:
            raise UserError(f"{self.path}: tokens cannot be read ({error}); {REMEDY}") from error
        self._check_ids(tokens)
        tokens = tokens.astype(np.int64)
        loss_mask = mask_of_filled(self.num_tokens - first, self.seq_len)
        return {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:], "loss_mask": loss_mask}


def h5_files(path: Path) -> list[Path]:
    """The data files of a directory, in the order of their names."""
    return sorted(path.glob("*.h5"))


def open_modelzoo_files(path: Path, seq_len: int, isolate_documents: bool, vocab_size: int) -> RowDataset:
    """A directory of sample or of corpus files.

    Raises:
        UserError: a file is truncated or something else, or cannot be read as the run asks.
    """
    kinds = {len(_shape(file)): file for file in h5_files(path)}
    if len(kinds) > 1:
        raise UserError(f"{path}: both sample files ({kinds[3].name}) and corpus files ({kinds[1].name}); part them")
    return (CorpusFiles if 1 in kinds else SampleFiles)(path, seq_len, isolate_documents, vocab_size)


def _shape(file: Path) -> tuple[int, ...]:
    """The shape of the file's data, checked."""
    try:
        with h5py.File(file, "r") as opened:
            data = opened.get("data")
            if not isinstance(data, h5py.Dataset):
                raise UserError(f"{file}: no dataset `data`, so not a file of ModelZoo's; {REMEDY}")
            shape, dtype = tuple(map(int, data.shape)), data.dtype
            stated = int(opened.attrs.get("n_examples", shape[0] if shape else 0))
    except OSError as error:
        raise UserError(f"{file}: truncated, or not an HDF5 file ({error}); {REMEDY}") from error
    if not (len(shape) == 1 or (len(shape) == 3 and shape[1] in (3, 5) and shape[2] > 0)) or dtype.kind not in "iu":
        raise UserError(f"{file}: data of shape {shape} and type {dtype}; expected integers, {SHAPES}")
    if len(shape) == 3 and stated != shape[0]:
        raise UserError(f"{file}: {shape[0]} examples, but its attribute n_examples says {stated}; {REMEDY}")
    return shape


def _describe(dataset: RowDataset, path: Path, seq_len: int, vocab_size: int) -> None:
    """Set what both kinds of files have in common."""
    processing = _parameters(path, "processing")
    stated = {name: processing.get(name) for name in ("vocab_size", "eos_id")}
    for name, value in stated.items():
        if value is not None and not (isinstance(value, int) and value >= 0):
            raise UserError(f"{path / PARAMETERS}: processing.{name}={value!r}; expected a whole number")
    dataset.path, dataset.split, dataset.seq_len = path, None, seq_len
    dataset.tokenizer_sha256 = None
    dataset.vocab_size = stated["vocab_size"] or vocab_size
    dataset.vocab_size_is_stated = bool(stated["vocab_size"])
    dataset.end_of_document_id = stated["eos_id"]
    dataset.fingerprint = _fingerprint(h5_files(path))
    known = f"only its size, {dataset.vocab_size:,}, is checked" if stated["vocab_size"] else "nothing of it is checked"
    dataset.notes = (f"{path}: ModelZoo's files do not say which tokenizer wrote them: {known}",)


def _parameters(path: Path, section: str) -> dict[str, Any]:
    """A section of data_params.json; empty where there is none."""
    file = path / PARAMETERS
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get(section, {})
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file}: not a JSON object ({error}); {REMEDY}") from error
    return found if isinstance(found, dict) else {}


def _fingerprint(files: Sequence[Path]) -> str:
    """sha256 of the files' names, sizes and BLOCKS evenly spaced blocks of each: a sample, because hashing all
    of a corpus would take minutes at every start. A change between the blocks goes unnoticed."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with file.open("rb") as opened:
            for number in range(BLOCKS):
                opened.seek(max(0, size - BLOCK_BYTES) * number // (BLOCKS - 1))
                digest.update(opened.read(BLOCK_BYTES))
    return digest.hexdigest()


def _no_isolation(path: Path) -> str:
    return (
        f"{path}: does not say where documents start, so data.isolate_documents=true cannot be had from it; "
        "preprocess the text with modelzoo preprocess, or use data.isolate_documents=false"
    )
