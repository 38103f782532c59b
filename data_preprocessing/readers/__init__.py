"""Readers: files to documents, in two halves. One file a kind; what every reader shares stands here.

The first half, `frames`, runs in one process and cuts an open file into runs of whole records. The second,
`documents`, runs in any worker and turns such a run into documents. Neither holds more than one record
beyond its frame.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from data_preprocessing import locations
from modelzoo.base_config import Config, FromFloat, UserError

FRAME_BYTES = 2**20
"""A frame is closed once it holds so many bytes; a longer record has one of its own."""

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


class Frame(NamedTuple):
    """Consecutive records of one file, as bytes that `ReaderConfig.documents` understands."""

    first: Place
    """That of the first record."""
    data: bytes


class Document(NamedTuple):
    """One text and where it was found. Most readers give it in one part; a mode may ask for several."""

    parts: tuple[str, ...]
    place: Place
    roles: tuple[str, ...] = ()
    """Who speaks in each part, where the reader knows (a chat)."""

    @property
    def text(self) -> str:
        """The parts, joined with nothing between them."""
        return self.parts[0] if len(self.parts) == 1 else "".join(self.parts)


class Rejected(NamedTuple):
    """What should have been a document: `reason` is one of few, for counting; `detail` tells this case."""

    place: Place
    reason: str
    detail: str
    num_bytes: int


EMPTY = "empty"
SKIPPED = "not wanted"
TOO_LONG = "too long"
HARMLESS = frozenset({EMPTY, SKIPPED, TOO_LONG})
"""The reasons that never stop a run: nothing is lost with an empty document, nor with a member of an archive that
was not asked for, and a limit of the mode was. They are counted all the same."""

UNREADABLE = {
    ".zip": "unzip",
    ".7z": "7z x",
    ".rar": "unrar x",
    ".lz4": "unlz4",
    ".br": "brotli -d",
    ".Z": "uncompress",
}
"""Ends of names that no reader takes, and what unpacks such files."""


def _one_or_many(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


OneOrMany = BeforeValidator(_one_or_many)
"""Annotates a tuple field whose single value may be written without a list."""


class ReaderConfig(Config):
    """What every reader is told. A kind adds its options, `frames` and `documents`."""

    paths: Annotated[tuple[str, ...], OneOrMany, Field(min_length=1)]
    """Files to read, in this order; one path or a list: local ones, or URLs of any file system that fsspec knows
    (s3://, hf://, https://, …). `*`, `?`, `[…]` and `**` match, sorted by name. .gz, .xz, .bz2 and .zst files are
    unpacked on the way, and .tar archives (of those too) are read member by member. A file that is found twice is
    read once."""
    members: Annotated[tuple[str, ...], OneOrMany, Field(min_length=1)] = ("*",)
    """Patterns of the names of the files to read in tar archives; `*` matches `/` too. Other files in them are
    left out and counted."""
    max_document_bytes: Annotated[int, FromFloat, Field(gt=0)] = 128 * 2**20
    """A longer record (a line of JSON, a text between separators, a file) is not read but rejected: memory is
    bounded by it."""

    needs_seek: ClassVar[bool] = False
    """`frames` jumps about in the stream, which it gets as it lies there, not unpacked."""

    @property
    def num_parts(self) -> int:
        """Parts of every document that `documents` gives; 0 where it differs from one to the next."""
        return 1

    def files(self, base_dir: Path) -> list[str]:
        """The files to read, each once, named as `paths` names them (relative to base_dir, or absolute, or URLs).

        Raises:
            UserError: a path does not exist, or matches nothing, or is of a kind that is not read.
        """
        found: dict[str, str] = {}
        for path in self.paths:
            for name in self._expand(base_dir, path):
                found.setdefault(locations.identity(base_dir, name), locations.normal(name))
        for name in found.values():
            for suffix in UNREADABLE:
                if name.endswith(suffix):
                    remedy = f"unpack it first with {UNREADABLE[suffix]}"
                    raise UserError(f"reader.paths: {name}: {suffix} files are not read; {remedy}")
        return list(found.values())

    def _expand(self, base_dir: Path, path: str) -> list[str]:
        """The files that one entry of `paths` stands for."""
        return locations.expand(base_dir, path)

    def wants(self, member: str) -> bool:
        """Whether the file of this name in an archive is to be read."""
        return any(fnmatchcase(member, pattern) for pattern in self.members)

    def size(self, base_dir: Path, name: str) -> int:
        """Bytes that `open` will give, as far as that is known; for progress, and to notice a change early."""
        return locations.size_of(base_dir, name)

    def open(self, base_dir: Path, name: str) -> BinaryIO:
        """One of `files`, for reading from its start; its bytes decide the identity of the input."""
        return locations.open_file(base_dir, name)

    def frames(self, stream: BinaryIO, name: str) -> Iterator[Frame | Rejected]:
        """Cut one open file, unpacked already, into frames, in order. What cannot be cut is rejected.

        Frames follow from the bytes of the file alone, not from how the stream delivers them.
        """
        raise NotImplementedError

    def documents(self, frame: Frame) -> Iterator[Document | Rejected]:
        """The documents of one frame, in order, one for each of its records."""
        raise NotImplementedError
