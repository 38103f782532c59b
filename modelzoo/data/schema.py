"""The file format in which preprocessing and training meet: HDF5 shards and one manifest. No torch.

A dataset is a directory: `manifest.json`, `rejected.jsonl`, `tokenizer.json`, and shards `SPLIT/00000.h5` …
Each shard holds whole documents:

    tokens            (num_tokens,)         uint16, or uint32 above 65,536 ids; contiguous, uncompressed
    document_offsets  (num_documents + 1,)  uint64; document i is tokens[offsets[i]:offsets[i + 1]]
    loss_mask         (num_tokens,)         uint8, only where some tokens are not to be learnt

The end-of-document id is the last token of every document. The attributes of the file are `ShardHeader`.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from pydantic import ValidationError

from modelzoo.base_config import Config, UserError
from modelzoo.files import write_text

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
REJECTED = "rejected.jsonl"
TOKENIZER = "tokenizer.json"


class ShardHeader(NamedTuple):
    """The attributes of one shard."""

    schema_version: int
    tokenizer_sha256: str
    vocab_size: int
    end_of_document_id: int
    mode: str
    num_documents: int
    num_tokens: int
    num_bytes: int
    """UTF-8 bytes of the documents, for losses in bits per byte."""
    source_config: str
    """JSON of the settings that decide the content."""


class InputFile(Config):
    """One file of a reader."""

    path: str
    size: int
    sha256: str
    """Of its bytes; in words where a limit left it unread."""


class TokenizerInfo(Config):
    """What a run checks its own tokenizer and model against."""

    sha256: str
    vocab_size: int
    end_of_document_id: int


class ShardInfo(Config):
    """One shard: its path below the dataset's directory, its hash, its counts."""

    file: str
    sha256: str
    num_documents: int
    num_tokens: int
    num_bytes: int


class SplitInfo(Config):
    """One split: its shards in the order in which they are read, and their sums."""

    shards: tuple[ShardInfo, ...]
    num_documents: int
    num_tokens: int
    num_bytes: int


class RejectedDocument(Config):
    """One line of rejected.jsonl: `unit` and `number` say where in the file (line 11, document 3)."""

    file: str
    unit: str
    number: int
    reason: str
    detail: str


class SourceInfo(Config):
    """What one source gave."""

    documents_in: int
    documents_written: int
    bytes_written: int
    tokens_written: int


class LedgerInfo(Config):
    """Every document of the input: written, or rejected with its reason, or outside the `fraction`.

    It adds up: documents_in = documents_written + documents_rejected + documents_left_out, and the bytes
    alike, with bytes_truncated beside bytes_written. Bytes are UTF-8 bytes of text, those of what could not
    be read are bytes of the file. tokens_written = the tokens of all documents + one end for each piece.
    """

    documents_in: int
    bytes_in: int
    documents_written: int
    pieces_written: int
    """Documents of the dataset: more than documents_written where the mode splits."""
    bytes_written: int
    bytes_truncated: int
    """Of documents that were written in part."""
    tokens_written: int
    documents_left_out: int
    bytes_left_out: int
    documents_rejected: int
    bytes_rejected: int
    rejected_by_reason: dict[str, int]
    rejected_sha256: str
    """Of rejected.jsonl, which lists every one of them in reading order."""
    sources: dict[str, SourceInfo]
    """By name, where there are several."""


class Manifest(Config):
    """The content of manifest.json."""

    schema_version: int
    settings: dict[str, Any]
    inputs: tuple[InputFile, ...]
    tokenizer: TokenizerInfo
    splits: dict[str, SplitInfo]
    ledger: LedgerInfo
    advice: tuple[str, ...] = ()
    """What to think over before a model is tuned on it, each with its numbers and a remedy."""
    sha256: str | None = None
    """Of all else in the file, for `verify`: see `content_sha256`. None in a file written before there was one."""


