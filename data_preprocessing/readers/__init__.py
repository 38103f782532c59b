"""Readers: files to documents. One file a kind; what every reader shares stands here."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from modelzoo.base_config import Config, UserError

UNREADABLE = {".zst": "zstd -d", ".zip": "unzip", ".bz2": "bunzip2", ".parquet": "a converter to JSON Lines"}


Unit = Literal["file", "line", "document"]


class Place(NamedTuple):
    """Where a document stands. Lines and documents of a file are counted from 1."""

    file: str
    unit: Unit
    number: int

    def __str__(self) -> str:
        return {
            "file": self.file,
            "line": f"{self.file}:{self.number}",
            "document": f"{self.file}: document {self.number}",
        }[self.unit]


class Document(NamedTuple):
    """One text and where it was found. Most readers give it in one part; a mode may ask for several."""

    parts: tuple[str, ...]
    place: Place

    @property
    def text(self) -> str:
        """The parts, joined with nothing between them."""
        return "".join(self.parts)


class Rejected(NamedTuple):
    """What should have been a document: `reason` is one of few, for counting; `detail` tells this case."""

    place: Place
    reason: str
    detail: str
    num_bytes: int


EMPTY = "empty"
"""The reason that never stops a run: nothing is lost with an empty document."""


def _one_or_many(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


OneOrMany = BeforeValidator(_one_or_many)
"""Annotates a tuple field whose single value may be written without a list."""


class ReaderConfig(Config):
    """What every reader is told. A kind adds its options and `read`."""

    paths: Annotated[tuple[str, ...], OneOrMany, Field(min_length=1)]
    """Files to read, in this order; one path or a list. `*`, `?`, `[…]` and `**` match, sorted by name."""

    @property
    def num_parts(self) -> int:
        """Parts of every document that `read` gives."""
        return 1

    def files(self, base_dir: Path) -> list[str]:
        """The files to read, each once, named as `paths` names them (relative to base_dir, or absolute).

        Raises:
            UserError: a path does not exist, or matches nothing.
        """
        found = [name for path in self.paths for name in self._expand(base_dir, path)]
        for name in found:
            if Path(name).suffix in UNREADABLE:
                raise UserError(
                    f"reader.paths: {name} is not read as it is; unpack it first with "
                    f"{UNREADABLE[Path(name).suffix]} (.gz and .xz are read directly)"
                )
        return list(dict.fromkeys(found))

    def _expand(self, base_dir: Path, path: str) -> list[str]:
        """The files that one entry of `paths` stands for."""
        if (base_dir / path).is_file():
            return [path]
        if (base_dir / path).is_dir():
            raise UserError(
                f"reader.paths: {base_dir / path} is a directory; expected files: name them ({path}/*), "
                "or use reader.kind=directory"
            )
        names = sorted(name for name in glob.glob(path, root_dir=base_dir, recursive=True))
        names = [name for name in names if (base_dir / name).is_file()]
        if not names:
            what = "matches no file" if glob.has_magic(path) else "no such file"
            raise UserError(f"reader.paths: {base_dir / path}: {what}; expected text to read there")
        return names

    def read(self, stream: BinaryIO, name: str) -> Iterator[Document | Rejected]:
        """The documents of one open file, in order, without holding more than one."""
        raise NotImplementedError
