"""Is a dataset what its manifest says? Hashes, headers, documents, ids, ledger. Streaming; no torch.

Nothing stops at the first thing that is wrong: all of it is found in one pass over the files.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import h5py
import numpy as np
from pydantic import ValidationError

from data_preprocessing.ledger import MAX_LISTED
from modelzoo.base_config import UserError
from modelzoo.data.schema import MANIFEST, TOKENIZER, Manifest, ShardHeader, ShardInfo, open_shard, read_manifest
from modelzoo.tokenizer import Tokenizer

BLOCK = 2**21
"""Elements that are looked at at a time."""
BESIDE = {MANIFEST, TOKENIZER}
"""Files of a dataset that are not shards."""

REWRITE = "delete the dataset and write it again with: modelzoo preprocess CONFIG"
COPY = f"copy the file again from where it is whole, or {REWRITE}"
REMOVE = "move it elsewhere, or delete it"


class Damage(NamedTuple):
    """One thing that is wrong."""

    file: str
    """Below the dataset's directory."""
    found: str
    expected: str
    remedy: str


class SplitReport(NamedTuple):
    """What was looked at."""

    shards: int
    documents: int
    tokens: int
    bytes: int
    seconds: float


class Report(NamedTuple):
    """All that is wrong with a dataset, and its splits."""

    damage: list[Damage]
    splits: dict[str, SplitReport]


def verify(directory: Path, on_bytes: Callable[[int], None] | None = None) -> Report:
    """Check a dataset against its manifest. `on_bytes` hears of bytes of shards that are done.

    Raises:
        UserError: there is no manifest, so nothing says what the dataset is.
    """
    try:
        manifest = read_manifest(directory)
    except UserError as error:
        if not (directory / MANIFEST).is_file():
            raise
        return Report(list(_schema_damage(directory, error)), {})
    damage = [Damage(MANIFEST, *problem, REWRITE) for problem in (*sum_problems(manifest), *ledger_problems(manifest))]
    damage += _file_damage(directory, manifest)
    damage += _tokenizer_damage(directory, manifest)
    splits = {}
    for name, split in manifest.splits.items():
        started, size = time.monotonic(), 0
        masked = []
        for shard in split.shards:
            path = directory / shard.file
            if not _inside(shard.file) or not path.is_file():
                continue  # among the files' damage
            size += path.stat().st_size
            damage += _shard_damage(path, shard, manifest, on_bytes or (lambda _: None))
            masked.append(_has_loss_mask(path))
        if True in masked and False in masked:
            first = split.shards[masked.index(False)].file
            damage.append(Damage(first, "no loss_mask", "one, as in other shards of its split", REWRITE))
        seconds = time.monotonic() - started
        splits[name] = SplitReport(len(split.shards), split.num_documents, split.num_tokens, size, seconds)
    return Report(damage, splits)