class Pieces(NamedTuple):
    """Documents as a shard holds them, one after the other."""

    lengths: np.ndarray
    """(P,) int64: tokens of each."""
    num_bytes: np.ndarray
    """(P,) int64: UTF-8 bytes of the text of each."""
    tokens: np.ndarray | None
    """(sum of lengths,); None where only lengths are asked for."""
    loss_mask: np.ndarray | None = None
    """(sum of lengths,) uint8, in a mode with one."""

    @classmethod
    def merged(cls, parts: Sequence["Pieces"], order: np.ndarray) -> "Pieces":
        """Pieces of all parts, counted from the first part's first, in this order. Their tokens are copied once."""
        lengths = np.concatenate([part.lengths for part in parts])
        part_of = np.repeat(np.arange(len(parts)), [len(part.lengths) for part in parts])
        starts = np.concatenate([np.cumsum(part.lengths) - part.lengths for part in parts])
        where = list(zip(part_of[order].tolist(), starts[order].tolist(), lengths[order].tolist(), strict=True))

        def gathered(columns: Sequence[np.ndarray | None]) -> np.ndarray | None:
            first = columns[0]
            if first is None:
                return None
            slices = [columns[part][start : start + length] for part, start, length in where]
            return np.concatenate([first[:0], *slices])

        return cls(
            lengths[order],
            np.concatenate([part.num_bytes for part in parts])[order],
            gathered([part.tokens for part in parts]),
            gathered([part.loss_mask for part in parts]),
        )

    def split(self, count: int) -> tuple["Pieces", "Pieces | None"]:
        """The first `count` of them, and the others; None for no others."""
        if count >= len(self.lengths):
            return self, None
        at = int(self.lengths[:count].sum())
        head = [values if values is None else values[:at] for values in self[2:]]
        tail = [values if values is None else values[at:] for values in self[2:]]
        return (
            Pieces(self.lengths[:count], self.num_bytes[:count], *head),
            Pieces(self.lengths[count:], self.num_bytes[count:], *tail),
        )


