"""Files that Cerebras ModelZoo's preprocessing wrote, as they are.

Samples: `data` (N, 3 or 5, MSL), rows of input_ids, of what is called attention_mask and is the loss mask, and of
labels, already shifted. Corpora: `data` (num_tokens,), the end-of-document id after each document. Settings lie
in `data_params.json` beside them; a tokenizer does not.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_preprocessing.inspect.contents import DAMAGED, Contents, Document, Split
from modelzoo.base_config import UserError
from modelzoo.tokenizer import Tokenizer

BLOCK = 2**20
"""Elements that are read at a time."""
ROWS = 3


def open_files(path: Path, files: Sequence[Path], tokenizer: Tokenizer | None) -> Contents:
    """The content of `files`, one after the other. `path` is what the user named.

    Raises:
        UserError: a file is damaged, or is not like the first of them.
    """
    settings = _settings(files[0].parent / "data_params.json")
    processing = settings.get("processing")
    processing = processing if isinstance(processing, dict) else {}
    shapes = []
    for file in files:
        with _open(file) as data:
            if data.dtype.kind not in "iu" or not (data.ndim == 1 or (data.ndim == 3 and data.shape[1] >= ROWS)):
                raise UserError(
                    f"{file}: data has shape {data.shape} and type {data.dtype}; expected whole numbers, "
                    "(num_tokens,) or (rows, 3, tokens): input_ids, loss mask, labels"
                )
            shapes.append(data.shape)
    if len({shape[1:] for shape in shapes}) > 1:
        raise UserError(
            f"{path}: its files differ in shape ({', '.join(map(str, shapes[:5]))}); inspect them one by one"
        )
    facts = {"vocab_size": processing.get("vocab_size"), "end_of_document_id": processing.get("eos_id")}
    if tokenizer is not None:
        facts = {key: facts[key] if isinstance(facts[key], int) else getattr(tokenizer, key) for key in facts}
    split: Split
    if len(shapes[0]) == 3:
        split = SampleSplit(files, [shape[0] for shape in shapes], shapes[0][2])
    else:
        end = facts["end_of_document_id"]
        if not isinstance(end, int):
            raise UserError(
                f"{path}: nothing says which id ends a document (no data_params.json beside it with "
                "processing.eos_id); name the tokenizer it was written with: --tokenizer PATH"
            )
        split = CorpusSplit(files, end)
    notes = () if tokenizer else ("no tokenizer lies beside these files: ids are shown; for text: --tokenizer PATH",)
    setup = settings.get("setup")
    return Contents(
        path=path,
        what=f"ModelZoo {split.name}",
        unit="row" if len(shapes[0]) == 3 else "document",
        mode=setup.get("mode") if isinstance(setup, dict) else None,
        tokenizer=tokenizer,
        tokenizer_facts={key: value for key, value in facts.items() if value is not None},
        settings=settings,
        ledger=None,
        splits={split.name: split},
        notes=notes,
    )


class SampleSplit:
    """Rows of MSL positions. Shown of each are the MSL + 1 ids that it is made of: the first input, the labels."""

    name = "samples"
    num_bytes: int | None = None

    def __init__(self, files: Sequence[Path], rows: Sequence[int], length: int) -> None:
        self.num_files = len(files)
        self.num_documents = sum(rows)
        self.num_tokens = self.num_documents * length
        self._files = files
        self._starts = np.cumsum([0, *rows])
        self._rows_at_a_time = max(1, BLOCK // (ROWS * length))

    def lengths(self) -> Iterator[np.ndarray]:
        """Learnt tokens of each row: padding and what is masked do not count."""
        return (block[:, 1].astype(bool).sum(axis=1) for _, block in self._blocks())

    def num_learnt(self) -> int | None:
        return sum(int(lengths.sum()) for lengths in self.lengths())

    def document(self, index: int, first_token: int = 0, max_tokens: int | None = None) -> Document:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        with _open(self._files[number]) as data:
            row = data[index - int(self._starts[number])]
        ids, mask = _stream(row[None])
        part = slice(first_token, None if max_tokens is None else first_token + max_tokens)
        file = self._files[number].name
        return Document(self.name, index, file, ids.shape[1], first_token, ids[0, part], mask[0, part])

    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for first, block in self._blocks():
            ids, _ = _stream(block)
            yield first, np.arange(len(ids) + 1) * ids.shape[1], ids.reshape(-1)

    def _blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        for number, file in enumerate(self._files):
            with _open(file) as data:
                for start in range(0, len(data), self._rows_at_a_time):
                    yield int(self._starts[number]) + start, data[start : start + self._rows_at_a_time]


def _stream(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids (B, T + 1) and their loss mask of rows (B, 3, T). What is learnt is shown as the labels have it."""
    inputs, learnt, labels = rows[:, 0], rows[:, 1].astype(bool), rows[:, 2]
    following = np.concatenate([inputs[:, 1:], labels[:, -1:]], axis=1)
    ids = np.concatenate([inputs[:, :1], np.where(learnt, labels, following)], axis=1)
    return ids, np.concatenate([np.zeros((len(rows), 1), bool), learnt], axis=1)


class CorpusSplit:
    """A stream of ids, cut after each end-of-document id; what follows the last one is a document too."""

    name = "corpus"
    num_bytes: int | None = None

    def __init__(self, files: Sequence[Path], end_of_document_id: int) -> None:
        self.num_files = len(files)
        self._files = files
        self._end = end_of_document_id
        self.num_documents = self.num_tokens = 0
        for _, offsets, ids in self.blocks():
            self.num_documents += len(offsets) - 1
            self.num_tokens += len(ids)

    def lengths(self) -> Iterator[np.ndarray]:
        return (np.diff(offsets) for _, offsets, _ in self.blocks())

    def num_learnt(self) -> int | None:
        return None

    def document(self, index: int, first_token: int = 0, max_tokens: int | None = None) -> Document:
        for file, first, offsets, ids in self._blocks():
            if index < first + len(offsets) - 1:
                start, stop = offsets[index - first], offsets[index - first + 1]
                part = slice(
                    start + first_token, stop if max_tokens is None else min(stop, start + first_token + max_tokens)
                )
                return Document(self.name, index, file.name, int(stop - start), first_token, ids[part], None)
        raise AssertionError((index, self.num_documents))

    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        return ((first, offsets, ids) for _, first, offsets, ids in self._blocks())

    def _blocks(self) -> Iterator[tuple[Path, int, np.ndarray, np.ndarray]]:
        first = 0
        for file in self._files:
            with _open(file) as data:
                held = np.empty(0, data.dtype)  # of a document that goes on
                for start in range(0, len(data), BLOCK):
                    ids = np.concatenate([held, data[start : start + BLOCK]])
                    ends = np.flatnonzero(ids == self._end) + 1
                    if start + BLOCK >= len(data) and (not len(ends) or ends[-1] < len(ids)):
                        ends = np.append(ends, len(ids))
                    if not len(ends):
                        held = ids
                        continue
                    ids, held = ids[: ends[-1]], ids[ends[-1] :]
                    yield file, first, np.concatenate([[0], ends]), ids
                    first += len(ends)


@contextmanager
def _open(path: Path) -> Iterator[h5py.Dataset]:
    try:
        with h5py.File(path, "r") as file:
            if not isinstance(file.get("data"), h5py.Dataset):
                raise UserError(f"{path}: has no dataset `data`, but other files of its directory have")
            yield file["data"]
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"{path}: truncated or damaged ({error})") from error


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    return content if isinstance(content, dict) else {}