def sum_problems(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """What was found, and what was expected, where a split's counts are not the sums over its shards."""
    for name, split in manifest.splits.items():
        for count in ("num_documents", "num_tokens", "num_bytes"):
            total = sum(getattr(shard, count) for shard in split.shards)
            if getattr(split, count) != total:
                yield f"splits.{name}.{count}={getattr(split, count)}", f"{total}, the sum over its shards"


def ledger_problems(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """What was found, and what was expected, where the ledger does not add up. All its rules stand here."""
    ledger, splits = manifest.ledger, manifest.splits.values()
    rejected = sum(ledger.rejected_by_reason.values())
    listed = Counter(one.reason for one in ledger.rejected)
    equal = [
        ("documents_in", ledger.documents_in, "documents_written + rejected", ledger.documents_written + rejected),
        ("documents_written", ledger.documents_written, "sum of the splits", sum(s.num_documents for s in splits)),
        ("bytes_written", ledger.bytes_written, "sum of the splits", sum(s.num_bytes for s in splits)),
        ("rejected", len(ledger.rejected), "the documents rejected, as far as listed", min(rejected, MAX_LISTED)),
    ]
    if not rejected:
        equal.append(("bytes_in", ledger.bytes_in, "bytes_written, as nothing was rejected", ledger.bytes_written))
    for name, found, rule, expected in equal:
        if found != expected:
            yield f"ledger.{name}={found}", f"{expected} ({rule})"
    if ledger.bytes_in < ledger.bytes_written:
        yield f"ledger.bytes_in={ledger.bytes_in}", f"at least bytes_written={ledger.bytes_written}"
    for reason, number in listed.items():
        if number > ledger.rejected_by_reason.get(reason, 0):
            counted = ledger.rejected_by_reason.get(reason, 0)
            yield f"ledger.rejected lists {number} documents ({reason})", f"at most the {counted} that are counted"


def _schema_damage(directory: Path, error: UserError) -> Iterator[Damage]:
    if isinstance(error.__cause__, ValidationError):
        for one in error.__cause__.errors():
            place = ".".join(map(str, one["loc"]))
            yield Damage(MANIFEST, f"{place}={one['input']!r:.80}", one["msg"], REWRITE)
    else:
        yield Damage(MANIFEST, _without_path(error, directory / MANIFEST), "a manifest", REWRITE)


def _inside(file: str) -> bool:
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts


def _file_damage(directory: Path, manifest: Manifest) -> Iterator[Damage]:
    """Files that are missing, and files that nothing speaks of."""
    counts = Counter(shard.file for split in manifest.splits.values() for shard in split.shards)
    for file, times in counts.items():
        if not _inside(file):
            yield Damage(MANIFEST, f"a shard {file!r}", "a path below the dataset's directory", REWRITE)
        elif not (directory / file).is_file():
            yield Damage(file, "no such file", f"a shard, which {MANIFEST} lists", COPY)
        if times > 1:
            yield Damage(MANIFEST, f"the shard {file!r}, {times} times", "each shard once", REWRITE)
    there = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
    for file in sorted(there - set(counts) - BESIDE):
        yield Damage(file, "a file", f"none: {MANIFEST} does not list it", REMOVE)


def _tokenizer_damage(directory: Path, manifest: Manifest) -> Iterator[Damage]:
    path, expected = directory / TOKENIZER, manifest.tokenizer
    try:
        tokenizer = Tokenizer.load(path)
        written = json.loads(path.read_text(encoding="utf-8"))
    except (UserError, ValueError) as error:
        yield Damage(TOKENIZER, _without_path(error, path), f"a tokenizer of sha256 {expected.sha256}", COPY)
        return
    for name in ("sha256", "vocab_size", "end_of_document_id"):
        if getattr(tokenizer, name) != getattr(expected, name):
            yield Damage(
                TOKENIZER, f"{name} {getattr(tokenizer, name)}", f"{getattr(expected, name)} ({MANIFEST})", COPY
            )
    if not _kept(written, json.loads(tokenizer.backend.to_str())):  # outside what the sha256 covers
        yield Damage(TOKENIZER, "settings that loading it does not keep", "the file as it was written", COPY)


def _kept(written: Any, loaded: Any) -> bool:
    """Is all of `written` in `loaded`? A newer library may know more settings than the one that wrote."""
    if isinstance(written, dict):
        return isinstance(loaded, dict) and all(key in loaded and _kept(written[key], loaded[key]) for key in written)
    return bool(written == loaded)


def _shard_damage(
    path: Path, shard: ShardInfo, manifest: Manifest, on_bytes: Callable[[int], None]
) -> Iterator[Damage]:
    size, done = path.stat().st_size, 0

    def advance(num_bytes: int) -> None:
        nonlocal done
        step = min(num_bytes // 2, size - done)  # each byte is read twice
        done += step
        on_bytes(step)

    try:
        if (sha256 := _sha256(path, advance)) != shard.sha256:
            yield Damage(shard.file, f"sha256 {sha256}", f"{shard.sha256} ({MANIFEST})", COPY)
        header = open_shard(path)
        yield from _header_damage(header, shard, manifest)
        with h5py.File(path, "r") as file:
            for found, expected in _content_problems(file, header, advance):
                yield Damage(shard.file, found, expected, COPY)
    except UserError as error:
        yield Damage(shard.file, _without_path(error, path), "a whole shard", COPY)
    except Exception as error:  # a damaged file makes h5py raise nearly anything
        yield Damage(shard.file, f"cannot be read ({type(error).__name__}: {error})", "a whole shard", COPY)
    on_bytes(size - done)


def _sha256(path: Path, advance: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2 * BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


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


def _has_loss_mask(path: Path) -> bool | None:
    try:
        with h5py.File(path, "r") as file:
            return "loss_mask" in file
    except OSError:
        return None


def _without_path(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ").removesuffix(f"; {REWRITE}")
