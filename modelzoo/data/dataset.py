"""Rows of a fixed length from a preprocessed dataset. B rows in a batch, T = seq_len positions. No torch.

The shards of a split form one stream. It is read as though an end-of-document id stood before its first
token, so that every token is a target exactly once an epoch, whichever way rows are made of it:

- stream: row i has the targets stream[i*T : (i+1)*T] and the inputs one place earlier.
- best_fit: rows of whole documents. Each is read as a stream of its own: its first input is the
  end-of-document id. Where a document longer than T is cut, the next piece's first input is the token
  before the cut.

What a row has left is padded, and its padding masked.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from modelzoo.base_config import UserError
from modelzoo.data.packing import Plan, best_fit, segments
from modelzoo.data.rows import Batch, RowDataset, mask_of_filled
from modelzoo.data.schema import MANIFEST, ShardInfo, file_sha256, find_split, open_shard, read_manifest
from modelzoo.data.stream import Stream, concatenated_ranges

VERIFIED_BYTES = 256 * 2**20
"""A split up to this size is hashed when it is opened, which takes a fifth of a second; `modelzoo verify` hashes
any. A flipped byte in a header can keep HDF5 in an endless loop."""


class TokenDataset(RowDataset):
    """One split of a dataset directory, as rows of T tokens."""

    def __init__(
        self,
        path: str | Path,
        split: str,
        seq_len: int,
        packing: Literal["stream", "best_fit"] = "stream",
        isolate_documents: bool = False,
    ) -> None:
        """Read the manifest and every shard's header; no tokens yet.

        Raises:
            UserError: the directory, the split or a shard is missing or damaged, or a shard is not the
                manifest's.
        """
        assert seq_len > 0, seq_len
        self.path = Path(path)
        self.split = split
        self.seq_len = seq_len
        self.isolate_documents = isolate_documents
        manifest = read_manifest(self.path)
        info = find_split(self.path, manifest, split)
        self.fingerprint = file_sha256(self.path / MANIFEST)
        self.tokenizer_sha256 = manifest.tokenizer.sha256
        self.vocab_size = manifest.tokenizer.vocab_size
        self.end_of_document_id: int = manifest.tokenizer.end_of_document_id
        self.num_tokens = info.num_tokens
        self.num_documents: int = info.num_documents
        self.num_bytes = info.num_bytes
        sizes = [path.stat().st_size for shard in info.shards if (path := self.path / shard.file).is_file()]
        for shard in info.shards:
            if sum(sizes) <= VERIFIED_BYTES and (self.path / shard.file).is_file():
                self._verify(shard)
            header = open_shard(self.path / shard.file)
            expected = {
                **shard.model_dump(exclude={"file", "sha256"}),
                "tokenizer_sha256": self.tokenizer_sha256,
            }
            for name, value in expected.items():
                if getattr(header, name) != value:
                    raise UserError(
                        f"{self.path / shard.file}: {name}={getattr(header, name)}, but "
                        f"{self.path / MANIFEST} says {value}; the files of two datasets are mixed: "
                        "preprocess again"
                    )
        files = [self.path / shard.file for shard in info.shards]
        self._stream = Stream(files, [shard.num_tokens for shard in info.shards])
        self._first_documents = np.cumsum([0, *(shard.num_documents for shard in info.shards)])
        self._plan: Plan | None = None if packing == "stream" else best_fit(self._document_starts, seq_len)
        self.num_rows = -(-self.num_tokens // seq_len) if self._plan is None else len(self._plan.row_starts) - 1

    def _verify(self, shard: ShardInfo) -> None:
        if file_sha256(self.path / shard.file) != shard.sha256:
            raise UserError(
                f"{self.path / shard.file}: its sha256 is not the one in {self.path / MANIFEST}: the file is damaged, "
                "or of another dataset; copy it again, or delete the dataset and preprocess again "
                f"(modelzoo verify {self.path} tells all that is wrong)"
            )

    @property
    def bytes_per_token(self) -> float | None:  # type: ignore[override]
        """UTF-8 bytes of text for each token; None where a loss mask leaves part of the text out of the loss."""
        return None if self._has_loss_mask else self.num_bytes / self.num_tokens

    def rows(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The rows of these numbers. Without isolation or packing, `input_ids` and `labels` are views of one
        buffer, one place apart. Raises as `RowDataset.rows`."""
        numbers = self._row_numbers(indices)
        return self._windows(numbers) if self._plan is None else self._packed(numbers, self._plan)

    def document(self, index: int) -> np.ndarray:
        """The ids of one document (length,), without its end-of-document id.

        Raises:
            IndexError: outside [0, num_documents).
        """
        if not 0 <= index < self.num_documents:
            raise IndexError(f"document {index} of {self.num_documents} in {self.path}")
        shard = int(np.searchsorted(self._first_documents, index, side="right")) - 1
        local = index - self._first_documents[shard]
        start, stop = (int(offset) for offset in self._stream.open(shard, "document_offsets")[local : local + 2])
        return np.array(self._stream.open(shard, "tokens")[start : stop - 1])

    def _windows(self, numbers: np.ndarray) -> Batch:
        first, length = numbers * self.seq_len, self.seq_len + 1
        tokens = self._stream.gather("tokens", first - 1, length, self.end_of_document_id)  # (B, T + 1)
        self._check_ids(tokens)
        tokens = tokens.astype(np.int64)
        filled = np.minimum(self.num_tokens - first, self.seq_len)
        if self._has_loss_mask:
            loss_mask = self._stream.gather("loss_mask", first, self.seq_len, 0) != 0
        else:
            loss_mask = mask_of_filled(filled, self.seq_len)
        batch = {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:], "loss_mask": loss_mask}
        if self.isolate_documents:
            starts = self._document_starts
            inside = np.searchsorted(starts, first, "right"), np.searchsorted(starts, first + filled, "left")
            document, row = concatenated_ranges(*inside)
            row = np.concatenate([np.arange(len(numbers)), row])
            column = np.concatenate([np.zeros(len(numbers), np.int64), starts[document] - first[row[len(numbers) :]]])
            batch["position_ids"], batch["segment_ids"] = segments(row, column, filled, self.seq_len)
        return batch

    def _packed(self, numbers: np.ndarray, plan: Plan) -> Batch:
        piece, row = concatenated_ranges(plan.row_starts[numbers], plan.row_starts[numbers + 1])
        first, length = plan.first[piece], plan.length[piece].astype(np.int64)
        filled = np.bincount(row, length, minlength=len(numbers)).astype(np.int64)
        before = np.cumsum(length) - length  # over the whole batch; less what earlier rows hold, it is the column
        column = before - (np.cumsum(filled) - filled)[row]
        at = row * self.seq_len + column
        labels = np.full((len(numbers), self.seq_len), self.end_of_document_id, dtype=np.int64)
        self._stream.scatter("tokens", first, length, labels.reshape(-1), at)
        input_ids = np.empty_like(labels)
        input_ids[:, 1:] = labels[:, :-1]
        input_ids[row, column] = self.end_of_document_id
        cut = np.flatnonzero(self._document_starts[np.searchsorted(self._document_starts, first)] != first)
        one = np.ones_like(cut)
        self._stream.scatter("tokens", first[cut] - 1, one, input_ids.reshape(-1), at[cut])  # the token before a cut
        if self._has_loss_mask:
            loss_mask = np.zeros(labels.shape, dtype=np.bool_)
            self._stream.scatter("loss_mask", first, length, loss_mask.reshape(-1), at)
        else:
            loss_mask = mask_of_filled(filled, self.seq_len)
        self._check_ids(labels)
        batch = {"input_ids": input_ids, "labels": labels, "loss_mask": loss_mask}
        if self.isolate_documents:
            batch["position_ids"], batch["segment_ids"] = segments(row, column, filled, self.seq_len)
        return batch

    @cached_property
    def _document_starts(self) -> np.ndarray:
        """Where each document of the split starts in the stream, (num_documents + 1,) int64."""
        parts = [np.zeros(1, dtype=np.int64)]
        for shard, start in enumerate(self._stream.starts[:-1]):
            parts.append(np.asarray(self._stream.open(shard, "document_offsets")[1:]).astype(np.int64) + start)
        starts = np.concatenate(parts)
        if not (np.diff(starts) > 0).all():
            raise UserError(
                f"{self.path}: document_offsets of the split {self.split} do not increase: a shard is damaged; "
                "delete the dataset and write it again with: modelzoo preprocess CONFIG"
            )
        return starts

    @cached_property
    def _has_loss_mask(self) -> bool:
        masked = [_has_dataset(file, "loss_mask") for file in self._stream.files]
        if any(masked) != all(masked):
            raise UserError(f"{self.path}: only some shards have a loss_mask; preprocess again")
        return any(masked)


def _has_dataset(path: Path, name: str) -> bool:
    with h5py.File(path, "r") as file:
        return name in file
