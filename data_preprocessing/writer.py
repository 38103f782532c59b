"""Documents to shards, in bounded memory: ids go to a plain file, then to HDF5 once they are counted."""

import os
from pathlib import Path

import numpy as np

from data_preprocessing.modes import Encoded
from modelzoo.data.schema import ShardHeader, ShardInfo, SplitInfo, file_sha256, token_dtype, write_shard


class Spool:
    """An array on disk that grows at its end and is read by slices."""

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        self.path = path
        self.dtype = dtype
        self.length = 0
        self._file = path.open("w+b", buffering=2**20)

    def append(self, values: np.ndarray) -> None:
        """Add values (length,)."""
        self._file.write(values.astype(self.dtype, copy=False).tobytes())
        self.length += len(values)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(self.length)
        self._file.flush()
        return np.fromfile(self.path, self.dtype, stop - start, offset=start * self.dtype.itemsize)

    def remove(self) -> None:
        """Close and delete the file."""
        self._file.close()
        self.path.unlink()


class ShardWriter:
    """One split: closes a shard before it exceeds `shard_tokens`."""

    def __init__(self, root: Path, split: str, header: ShardHeader, shard_tokens: int, has_loss_mask: bool) -> None:
        """`root` is the dataset's directory; `header` holds all but the counts."""
        self._root = root
        self._split = split
        self._header = header
        self._shard_tokens = shard_tokens
        self._has_loss_mask = has_loss_mask
        self._shards: list[ShardInfo] = []
        self._tokens: Spool | None = None
        self._loss_mask: Spool | None = None

    def add(self, document: Encoded, num_bytes: int) -> None:
        """Add one document, its end-of-document id included."""
        ids, loss_mask = document
        assert ids[-1] == self._header.end_of_document_id, ids[-1]
        assert (loss_mask is not None) == self._has_loss_mask, (self._header.mode, loss_mask)
        assert loss_mask is None or (loss_mask.shape, loss_mask.dtype) == (ids.shape, np.bool_), loss_mask
        if self._tokens is not None and len(self._tokens) + len(ids) > self._shard_tokens:
            self._close_shard()
        if self._tokens is None:
            self._open_shard()
        assert self._tokens is not None
        self._tokens.append(ids)
        if self._loss_mask is not None and loss_mask is not None:
            self._loss_mask.append(loss_mask)
        self._offsets.append(np.array([len(self._tokens)], dtype="<u8"))
        self._num_bytes += num_bytes

    def close(self) -> SplitInfo:
        """Finish the last shard; the account of the split."""
        if self._tokens is not None:
            self._close_shard()
        return SplitInfo(
            shards=tuple(self._shards),
            num_documents=sum(shard.num_documents for shard in self._shards),
            num_tokens=sum(shard.num_tokens for shard in self._shards),
            num_bytes=sum(shard.num_bytes for shard in self._shards),
        )

    def _open_shard(self) -> None:
        folder = self._root / self._split
        folder.mkdir(exist_ok=True)
        self._tokens = Spool(folder / "tokens.spool", token_dtype(self._header.vocab_size))
        if self._has_loss_mask:
            self._loss_mask = Spool(folder / "loss_mask.spool", np.dtype("u1"))
        self._offsets = Spool(folder / "offsets.spool", np.dtype("<u8"))
        self._offsets.append(np.zeros(1, dtype="<u8"))
        self._num_bytes = 0

    def _close_shard(self) -> None:
        assert self._tokens is not None
        header = self._header._replace(
            num_documents=len(self._offsets) - 1, num_tokens=len(self._tokens), num_bytes=self._num_bytes
        )
        file = f"{self._split}/{len(self._shards):05d}.h5"
        write_shard(self._root / file, header, self._tokens, self._offsets, self._loss_mask)
        with (self._root / file).open("rb") as written:
            os.fsync(written.fileno())
        self._shards.append(
            ShardInfo(
                file=file,
                sha256=file_sha256(self._root / file),
                num_documents=header.num_documents,
                num_tokens=header.num_tokens,
                num_bytes=header.num_bytes,
            )
        )
        self._tokens.remove()
        self._offsets.remove()
        if self._loss_mask is not None:
            self._loss_mask.remove()
        self._tokens = self._loss_mask = None
