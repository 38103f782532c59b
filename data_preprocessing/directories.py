"""Readers of directory trees: which files they find."""

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated

from pydantic import Field

from data_preprocessing.locations import is_file, is_url
from data_preprocessing.readers import OneOrMany, ReaderConfig
from modelzoo.base_config import FromList, UserError


class TreeReader(ReaderConfig):
    """What all readers of directory trees share."""

    paths: Annotated[tuple[str, ...], OneOrMany, Field(min_length=1)]
    """Local directories, in this order; one path or a list."""
    suffixes: Annotated[tuple[str, ...], FromList, Field(min_length=1)]
    """Ends of the file names that are read: [.py, .md]. Compressed files are read where their ends are named:
    [.txt, .txt.gz]."""
    exclude: Annotated[tuple[str, ...], FromList] = ()
    """Patterns of relative paths that are left out: ["tests/*", "*_pb2.py"]; `*` matches `/` too."""

    def _expand(self, base_dir: Path, path: str) -> list[str]:
        root = base_dir / path
        if is_url(path):
            raise UserError(f"reader.paths: {path}: a URL; this kind of reader reads local directories")
        if not root.is_dir():
            what = "is a file" if root.exists() else "no such directory"
            raise UserError(f"reader.paths: {root}: {what}; this kind of reader expects directories")
        relative = sorted(
            file.relative_to(root).as_posix() for file in _walk(root, set()) if file.name.endswith(self.suffixes)
        )
        kept = [name for name in relative if not any(fnmatch(name, pattern) for pattern in self.exclude)]
        kept = [name for name in kept if is_file(root / name, "leave it out with reader.exclude")]
        if not kept:
            raise UserError(
                f"reader.paths: {root}: no file ends in {', '.join(self.suffixes)}"
                + (f" ({len(relative)} excluded by reader.exclude)" if relative else "")
                + "; expected text to read there"
            )
        return [(Path(path) / name).as_posix() for name in kept]


def _walk(root: Path, seen: set[str]) -> Iterator[Path]:
    """The files below a directory, each folder once: a link may lead back up. Real folders go before links to
    them, so that the names do not depend on which of the two comes first. PermissionError for a closed folder."""
    links = []
    for folder, folders, names in os.walk(root, onerror=_raise):
        seen.add(os.path.realpath(folder))
        yield from (Path(folder) / name for name in names)
        links += [Path(folder) / name for name in sorted(folders) if (Path(folder) / name).is_symlink()]
    for link in sorted(links):
        if os.path.realpath(link) not in seen:
            yield from _walk(link, seen)


def _raise(error: OSError) -> None:
    raise error
