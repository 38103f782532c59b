"""Is one shard what the manifest says, and are its arrays what the format says? Streaming; no torch."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from modelzoo.base_config import UserError
from modelzoo.data.schema import MANIFEST, Manifest, ShardHeader, ShardInfo, open_shard

BLOCK = 2**21
"""Elements that are looked at at a time."""

REWRITE = "delete the dataset and write it again with: modelzoo preprocess CONFIG"
COPY = f"copy the file again from where it is whole, or {REWRITE}"


class Damage(NamedTuple):
    """One thing that is wrong."""

    file: str
    """Below the dataset's directory."""
    found: str
    expected: str
    remedy: str


def shard_damage(path: Path, shard: ShardInfo, manifest: Manifest, on_bytes: Callable[[int], None]) -> Iterator[Damage]:
    """Everything that is wrong with one shard. `on_bytes` hears of its bytes as they are done."""
    size, done = path.stat().st_size, 0

    def advance(num_bytes: int) -> None:
        nonlocal done
        step = min(num_bytes // 2, size - done)  # each byte is read twice
        done += step
        on_bytes(step)

    sha256 = _sha256(path, advance)
    if sha256 != shard.sha256:
        # not handed to HDF5: one wrong byte can send it round in circles for ever
        short = _cut_short(path)
        found = f"sha256 {sha256}" + (f", and {size} bytes where the file itself speaks of {short}" if short else "")
        yield Damage(shard.file, found, f"{shard.sha256} ({MANIFEST})", COPY)
    else:
        yield from _content_damage(path, shard, manifest, advance)
    on_bytes(size - done)


def _content_damage(
    path: Path, shard: ShardInfo, manifest: Manifest, advance: Callable[[int], None]
) -> Iterator[Damage]:
    """What is wrong with a shard that is as it was written."""
    try:
        header = open_shard(path)
        yield from _header_damage(header, shard, manifest)
        with h5py.File(path, "r") as file:
            for found, expected in _content_problems(file, header, advance):
                yield Damage(shard.file, found, expected, REWRITE)
    except UserError as error:
        yield Damage(shard.file, without_path(error, path), "a shard", REWRITE)
    except Exception as error:  # of a file of whatever origin h5py raises nearly anything
        yield Damage(shard.file, f"cannot be read ({type(error).__name__}: {error})", "a shard", REWRITE)


def _sha256(path: Path, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2 * BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def _cut_short(path: Path) -> int | None:
    """The size that an HDF5 file's first block gives, where the file is shorter."""
    with path.open("rb") as file:
        start = file.read(48)
    if len(start) < 48 or start[:8] != b"\x89HDF\r\n\x1a\n":
        return None
    at = 40 if start[8] < 2 else 28  # the end of file in versions 0 and 1, and in 2 and 3, of the superblock
    size = int.from_bytes(start[at : at + 8], "little")
    return size if path.stat().st_size < size < 2**60 else None


def _header_damage(header: ShardHeader, shard: ShardInfo, manifest: Manifest) -> Iterator[Damage]:
    mode = manifest.settings.get("mode")
    expected = {
        "tokenizer_sha256": manifest.tokenizer.sha256,
        "vocab_size": manifest.tokenizer.vocab_size,
        "end_of_document_id": manifest.tokenizer.end_of_document_id,
        "mode": mode.get("kind") if isinstance(mode, dict) else None,
        "num_documents": shard.num_documents,
        "num_tokens": shard.num_tokens,
        "num_bytes": shard.num_bytes,
    }
    for name, value in expected.items():
        if getattr(header, name) != value:
            yield Damage(shard.file, f"header {name}={getattr(header, name)}", f"{value} ({MANIFEST})", COPY)
    try:
        settings = json.loads(header.source_config)
    except ValueError:
        settings = None
    if settings != manifest.settings:
        yield Damage(shard.file, "header source_config other than the settings", f"those of {MANIFEST}", COPY)


def _content_problems(
    file: h5py.File, header: ShardHeader, advance: Callable[[int], None]
) -> Iterator[tuple[str, str]]:
    """What was found, and what was expected, in the arrays of a shard whose header has been checked."""
    tokens, offsets, end = file["tokens"], file["document_offsets"], header.end_of_document_id
    for start in range(0, header.num_documents, BLOCK):
        block = offsets[start : start + BLOCK + 1]
        if len(wrong := np.flatnonzero(block[1:] <= block[:-1])):
            at = start + int(wrong[0])
            found = f"document_offsets[{at}:{at + 2}]={block[wrong[0] : wrong[0] + 2].tolist()}"
            yield found, "offsets that increase from document to document"
            offsets = None  # nothing says where documents end
            break
        advance(block.nbytes)
    largest = -1
    whole = 0  # documents whose end has been seen
    for start in range(0, header.num_tokens, BLOCK):
        ids = tokens[start : start + BLOCK]
        largest = max(largest, int(ids.max()))
        if offsets is not None:
            ends = np.flatnonzero(ids == end) + start + 1  # (documents in the block,)
            expected = offsets[whole + 1 : whole + len(ends) + 2].astype(np.int64)
            expected = expected[expected <= start + len(ids)]
            if not np.array_equal(ends, expected):
                yield _first_difference(ends, expected, whole), f"the id {end} at the end of each, and nowhere else"
                offsets = None
            whole += len(ends)
        advance(ids.nbytes)
    if largest >= header.vocab_size:
        yield f"the id {largest} among its tokens", f"ids below vocab_size={header.vocab_size}"
    if (mask := file.get("loss_mask")) is not None:
        for start in range(0, header.num_tokens, BLOCK):
            block = mask[start : start + BLOCK]
            if len(wrong := np.flatnonzero(block > 1)):
                yield f"loss_mask[{start + int(wrong[0])}]={block[wrong[0]]}", "0 or 1"
                break
            advance(block.nbytes)


def _first_difference(ends: np.ndarray, expected: np.ndarray, whole: int) -> str:
    """Where the ends of documents in the tokens first leave those in document_offsets; `whole` came before."""
    both = min(len(ends), len(expected))
    differ = np.flatnonzero(ends[:both] != expected[:both])
    at = int(differ[0]) if len(differ) else both
    if at == len(expected) or (at < len(ends) and ends[at] < expected[at]):
        return f"an end-of-document id inside document {whole + at} (token {ends[at] - 1} of the shard)"
    return f"no end-of-document id at the end of document {whole + at} (token {expected[at] - 1} of the shard)"


def without_path(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ").removesuffix(f"; {REWRITE}")