def gather(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The slices of `values` that begin at `starts` and have these lengths, in this order."""
    parts = [values[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    return np.concatenate([values[:0], *parts])


def token_dtype(vocab_size: int) -> np.dtype:
    """uint16 while it can hold every id, uint32 above. Little-endian on any machine."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def write_shard(path: Path, header: ShardHeader, blocks: Iterable[Pieces], has_loss_mask: bool) -> None:
    """Write one shard block by block, and force it to the disk. Equal content gives equal bytes.

    Args:
        path: file to write; its directory exists.
        header: counts included.
        blocks: all documents, in order.
        has_loss_mask: the blocks hold one.
    """
    with h5py.File(path, "w") as file:
        for name, value in header._asdict().items():
            file.attrs[name] = value
        tokens = file.create_dataset("tokens", (header.num_tokens,), token_dtype(header.vocab_size))
        offsets = file.create_dataset("document_offsets", (header.num_documents + 1,), np.dtype("<u8"))
        loss_mask = file.create_dataset("loss_mask", (header.num_tokens,), np.dtype("u1")) if has_loss_mask else None
        offsets[0] = num_documents = num_tokens = num_bytes = 0
        for block in blocks:
            assert block.tokens is not None
            end = num_tokens + len(block.tokens)
            tokens[num_tokens:end] = block.tokens
            if loss_mask is not None:
                loss_mask[num_tokens:end] = block.loss_mask
            offsets[num_documents + 1 : num_documents + 1 + len(block.lengths)] = num_tokens + np.cumsum(block.lengths)
            num_documents, num_tokens = num_documents + len(block.lengths), end
            num_bytes += int(block.num_bytes.sum())
        assert (num_documents, num_tokens, num_bytes) == header[5:8], (num_documents, num_tokens, num_bytes, header)
    with path.open("rb") as written:
        os.fsync(written.fileno())


def open_shard(path: Path) -> ShardHeader:
    """Read a shard's header and check the file against it: datasets, shapes, types, counts.

    Raises:
        UserError: missing, truncated, or not such a file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; {_remedy()}")
    try:
        with h5py.File(path, "r") as file:
            header = _read_header(path, file.attrs)
            for problem in _shard_problems(file, header):
                raise UserError(f"{path}: {problem}; {_remedy()}")
            return header
    except OSError as error:
        raise UserError(f"{path}: truncated, or not an HDF5 file ({error}); {_remedy()}") from error


def _read_header(path: Path, attributes: h5py.AttributeManager) -> ShardHeader:
    missing = [name for name in ShardHeader._fields if name not in attributes]
    if missing:
        raise UserError(
            f"{path}: not a shard of this program, it lacks the attributes {', '.join(missing)}; {_remedy()}"
        )
    types = ShardHeader.__annotations__
    header = ShardHeader(**{name: types[name](attributes[name]) for name in ShardHeader._fields})
    _check_version(path, header.schema_version)
    return header


def _shard_problems(file: h5py.File, header: ShardHeader) -> Iterator[str]:
    expected = {
        "tokens": (header.num_tokens, token_dtype(header.vocab_size)),
        "document_offsets": (header.num_documents + 1, np.dtype("<u8")),
        "loss_mask": (header.num_tokens, np.dtype("u1")),
    }
    for name, (length, dtype) in expected.items():
        if name not in file:
            if name != "loss_mask":
                yield f"dataset {name} is missing"
        elif file[name].shape != (length,) or file[name].dtype != dtype:
            yield (
                f"dataset {name} has shape {file[name].shape} and type {file[name].dtype}, "
                f"the header says ({length},) and {dtype}"
            )
        elif name == "document_offsets" and (file[name][0], file[name][-1]) != (0, header.num_tokens):
            yield f"document_offsets end at {file[name][-1]}, the header says {header.num_tokens} tokens"


def read_manifest(directory: Path) -> Manifest:
    """Read manifest.json. It is written last, so a directory that has one is whole.

    Raises:
        UserError: no directory, no manifest, or not one of ours.
    """
    path = directory / MANIFEST
    if not path.is_file():
        what = "not finished, or not a dataset" if directory.is_dir() else "no such directory"
        raise UserError(f"{directory}: {what} (no {MANIFEST}); write it with: modelzoo preprocess CONFIG")
    try:
        content = json.loads(path.read_bytes())
        if isinstance(content, dict) and isinstance(content.get("schema_version"), int):
            _check_version(path, content["schema_version"])
        return Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(key) for key in first["loc"])
        raise UserError(f"{path}: {place}: {first['msg']}; {_remedy()}") from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); {_remedy()}") from error


def write_manifest(directory: Path, manifest: Manifest) -> Manifest:
    """Write manifest.json by rename, with its `sha256`; returns what `read_manifest` will. Call it last: its presence
    says that all is there."""
    content = manifest.model_dump(mode="json")
    content["sha256"] = content_sha256(content)
    write_text(directory / MANIFEST, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return manifest.model_copy(update={"sha256": content["sha256"]})


def content_sha256(content: dict[str, Any]) -> str:
    """Of what a manifest says, but for its own `sha256`, however it is laid out."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def find_split(directory: Path, manifest: Manifest, split: str) -> SplitInfo:
    """The split of this name.

    Raises:
        UserError: there is none; names those there are.
    """
    if split not in manifest.splits:
        raise UserError(
            f"{directory}: no split {split!r}; this dataset has {', '.join(sorted(manifest.splits))}"
            + ("; set validation_fraction and preprocess again" if split == "validation" else "")
        )
    return manifest.splits[split]


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_version(path: Path, version: int) -> None:
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema version {version}, this program reads {SCHEMA_VERSION}; "
            "preprocess again, or use the version of modelzoo that wrote it"
        )


def _remedy() -> str:
    return "delete the dataset and write it again with: modelzoo preprocess CONFIG"
