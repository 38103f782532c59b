"""Looking into a dataset: its splits, the lengths of its documents, and single documents. No torch.

Read are a dataset's directory, a single shard of one, and Cerebras ModelZoo's files. Everything streams: the
lengths come from `document_offsets` alone, whatever the number of documents.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_preprocessing.inspect import modelzoo as modelzoo_files
from data_preprocessing.inspect.contents import DAMAGED, Contents, Document, Split
from data_preprocessing.inspect.lengths import Lengths
from data_preprocessing.inspect.shards import ShardedSplit
from modelzoo.base_config import UserError
from modelzoo.data.schema import MANIFEST, REJECTED, TOKENIZER, ShardInfo, open_shard, read_manifest
from modelzoo.tokenizer import Tokenizer

REJECTED_SHOWN = 20
"""Documents that were left out, of each reason."""


def open_contents(path: Path, tokenizer: Path | None = None) -> Contents:
    """Find out what `path` is, and read its headers; no tokens yet.

    `tokenizer` serves files that have none beside them. Where the files say which one wrote them, it must be that.

    Raises:
        UserError: nothing there, damaged, or of no known kind; or a tokenizer that is not the files'.
    """
    given = Tokenizer.load(tokenizer) if tokenizer is not None else None
    if path.is_dir():
        return _open_directory(path, given)
    if not path.is_file():
        raise UserError(f"{path}: no such file or directory; expected a dataset's directory, or an HDF5 file")
    names = _names_in(path)
    if "data" in names:
        return modelzoo_files.open_files(path, [path], given)
    if not {"tokens", "document_offsets"} <= set(names):
        raise UserError(
            f"{path}: holds {', '.join(names) or 'nothing'}; expected a shard (tokens, document_offsets), "
            "or one of Cerebras ModelZoo's files (data)"
        )
    header = open_shard(path)
    counts = {name: getattr(header, name) for name in ("num_documents", "num_tokens", "num_bytes")}
    beside = path.parent.parent / TOKENIZER
    if given is None and beside.is_file():
        given = Tokenizer.load(beside)
    return Contents(
        path=path,
        what="shard",
        unit="document",
        mode=header.mode,
        tokenizer=_same(given, header.tokenizer_sha256, path),
        tokenizer_facts={
            "sha256": header.tokenizer_sha256,
            "vocab_size": header.vocab_size,
            "end_of_document_id": header.end_of_document_id,
        },
        settings=_json_object(header.source_config),
        ledger=None,
        splits={"shard": ShardedSplit(path.parent, "shard", (ShardInfo(file=path.name, sha256="", **counts),))},
    )


def find_document(contents: Contents, split: Split, index: int, max_tokens: int | None = None) -> Document:
    """The document of this index; negative ones count from the end. Raises UserError: there is none of it."""
    number = split.num_documents
    if not -number <= index < number:
        held = f"{number:,} {contents.unit}{'s' if number != 1 else ''}"
        span = f"; expected 0 to {number - 1}, or -1 to -{number} from the end" if number else ""
        raise UserError(f"{contents.path} ({split.name}): no {contents.unit} {index}, it holds {held}{span}")
    return split.document(index % number, 0, max_tokens)


def some_documents(contents: Contents, split: Split, num: int, max_tokens: int | None = None) -> Iterator[Document]:
    """`num` documents, evenly spread over the split; the first one is among them."""
    num = min(num, split.num_documents)
    return (split.document(i * split.num_documents // num, 0, max_tokens) for i in range(num))


def search(contents: Contents, split: Split, text: str, max_tokens: int | None = None) -> Iterator[Document]:
    """The documents that hold `text`, each from a little before the first place where it stands."""
    tokenizer = contents.tokenizer
    if tokenizer is None:
        raise UserError(f"{contents.path}: text can only be searched with a tokenizer; name one: --tokenizer PATH")
    table = [tokenizer.decode_bytes([id_]) for id_ in range(tokenizer.vocab_size)]
    table[tokenizer.end_of_document_id] = b"\xff"  # in no text: a match never reaches into the next document
    table.append("�".encode())  # for ids that the tokenizer has not
    sizes = np.array([len(token) for token in table])
    wanted = text.encode()
    for first, offsets, ids in split.blocks():
        ids = ids.astype(np.int64)
        ids[(ids < 0) | (ids >= len(table))] = len(table) - 1
        data = b"".join(map(table.__getitem__, ids.tolist()))
        place = data.find(wanted)
        if place < 0:
            continue
        ends = np.cumsum(sizes[ids])  # (tokens,) bytes up to and with each token
        while place >= 0:
            token = int(np.searchsorted(ends, place, "right"))
            document = int(np.searchsorted(offsets, token, "right")) - 1
            before = min(token - int(offsets[document]), (max_tokens or 0) // 4)
            start = token - int(offsets[document]) - before if max_tokens else 0
            yield split.document(first + document, start, max_tokens)
            place = data.find(wanted, int(ends[offsets[document + 1] - 1]))


def summary(contents: Contents) -> dict[str, Any]:
    """Counts, lengths and ledger, for programs (JSON types only). Reads every `document_offsets`."""
    splits = {}
    for name, split in contents.splits.items():
        lengths, learnt = Lengths.of(split.lengths()), split.num_learnt()
        splits[name] = {
            "files": split.num_files,
            "documents": split.num_documents,
            "tokens": split.num_tokens,
            "learnt_tokens": split.num_tokens if learnt is None else learnt,
            "has_loss_mask": learnt is not None,
            "bytes": split.num_bytes,
            "bytes_per_token": split.num_bytes / split.num_tokens if split.num_bytes and split.num_tokens else None,
            "tokens_per_document": lengths.summary(),
            "histogram": [list(bin_) for bin_ in lengths.histogram()],
        }
    return {
        "path": str(contents.path),
        "what": contents.what,
        "unit": contents.unit,
        "mode": contents.mode,
        "tokenizer": contents.tokenizer_facts,
        "settings": contents.settings,
        "splits": splits,
        "ledger": contents.ledger.model_dump(mode="json") if contents.ledger else None,
        "rejected": _first_rejected(contents.path / REJECTED) if contents.ledger else [],
        "notes": list(contents.notes),
    }


def _first_rejected(path: Path) -> list[dict[str, Any]]:
    """The first documents that were left out for each reason."""
    found: Counter[str] = Counter()
    first = []
    if not path.is_file():  # `verify` says so
        return []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            one = _json_object(line)
            if not {"file", "reason", "detail"} <= one.keys():
                raise UserError(
                    f"{path}, line {number}: not as it was written; what is wrong says: modelzoo verify {path.parent}"
                )
            found[one["reason"]] += 1
            if found[one["reason"]] <= REJECTED_SHOWN:
                first.append(one)
    return first


def _open_directory(path: Path, given: Tokenizer | None) -> Contents:
    if not (path / MANIFEST).is_file() and (files := sorted(path.glob("*.h5"))):
        if "data" not in _names_in(files[0]):
            raise UserError(f"{path}: a part of a dataset; name the directory that holds {MANIFEST}, or one shard")
        return modelzoo_files.open_files(path, files, given)
    if any(path.glob("*.safetensors")) or (path / "checkpoints").is_dir():
        raise UserError(f"{path}: a run or a checkpoint, not a dataset; check it with: modelzoo verify {path}")
    manifest = read_manifest(path)
    if given is None and (path / TOKENIZER).is_file():
        given = Tokenizer.load(path / TOKENIZER)
    return Contents(
        path=path,
        what="dataset",
        unit="document",
        mode=_mode_of(manifest.settings),
        tokenizer=_same(given, manifest.tokenizer.sha256, path),
        tokenizer_facts=manifest.tokenizer.model_dump(mode="json"),
        settings=manifest.settings,
        ledger=manifest.ledger,
        splits={name: ShardedSplit(path, name, info.shards) for name, info in manifest.splits.items()},
    )


def _mode_of(settings: dict[str, Any]) -> str | None:
    mode = settings.get("mode")
    return mode.get("kind") if isinstance(mode, dict) else None


def _same(tokenizer: Tokenizer | None, sha256: str, path: Path) -> Tokenizer | None:
    if tokenizer is not None and tokenizer.sha256 != sha256:
        raise UserError(
            f"{path} was written with a tokenizer of sha256 {sha256[:12]}…, but {tokenizer.path} has "
            f"{tokenizer.sha256[:12]}…; name the one it was written with: --tokenizer PATH"
        )
    return tokenizer


def _json_object(text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _names_in(path: Path) -> list[str]:
    try:
        with h5py.File(path, "r") as file:
            return sorted(file)
    except DAMAGED as error:
        raise UserError(f"{path}: truncated, or not an HDF5 file ({error})") from error
