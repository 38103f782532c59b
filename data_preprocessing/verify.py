"""Is a dataset what its manifest says? Hashes, headers, documents, ids, ledger. Streaming; no torch.

Nothing stops at the first thing that is wrong: all of it is found in one pass over the files.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import h5py
from pydantic import ValidationError

from data_preprocessing import ledger
from data_preprocessing.verify_shard import COPY, REWRITE, Damage, shard_damage, without_path
from modelzoo.base_config import UserError
from modelzoo.data.schema import (
    MANIFEST,
    REJECTED,
    TOKENIZER,
    Manifest,
    SplitInfo,
    content_sha256,
    file_sha256,
    read_manifest,
)
from modelzoo.tokenizer import Tokenizer

BESIDE = {MANIFEST, REJECTED, TOKENIZER}
"""Files of a dataset that are not shards."""

REMOVE = "move it elsewhere, or delete it"


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
    damage = [
        Damage(MANIFEST, *problem, REWRITE)
        for problem in (*sum_problems(manifest), *ledger.problems(manifest.ledger, manifest.splits))
    ]
    damage += _manifest_damage(directory, manifest)
    damage += _file_damage(directory, manifest)
    damage += _tokenizer_damage(directory, manifest)
    damage += _rejected_damage(directory, manifest)
    splits = {}
    for name, split in manifest.splits.items():
        started, size = time.monotonic(), 0
        for shard in split.shards:
            path = directory / shard.file
            if not _inside(shard.file) or not path.is_file():
                continue  # among the files' damage
            size += path.stat().st_size
            damage += shard_damage(path, shard, manifest, on_bytes or (lambda _: None))
        damage += _mask_damage(directory, split, {one.file for one in damage})
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


def _schema_damage(directory: Path, error: UserError) -> Iterator[Damage]:
    if isinstance(error.__cause__, ValidationError):
        for one in error.__cause__.errors():
            place = ".".join(map(str, one["loc"]))
            yield Damage(MANIFEST, f"{place}={one['input']!r:.80}", one["msg"], REWRITE)
    else:
        yield Damage(MANIFEST, without_path(error, directory / MANIFEST), "a manifest", REWRITE)


def _manifest_damage(directory: Path, manifest: Manifest) -> Iterator[Damage]:
    """What nothing else in the dataset would contradict: the inputs, and names."""
    found = content_sha256(json.loads((directory / MANIFEST).read_bytes()))
    if manifest.sha256 is not None and found != manifest.sha256:
        yield Damage(MANIFEST, f"content of sha256 {found[:12]}…", f"{manifest.sha256[:12]}…, as it was written", COPY)


def _inside(file: str) -> bool:
    path = PurePosixPath(file)
    return not path.is_absolute() and ".." not in path.parts


def _rejected_damage(directory: Path, manifest: Manifest) -> Iterator[Damage]:
    """Of the list of rejected documents."""
    path = directory / REJECTED
    if not path.is_file():
        yield Damage(REJECTED, "no such file", "the list of rejected documents", COPY)
    elif (found := file_sha256(path)) != (expected := manifest.ledger.rejected_sha256):
        yield Damage(REJECTED, f"sha256 {found[:12]}…", f"{expected[:12]}…", COPY)
    else:
        with path.open(encoding="utf-8") as lines:
            listed = dict(Counter(json.loads(line)["reason"] for line in lines))
        if listed != manifest.ledger.rejected_by_reason:
            yield Damage(REJECTED, f"{listed}", f"{manifest.ledger.rejected_by_reason}, as {MANIFEST} counts", REWRITE)


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
        yield Damage(TOKENIZER, without_path(error, path), f"a tokenizer of sha256 {expected.sha256}", COPY)
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


def _mask_damage(directory: Path, split: SplitInfo, damaged: set[str]) -> Iterator[Damage]:
    """All shards of a split have a loss_mask, or none has. Only those that can be opened are asked."""
    has_mask = {}
    for shard in split.shards:
        if shard.file not in damaged and _inside(shard.file):
            with h5py.File(directory / shard.file, "r") as file:
                has_mask[shard.file] = "loss_mask" in file
    if any(has_mask.values()):
        for name in (name for name, has in has_mask.items() if not has):
            yield Damage(name, "no loss_mask", "one, as in other shards of its split", REWRITE)
