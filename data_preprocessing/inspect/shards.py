"""A split of this program's own shards."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from data_preprocessing.inspect.contents import DAMAGED, Document
from modelzoo.base_config import UserError
from modelzoo.data.schema import MANIFEST, ShardInfo, open_shard

BLOCK = 2**20
"""Documents' offsets, or tokens, that are read at a time."""


class ShardedSplit:
    """The documents of some shards, one after the other."""

    def __init__(self, root: Path, name: str, shards: tuple[ShardInfo, ...]) -> None:
        self.name = name
        self.num_files = len(shards)
        self.num_documents = sum(shard.num_documents for shard in shards)
        self.num_tokens = sum(shard.num_tokens for shard in shards)
        self.num_bytes: int | None = sum(shard.num_bytes for shard in shards)
        self._root = root
        self._shards = shards
        self._starts = np.cumsum([0, *(shard.num_documents for shard in shards)])

    def lengths(self) -> Iterator[np.ndarray]:
        for shard in self._shards:
            with self._open(shard) as file:
                offsets = file["document_offsets"]
                for start in range(0, len(offsets) - 1, BLOCK):
                    lengths = np.diff(offsets[start : start + BLOCK + 1].astype(np.int64))
                    if lengths.min() <= 0:
                        raise UserError(
                            f"{self._root / shard.file}: document_offsets do not increase; see: modelzoo verify"
                        )
                    yield lengths

    def num_learnt(self) -> int | None:
        learnt = None
        for shard in self._shards:
            with self._open(shard) as file:
                if (mask := file.get("loss_mask")) is not None:
                    blocks = (mask[start : start + BLOCK] for start in range(0, len(mask), BLOCK))
                    learnt = (learnt or 0) + sum(int(np.count_nonzero(block)) for block in blocks)
        return learnt

    def document(self, index: int, first_token: int = 0, max_tokens: int | None = None) -> Document:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        shard, local = self._shards[number], index - int(self._starts[number])
        with self._open(shard) as file:
            start, stop = (int(offset) for offset in file["document_offsets"][local : local + 2])
            part = slice(
                start + first_token, stop if max_tokens is None else min(stop, start + first_token + max_tokens)
            )
            mask = file["loss_mask"][part].astype(bool) if "loss_mask" in file else None
            return Document(self.name, index, shard.file, stop - start, first_token, file["tokens"][part], mask)

    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for number, shard in enumerate(self._shards):
            with self._open(shard) as file:
                first = 0
                while first < shard.num_documents:
                    offsets = file["document_offsets"][first : first + BLOCK // 16 + 1].astype(np.int64)
                    whole = max(1, int(np.searchsorted(offsets, offsets[0] + BLOCK, "right")) - 1)
                    offsets = offsets[: whole + 1]
                    ids = file["tokens"][offsets[0] : offsets[-1]]
                    yield int(self._starts[number]) + first, offsets - offsets[0], ids
                    first += whole

    @contextmanager
    def _open(self, shard: ShardInfo) -> Iterator[h5py.File]:
        path = self._root / shard.file
        try:
            header = open_shard(path)
            if (header.num_documents, header.num_tokens) != (shard.num_documents, shard.num_tokens):
                raise UserError(f"{path}: its counts are not those of {MANIFEST}; see: modelzoo verify {self._root}")
            with h5py.File(path, "r") as file:
                yield file
        except UserError:
            raise
        except DAMAGED as error:
            raise UserError(f"{path}: damaged ({error}); see: modelzoo verify {self._root}") from error
