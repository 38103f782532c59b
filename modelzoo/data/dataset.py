"""Rows of a fixed length from a preprocessed dataset. B rows in a batch, T = seq_len positions. No torch.

The shards of a split form one stream. It is read as though an end-of-document id stood before its first
token, so that every token is a target exactly once an epoch: window i has the targets
stream[i*T : (i+1)*T] and the inputs one place earlier. The last window is padded, and its padding masked.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from modelzoo.base_config import UserError
from modelzoo.data.order import locate, permute
from modelzoo.data.schema import MANIFEST, file_sha256, find_split, open_shard, read_manifest

Batch = dict[str, np.ndarray]
ORDER_BLOCK = 8192
"""Indices permuted at a time: a batch of 32 on its own would pay numpy's cost per call each step."""


class Fingerprint(Protocol):
    """What the data needs to know of a tokenizer."""

    @property
    def path(self) -> Path: ...
    @property
    def sha256(self) -> str: ...


class TokenDataset:
    """One split of a dataset directory, as windows of T tokens."""

    def __init__(self, path: str | Path, split: str, seq_len: int) -> None:
        """Read the manifest and every shard's header; no tokens yet.

        Raises:
            UserError: the directory, the split or a shard is missing or damaged, or a shard is not the
                manifest's.
        """
        assert seq_len > 0, seq_len
        self.path = Path(path)
        self.split = split
        self.seq_len = seq_len
        manifest = read_manifest(self.path)
        info = find_split(self.path, manifest, split)
        self.manifest_sha256 = file_sha256(self.path / MANIFEST)
        self.tokenizer_sha256 = manifest.tokenizer.sha256
        self.vocab_size = manifest.tokenizer.vocab_size
        self.end_of_document_id = manifest.tokenizer.end_of_document_id
        self.num_tokens = info.num_tokens
        self.num_documents = info.num_documents
        self.num_bytes = info.num_bytes
        self.num_windows = -(-self.num_tokens // seq_len)
        for shard in info.shards:
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
        self._files = [self.path / shard.file for shard in info.shards]
        self._token_starts = np.cumsum([0, *(shard.num_tokens for shard in info.shards)])
        self._document_starts = np.cumsum([0, *(shard.num_documents for shard in info.shards)])
        self._maps: dict[tuple[int, str], Any] = {}
        self._owner = os.getpid()

    def __len__(self) -> int:
        """Number of windows."""
        return self.num_windows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    @property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes of text for each token; None where a loss mask leaves part of the text out of the loss."""
        return None if self._has_loss_mask else self.num_bytes / self.num_tokens

    def check_against(self, tokenizer: Fingerprint | None, vocab_size: int) -> None:
        """Refuse data of another tokenizer, or ids that the model's `vocab_size` rows do not cover.

        Raises:
            UserError: names both sides.
        """
        if tokenizer is not None and tokenizer.sha256 != self.tokenizer_sha256:
            raise UserError(
                f"{self.path} was written with a tokenizer of sha256 {self.tokenizer_sha256[:12]}…, but "
                f"{tokenizer.path} has {tokenizer.sha256[:12]}…; preprocess again with it, "
                f"or use the one in {self.path}"
            )
        if self.vocab_size > vocab_size:
            raise UserError(
                f"{self.path} holds ids up to {self.vocab_size - 1}, but model.vocab_size={vocab_size}; "
                f"use at least {self.vocab_size}"
            )

    def rows(self, indices: Sequence[int] | np.ndarray) -> Batch:
        """The windows of these indices.

        Returns:
            input_ids (B, T) int64, labels (B, T) int64 (already shifted), loss_mask (B, T) bool. The first
            two are views of one buffer, one place apart.

        Raises:
            IndexError: an index outside [0, num_windows).
        """
        windows = np.asarray(indices, dtype=np.int64)
        if windows.size and not (windows.min() >= 0 and windows.max() < self.num_windows):
            raise IndexError(f"window {windows.min()}…{windows.max()} of {self.num_windows} in {self.path}")
        first = windows * self.seq_len - 1
        tokens = self._gather("tokens", first, np.int64, self.end_of_document_id)  # (B, T + 1)
        if tokens.size and tokens.max() >= self.vocab_size:
            raise UserError(
                f"{self.path}: holds the id {tokens.max()}, but its tokenizer has {self.vocab_size}: a shard is "
                "damaged; delete the dataset and write it again with: modelzoo preprocess CONFIG"
            )
        if self._has_loss_mask:
            loss_mask = self._gather("loss_mask", first, np.bool_, 0)[:, 1:]
        else:
            loss_mask = np.ones((len(windows), self.seq_len), dtype=np.bool_)
            last = windows == self.num_windows - 1
            loss_mask[last, self.num_tokens - (self.num_windows - 1) * self.seq_len :] = False
        return {"input_ids": tokens[:, :-1], "labels": tokens[:, 1:], "loss_mask": loss_mask}

    def evaluation_batches(self, batch_size: int, max_batches: int | None = None) -> Iterator[Batch]:
        """All windows once, in order; the last batch is smaller. At most `max_batches`."""
        for start in range(0, self.num_windows, batch_size)[:max_batches]:
            yield self.rows(range(start, min(start + batch_size, self.num_windows)))

    def document(self, index: int) -> np.ndarray:
        """The ids of one document (length,), without its end-of-document id.

        Raises:
            IndexError: outside [0, num_documents).
        """
        if not 0 <= index < self.num_documents:
            raise IndexError(f"document {index} of {self.num_documents} in {self.path}")
        shard = int(np.searchsorted(self._document_starts, index, side="right")) - 1
        local = index - self._document_starts[shard]
        start, stop = (int(offset) for offset in self._open(shard, "document_offsets")[local : local + 2])
        return np.array(self._open(shard, "tokens")[start : stop - 1])

    def _gather(self, name: str, first: np.ndarray, dtype: type, padding: int) -> np.ndarray:
        """stream[f : f + T + 1] for each f of `first` (B,), as (B, T + 1); `padding` outside the stream.

        Slices beat one fancy gather: 400 against 220 thousand rows a second of 2,048 (no temporary).
        """
        length = self.seq_len + 1
        out: np.ndarray = np.empty((len(first), length), dtype=dtype)
        shards = np.searchsorted(self._token_starts[1:], first, side="right")
        opened = {shard: self._open(shard, name) for shard in set(shards.tolist())}
        inside = (first >= 0) & (first + length <= self._token_starts[shards + 1])
        local = first - self._token_starts[shards]
        where = zip(shards.tolist(), local.tolist(), inside.tolist(), strict=True)
        for row, (shard, start, whole) in enumerate(where):
            out[row] = opened[shard][start : start + length] if whole else self._stitch(name, int(first[row]), padding)
        return out

    def _stitch(self, name: str, first: int, padding: int) -> np.ndarray:
        """stream[first : first + T + 1] where it crosses shards or an end of the stream."""
        out = np.full(self.seq_len + 1, padding, dtype=np.int64)
        stop = first + self.seq_len + 1
        for shard, (begin, end) in enumerate(zip(self._token_starts, self._token_starts[1:], strict=False)):
            low, high = max(first, begin), min(stop, end)
            if low < high:
                out[low - first : high - first] = self._open(shard, name)[low - begin : high - begin]
        return out

    @cached_property
    def _has_loss_mask(self) -> bool:
        masked = [_has_dataset(file, "loss_mask") for file in self._files]
        if any(masked) != all(masked):
            raise UserError(f"{self.path}: only some shards have a loss_mask; preprocess again")
        return any(masked)

    def _open(self, shard: int, name: str) -> Any:
        """The dataset, mapped (np.ndarray) where its layout allows it, else an h5py dataset."""
        if self._owner != os.getpid():  # after a fork: HDF5's handles are not to be shared
            self._maps, self._owner = {}, os.getpid()
        key = (int(shard), name)
        if key not in self._maps:
            self._maps[key] = _map(self._files[shard], name)
        return self._maps[key]


def _has_dataset(path: Path, name: str) -> bool:
    with h5py.File(path, "r") as file:
        return name in file


def _map(path: Path, name: str) -> Any:
    file = h5py.File(path, "r")
    dataset = file[name]
    offset = dataset.id.get_offset()
    if offset is None:  # chunked or compressed, e.g. by h5repack
        return dataset
    shape, dtype = dataset.shape, dataset.dtype
    file.close()
    # memmap's own slicing costs a microsecond a call; the plain view keeps the map alive
    return np.asarray(np.memmap(path, mode="r", offset=offset, shape=shape, dtype=dtype))


class BatchLoader:
    """Batches as a pure function of the step: no state, hence nothing to replay when a run goes on."""

    def __init__(self, dataset: TokenDataset, batch_size: int, seed: int, shuffle: bool = True) -> None:
        """`batch_size` is global, in rows. Without `shuffle` the windows come in order."""
        assert batch_size > 0, batch_size
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self._order: tuple[tuple[int, int], np.ndarray] | None = None

    @property
    def num_batches_per_epoch(self) -> int:
        """Batches until every window has been seen once; the last of them may reach into the next epoch."""
        return -(-self.dataset.num_windows // self.batch_size)

    def batch(self, step: int, part: slice = slice(None)) -> Batch:
        """The global batch of this step, or only the rows `part` of it (a rank's, a micro-batch's).

        Returns:
            As `TokenDataset.rows`. A batch may straddle two epochs.
        """
        samples = range(step * self.batch_size, (step + 1) * self.batch_size)[part]
        assert samples.step == 1, part
        return self.dataset.rows(self._windows(samples.start, len(samples)))

    def state(self, step: int) -> dict[str, int | str]:
        """Where the batch of this step starts, to be saved and compared when a run goes on."""
        epoch, index = locate(step * self.batch_size, self.dataset.num_windows)
        return {
            "seed": self.seed,
            "epoch": epoch,
            "index": index,
            "manifest_sha256": self.dataset.manifest_sha256,
        }

    def _windows(self, first: int, count: int) -> np.ndarray:
        """The windows of `count` consecutive samples."""
        parts = [np.empty(0, dtype=np.int64)]
        while count:
            epoch, index = locate(first, self.dataset.num_windows)
            block, offset = divmod(index, ORDER_BLOCK)
            part = self._block(epoch, block)[offset : offset + count]
            parts.append(part)
            first, count = first + len(part), count - len(part)
        return np.concatenate(parts)

    def _block(self, epoch: int, block: int) -> np.ndarray:
        """The order of up to ORDER_BLOCK consecutive indices of an epoch; the last one asked for is kept."""
        if self._order is None or self._order[0] != (epoch, block):
            length = self.dataset.num_windows
            indices = np.arange(block * ORDER_BLOCK, min((block + 1) * ORDER_BLOCK, length))
            order = permute(indices, length, self.seed, epoch) if self.shuffle else indices
            self._order = ((epoch, block), order)
        return self._order[1]
