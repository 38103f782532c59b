"""What `loader.py` measures in its own process: a corpus in several layouts, and readers of it. Each reader is a
function of the step. Those of whole loaders end where the model begins, at tensors."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import torch

from modelzoo.data.dataset import TokenDataset
from modelzoo.data.loader import BatchLoader
from modelzoo.data.mixture import MixtureLoader, Source
from modelzoo.data.modelzoo_files import open_modelzoo_files
from modelzoo.data.schema import (
    SCHEMA_VERSION,
    LedgerInfo,
    Manifest,
    Pieces,
    ShardHeader,
    ShardInfo,
    SplitInfo,
    TokenizerInfo,
    file_sha256,
    write_manifest,
    write_shard,
)
from modelzoo.trainer.batch_hash import batch_sha256
from modelzoo.trainer.evaluation import batch_to_device

VOCAB_SIZE = 50_257
OURS = "ours: BatchLoader"
SAMPLES = 2000
"""Examples in ModelZoo's layout, fewer where the corpus is smaller."""
Reader = Callable[[int], object]


def write_corpus(folder: Path, num_tokens: int, seq_len: int) -> np.ndarray:
    """Random tokens as a plain file, as our dataset in one shard and in 16, and as ModelZoo's samples. Returns them."""
    draw = np.random.default_rng(0)
    tokens = draw.integers(1, VOCAB_SIZE, num_tokens, dtype=np.uint16)
    tokens[draw.random(len(tokens)) < 1 / 500] = 0
    tokens[-1] = 0
    tokens.tofile(folder / "tokens.bin")
    write_dataset(folder / "one", tokens, 1)
    write_dataset(folder / "many", tokens, 16)
    (folder / "samples").mkdir()
    rows = tokens[: min(SAMPLES, len(tokens) // seq_len) * seq_len].reshape(-1, seq_len)
    data = np.stack([rows, np.ones_like(rows), rows], axis=1).astype(np.int32)
    with h5py.File(folder / "samples" / "a.h5", "w") as file:  # chunks and compression as its preprocessing has them
        file.create_dataset("data", data=data, chunks=(1, *data.shape[1:]), compression="gzip", compression_opts=4)
    return tokens


def write_dataset(folder: Path, tokens: np.ndarray, num_shards: int) -> None:
    """A dataset of documents of about 500 tokens, without preprocessing."""
    ends = np.flatnonzero(tokens == 0) + 1
    cuts = [0, *(ends[len(ends) * part // num_shards - 1] for part in range(1, num_shards + 1))]
    shards = []
    folder.mkdir()
    for number, (start, stop) in enumerate(pairwise(cuts)):
        lengths = np.diff(ends[(ends > start) & (ends <= stop)], prepend=start)
        counts = {"num_documents": len(lengths), "num_tokens": int(stop - start), "num_bytes": len(lengths)}
        file = folder / f"{number:05}.h5"
        header = ShardHeader(SCHEMA_VERSION, "-", VOCAB_SIZE, 0, "lm", **counts, source_config="{}")
        write_shard(file, header, [Pieces(lengths, np.ones_like(lengths), tokens[start:stop])], has_loss_mask=False)
        shards.append(ShardInfo(file=file.name, sha256=file_sha256(file), **counts))
    names = ("num_documents", "num_tokens", "num_bytes")
    sums = {name: sum(getattr(shard, name) for shard in shards) for name in names}
    nothing = dict.fromkeys(LedgerInfo.model_fields, 0)  # it was not preprocessed
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        settings={},
        inputs=(),
        tokenizer=TokenizerInfo(sha256="-", vocab_size=VOCAB_SIZE, end_of_document_id=0),
        splits={"train": SplitInfo(shards=tuple(shards), **sums)},
        ledger=LedgerInfo.model_validate(nothing | {"rejected_by_reason": {}, "rejected_sha256": "", "sources": {}}),
    )
    write_manifest(folder, manifest)


def readers_of_ours(folder: Path, seq_len: int, batch_size: int) -> dict[str, Reader]:
    """Our loaders, with what the trainer does to each batch before the model is called."""

    def dataset(name: str, *options: object) -> TokenDataset:
        return TokenDataset(folder / name, "train", seq_len, *options)  # type: ignore[arg-type]

    mixture = {name: Source(dataset("one"), weight) for name, weight in {"a": 4.0, "b": 2.0, "c": 1.0}.items()}
    samples = open_modelzoo_files(folder / "samples", seq_len, False, VOCAB_SIZE)
    plain = BatchLoader(dataset("one"), batch_size, 0)
    loaders = {
        OURS: plain,
        "ours: 16 shards": BatchLoader(dataset("many"), batch_size, 0),
        "ours: mixture of 3": MixtureLoader(mixture, batch_size, 0),
        "ours: isolated": BatchLoader(dataset("one", "stream", True), batch_size, 0),
        "ours: best_fit, isolated": BatchLoader(dataset("one", "best_fit", True), batch_size, 0),
        "ours: ModelZoo's sample files": BatchLoader(samples, batch_size, 0),
    }
    device = torch.device("cpu")

    def tensors(loader: BatchLoader | MixtureLoader) -> Reader:
        return lambda step: batch_to_device(loader.batch(step), device, slice(None))

    def on_the_record(step: int) -> object:  # the trainer also counts the targets, and hashes what it has read
        batch = plain.batch(step)
        return batch_to_device(batch, device, slice(None)), int(batch["loss_mask"].sum()), batch_sha256(batch)

    return {name: tensors(loader) for name, loader in loaders.items()} | {"ours, counted and hashed": on_the_record}


def readers_of_others(folder: Path, tokens: np.ndarray, seq_len: int, batch_size: int) -> dict[str, Reader]:
    """Raw maps, h5py, and nanoGPT's whole loader. Each draws its own random places."""
    draw = np.random.default_rng(0)
    path, length = folder / "tokens.bin", seq_len + 1
    mapped = np.memmap(path, dtype=np.uint16, mode="r")
    stored = h5py.File(folder / "one" / "00000.h5", "r")["tokens"]
    sample_file = h5py.File(folder / "samples" / "a.h5", "r")["data"]

    def starts(limit: int = len(tokens) - length) -> list[int]:
        return draw.integers(0, limit, batch_size).tolist()

    def nanogpt(_: int) -> object:
        """As its get_batch on a CPU: a new map for every batch, against growing memory, as it says; places that
        stay tensors; each row and each shifted row converted and copied once more into the batch. Its `to` of a
        tensor that is there already does nothing."""
        data = np.memmap(path, dtype=np.uint16, mode="r")
        places = torch.randint(len(data) - seq_len, (batch_size,))

        def stacked(shift: int) -> torch.Tensor:
            slices = (data[place + shift : place + shift + seq_len] for place in places)
            return torch.stack([torch.from_numpy(each.astype(np.int64)) for each in slices])

        return stacked(0).to("cpu"), stacked(1).to("cpu")

    return {
        "memmap rows, as stored": lambda _: [np.array(mapped[i : i + length]) for i in starts()],
        "memmap rows, int64": lambda _: [mapped[i : i + length].astype(np.int64) for i in starts()],
        "nanoGPT get_batch": nanogpt,
        "h5py d[i:j]": lambda _: np.stack([stored[i : i + length] for i in starts()]),
        "h5py (N, 3, MSL) gzip": lambda _: np.stack([sample_file[i] for i in starts(len(sample_file))]),
    }
