"""Raw text by its path alone: which reader a file's name asks for, and its documents."""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_preprocessing.config import AnyReader
from data_preprocessing.inputs import InputReader
from data_preprocessing.locations import is_url
from data_preprocessing.readers import HARMLESS, Document, ReaderConfig, Rejected
from modelzoo.base_config import UserError

COMPRESSED = r"(\.(gz|xz|bz2|zst))?$"
KINDS = {
    "jsonl": re.compile(r"\.(jsonl|ndjson)" + COMPRESSED),
    "json": re.compile(r"\.json" + COMPRESSED),
    "parquet": re.compile(r"\.parquet$"),
    "text": re.compile(r"\.(txt|text|md)" + COMPRESSED),
}
"""Ends of the names by which a reader is chosen. Any other file that is named itself is read as text; in a
directory it is left out."""
HALF_OF_A_PAIR = re.compile("[\ud800-\udfff]")
WITH_KEYS = ("jsonl", "json", "parquet")


class TextData:
    """The documents of a file, a pattern, a URL or a directory, in order: of each kind, sorted by name."""

    def __init__(self, path: str, text_key: str | None = None, on_error: str = "stop") -> None:
        """Lists the files. `text_key` is the key, or column, of JSON and Parquet that holds the text ("text").

        Raises:
            UserError: nothing to read there, or `text_key` for text that has no keys.
        """
        self.path, self.on_error = path, on_error
        self.notes: list[str] = []
        self.left_out: Counter[str] = Counter()
        """Documents by the reason for which they were left out."""
        paths = self._by_kind(path)
        if text_key is not None and not set(paths) & set(WITH_KEYS):
            raise UserError(f"--text-key {text_key}: {path} is plain text, which has no keys; leave it out")
        self._inputs = []
        for kind, files in paths.items():
            settings: dict[str, Any] = {"kind": kind, "paths": tuple(files)}
            if kind in WITH_KEYS:
                settings["text_key"] = (text_key or "text",)
            self._inputs.append(InputReader(_reader(settings), Path()))
        self.num_bytes = sum(size for inputs in self._inputs for size in inputs.sizes.values())

    @property
    def bytes_done(self) -> int:
        """How much of `num_bytes` has been read."""
        return sum(inputs.bytes_done for inputs in self._inputs)

    def texts(self, limit: int | None = None) -> Iterator[tuple[str, str]]:
        """(place, text) of each document, or of the first `limit`. Empty documents are left out, and counted.

        Raises:
            UserError: a document cannot be used, with on_error="stop".
        """
        number = 0
        for item in (item for inputs in self._inputs for item in inputs.documents("reject")):
            if not isinstance(item, Rejected):
                item = _without_halves(item)
            if not isinstance(item, Rejected):
                yield str(item.place), item.text
                number += 1
                if number == limit:
                    return
            elif self.on_error == "stop" and item.reason not in HARMLESS:
                key = ", name another key with --text-key" if item.reason == "missing key" else ""
                raise UserError(
                    f"{item.place}: {item.reason}: {item.detail}; mend it{key}, or leave such documents out with "
                    "--on-error reject"
                )
            else:
                self.left_out[item.reason] += 1

    def _by_kind(self, path: str) -> dict[str, list[str]]:
        if is_url(path):
            return {_kind(path) or "text": [path]}
        if Path(path).is_dir():
            names = sorted(os.path.join(root, name) for root, _, names in os.walk(path) for name in names)
            fallback = None
        else:
            names = [path] if Path(path).exists() else sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
            fallback = "text"
        found: dict[str, list[str]] = {}
        for name in names:
            if kind := _kind(name) or fallback:
                found.setdefault(kind, []).append(name)
        if not found:
            raise UserError(
                f"{path}: neither a dataset (no manifest.json, no *.h5) nor text (no .txt, .md, .jsonl, .json, "
                ".parquet); name a directory or a file that holds some"
            )
        if others := len(names) - sum(map(len, found.values())):
            self.notes.append(f"{path}: {others:,} files of other kinds are left out")
        return found


def _kind(name: str) -> str | None:
    return next((kind for kind, pattern in KINDS.items() if pattern.search(name)), None)


def _reader(settings: dict[str, Any]) -> ReaderConfig:
    from pydantic import TypeAdapter

    reader: ReaderConfig = TypeAdapter(AnyReader).validate_python(settings)
    return reader


def _without_halves(document: Document) -> Document | Rejected:
    """The document; rejected where it holds half of a surrogate pair, which JSON can spell and UTF-8 cannot."""
    half = HALF_OF_A_PAIR.search(document.text)
    if half is None:
        return document
    detail = f"\\u{ord(half[0]):04x} at character {half.start()} stands alone, which no UTF-8 text can hold"
    return Rejected(document.place, "unpaired surrogate", detail, 0)
