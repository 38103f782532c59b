"""A directory tree: each file of the wanted kinds is a document. For source code, books, pages."""

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import Field

from data_preprocessing.readers import Document, Frame, ReaderConfig, Rejected
from data_preprocessing.streams import cut, decode, records
from modelzoo.base_config import FromList, UserError


class DirectoryReader(ReaderConfig):
    """The files below the directories `paths`, sorted by their relative paths."""

    kind: Literal["directory"] = "directory"
    suffixes: Annotated[tuple[str, ...], FromList, Field(min_length=1)]
    """Ends of the file names that are read: [.py, .md]."""
    exclude: Annotated[tuple[str, ...], FromList] = ()
    """Patterns of relative paths that are left out: ["tests/*", "*_pb2.py"]; `*` matches `/` too."""

    def _expand(self, base_dir: Path, path: str) -> list[str]:
        root = base_dir / path
        if not root.is_dir():
            what = "is a file" if root.exists() else "no such directory"
            raise UserError(f"reader.paths: {root}: {what}; reader.kind=directory expects directories")
        relative = sorted(
            (Path(folder) / name).relative_to(root).as_posix()
            for folder, _, names in os.walk(root)
            for name in names
            if name.endswith(self.suffixes) and (Path(folder) / name).is_file()
        )
        kept = [name for name in relative if not any(fnmatch(name, pattern) for pattern in self.exclude)]
        if not kept:
            raise UserError(
                f"reader.paths: {root}: no file ends in {', '.join(self.suffixes)}"
                + (f" ({len(relative)} excluded by reader.exclude)" if relative else "")
                + "; expected text to read there"
            )
        return [(Path(path) / name).as_posix() for name in kept]

    def frames(self, stream: BinaryIO, name: str) -> Iterator[Frame | Rejected]:
        return cut(stream, name, "file", None, self.max_document_bytes)

    def documents(self, frame: Frame) -> Iterator[Document | Rejected]:
        for raw, place in records(frame, None):
            yield decode(raw, place)
