"""Compressed files and tar archives, as streams that give all that can be read before any damage.

Nothing is ever written to disk, and no name inside an archive is used as a path.
"""

import bz2
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from data_preprocessing.readers import EMPTY, SKIPPED, Place, Rejected
from data_preprocessing.streams import Steady, Stream

OUTPUT_BYTES = 2**20
"""A decompressor gives no more at once, however well its input is packed."""
LONG_FORMS = {".tgz": ".tar.gz", ".txz": ".tar.xz", ".tbz2": ".tar.bz2", ".tbz": ".tar.bz2", ".tzst": ".tar.zst"}


class Decompressor(Protocol):
    """One run of compressed bytes (a gzip member, an xz stream, a zstd frame): as in bz2 and lzma."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._state = zlib.decompressobj(wbits=31)
        self._error: zlib.error | None = None

    @property
    def eof(self) -> bool:
        return self._state.eof

    @property
    def needs_input(self) -> bool:
        return not self._state.unconsumed_tail and not self._error

    @property
    def unused_data(self) -> bytes:
        return self._state.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        if self._error:
            raise self._error
        data = self._state.unconsumed_tail + data
        before = self._state.copy()  # zlib throws away what it had when it meets an error
        try:
            return self._state.decompress(data, max_length)
        except zlib.error as error:
            self._error = error
            return b"".join(_until_error(before, data))


def _until_error(state: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    data = state.unconsumed_tail + data
    try:
        for start in range(len(data)):
            yield state.decompress(data[start : start + 1])
    except zlib.error:
        return


class _Zstandard:
    needs_input = True

    def __init__(self) -> None:
        import zstandard

        self._state = zstandard.ZstdDecompressor().decompressobj()

    @property
    def eof(self) -> bool:
        return bool(self._state.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._state.unused_data)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        import zstandard

        try:  # knows no limit: the small pieces that it is fed do not unpack to more than 128 MB, whatever they hold
            return bytes(self._state.decompress(data))
        except zstandard.ZstdError as error:
            raise EOFError(f"{error}") from error


class _Format(NamedTuple):
    new: Callable[[], Decompressor]
    piece: int
    """Bytes to feed at once: what these hold is lost where the decompressor meets an error in them."""


FORMATS = {
    ".gz": _Format(_Gzip, 2**16),  # which loses nothing
    ".xz": _Format(lzma.LZMADecompressor, 2**10),
    ".bz2": _Format(bz2.BZ2Decompressor, 2**10),
    ".zst": _Format(_Zstandard, 2**12),
}
ERRORS = (EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)


class Unpacked(Stream):
    """A compressed stream, decompressed: one member after the other, zero bytes between them skipped."""

    def __init__(self, stream: BinaryIO, form: _Format) -> None:
        self._source = Steady(stream)
        self._form = form
        self._state: Decompressor | None = None  # between two members
        self._any = False
        self._input = b""
        self._output, self._given = b"", 0  # the latest piece, and how much of it was passed on
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(OUTPUT_BYTES), b""))
        pieces, missing = [], size
        while missing:
            if self._given == len(self._output):
                self._output, self._given = self._next(), 0
                if not self._output:
                    break
            piece = self._output[self._given : self._given + missing]
            self._given += len(piece)
            missing -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def _next(self) -> bytes:
        """Some more bytes; none at the end, or where the rest is damaged."""
        while not self._ended:
            if self._state is None:
                self._ended = not self._start_member()
                continue
            data = b""
            if self._state.needs_input:
                if not self._input and not self._fill():
                    return self._end(self._source.damage or "it ends in the middle")
                data, self._input = self._input, b""
            try:
                out = self._state.decompress(data, OUTPUT_BYTES)
            except ERRORS as error:
                return self._end(f"{error}")
            if self._state.eof:
                self._input, self._state = self._state.unused_data, None
            if out:
                return out
        return b""

    def _start_member(self) -> bool:
        while self._input or self._fill():
            self._input = self._input.lstrip(b"\0") if self._any else self._input
            if self._input:
                self._state, self._any = self._form.new(), True
                return True
        self.damage = self._source.damage
        return False

    def _fill(self) -> bool:
        self._input = self._source.read(self._form.piece)
        return bool(self._input)

    def _end(self, damage: str) -> bytes:
        self.damage, self._ended = damage, True
        return b""


def full_name(name: str) -> str:
    """The name of a file by which its kind is told: without a URL's query, `.tgz` written as `.tar.gz`."""
    if "://" in name:
        name = name.partition("?")[0].partition("#")[0]
    path = PurePosixPath(name)
    return str(path.with_suffix(LONG_FORMS[path.suffix])) if path.suffix in LONG_FORMS else name


def unpacked(stream: BinaryIO, name: str) -> BinaryIO:
    """The stream, decompressed where the name says that it is compressed."""
    form = FORMATS.get(PurePosixPath(name).suffix)
    return cast(BinaryIO, Unpacked(stream, form)) if form else stream


def is_tar(name: str) -> bool:
    """Whether a file of this name is a tar archive, compressed or not."""
    path = PurePosixPath(full_name(name))
    return ".tar" in (path.suffixes[-2:] if path.suffix in FORMATS else path.suffixes[-1:])


def members(
    stream: BinaryIO, name: str, wanted: Callable[[str], bool] = lambda member: True
) -> Iterator[tuple[str, BinaryIO | Rejected]]:
    """The files that a stream holds, unpacked: those of an archive that are wanted, or just itself.

    Each has to be read before the next is asked for. What an archive holds besides is rejected, each with
    its own reason; directories hold nothing and go unmentioned.
    """
    content = unpacked(stream, full_name(name))
    if is_tar(name):
        yield from _tar_members(Steady(content), name, wanted)
    else:
        yield name, content


class _Header(tarfile.TarInfo):
    """tarfile takes most broken headers for the end of the archive; here only the end mark is one."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":
                raise
            raise tarfile.ReadError(f"{error}") from error


class _Member(Stream):
    """The bytes of one file in a tar archive, as they come."""

    def __init__(self, archive: BinaryIO, size: int) -> None:
        self._archive, self._left = archive, size

    def read(self, size: int = -1) -> bytes:
        data = self._archive.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(data)
        if self._left and not data and size:
            self.damage = "the archive ends within this member"
        return data


def _tar_members(source: Steady, name: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, BinaryIO | Rejected]]:
    place = Place(name, "file", 1)

    def ends(why: object) -> tuple[str, Rejected]:
        detail = f"{source.damage or why}; no member after this place can be read"
        return name, Rejected(place, "damaged archive", detail, 0)

    try:
        with tarfile.open(
            fileobj=source, mode="r|", bufsize=2**18, tarinfo=_Header, errors="backslashreplace"
        ) as archive:
            while (member := archive.next()) is not None:
                cast(Any, archive).members.clear()  # or it remembers them all
                place = Place(f"{name}/{member.name}", "file", 1)
                if refused := _refused(member, place, wanted):
                    yield place.file, refused
                elif not member.isdir():
                    content = _Member(cast(BinaryIO, archive.fileobj), member.size)
                    yield place.file, unpacked(cast(BinaryIO, content), member.name)
                    if content.damage:
                        return  # reported by who read the member
            place = Place(name, "file", 1)
            rest = cast(BinaryIO, archive.fileobj)
            if any(data.strip(b"\0") for data in iter(lambda: rest.read(2**20), b"")) or source.damage:
                yield ends("bytes follow the end of the archive")
    except tarfile.TarError as error:
        if source.num_bytes or source.damage:
            yield ends(error)
        else:
            yield name, Rejected(place, EMPTY, "the file is empty", 0)


def _refused(member: tarfile.TarInfo, place: Place, wanted: Callable[[str], bool]) -> Rejected | None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return Rejected(place, "unsafe member name", "names in an archive are relative and go down only", member.size)
    if member.isdir():
        return None
    if not member.isreg() or member.issparse() or member.size < 0:
        return Rejected(place, "not a regular file", "links, devices and sparse files are not read", member.size)
    if not wanted(member.name):
        return Rejected(place, SKIPPED, "no pattern of reader.members fits its name", member.size)
    if is_tar(member.name):
        return Rejected(place, "an archive within an archive", "unpack the outer one first", member.size)
    return None
