"""The files of a run, read one after the other: cut into frames, counted and hashed on the way."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from data_preprocessing.archives import members
from data_preprocessing.readers import HARMLESS, Document, Frame, ReaderConfig, Rejected
from modelzoo.base_config import UserError


class Progress(NamedTuple):
    """How far a run is. Bytes are those of the input files as they lie there."""

    bytes_done: int
    bytes_total: int
    documents: int
    tokens: int
    rejected: int = 0


class _Counted(io.RawIOBase):
    """A stream that hashes and counts what is read through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hash = hashlib.sha256()
        self.num_bytes = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._hash.update(data)
        self.num_bytes += len(data)
        return data

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def finish(self) -> str:
        """Read on to the end; the sha256 of all."""
        while self.read(2**20):
            pass
        return self._hash.hexdigest()


class InputReader:
    """Reads the files of one reader in order."""

    def __init__(self, reader: ReaderConfig, base_dir: Path) -> None:
        """Lists the files. Raises UserError: see `ReaderConfig.files`; or a file may not be read."""
        self.reader = reader
        self.base_dir = base_dir
        try:
            self.names: Sequence[str] = reader.files(base_dir)
            for name in self.names:
                if not name.isprintable() and name.encode(errors="replace").decode() != name:
                    raise UserError(
                        f"reader.paths: {name!r}: the name is not UTF-8, as the manifest needs it; rename it"
                    )
            self.sizes = {name: reader.size(base_dir, name) for name in self.names}
        except PermissionError as error:
            raise UserError(f"reader.paths: {error.filename}: may not be read; change its permissions") from error
        self.sha256: dict[str, str] = {}
        """Of each file that was read to its end."""
        self.bytes_done = 0

    def frames(self, names: Sequence[str] | None = None) -> Iterator[Frame | Rejected]:
        """All that is in these files (None: all of them), in order."""
        for name in self.names if names is None else names:
            before = self.bytes_done
            try:
                with self.reader.open(self.base_dir, name) as stream:
                    for item in self._read(stream, name):
                        yield item
                        if name not in self.sha256:
                            self.bytes_done = before + min(self._position, self.sizes[name])
            except PermissionError as error:
                raise UserError(f"reader.paths: {error.filename}: may not be read; change its permissions") from error
            self.bytes_done = before + self.sizes[name]

    def _read(self, stream: BinaryIO, name: str) -> Iterator[Frame | Rejected]:
        counted = _Counted(stream)
        if self.reader.needs_seek:
            self._finish(counted, name)
            stream.seek(0)
            yield from self.reader.frames(stream, name)
            return
        for member, content in members(cast(BinaryIO, counted), name, self.reader.wants):
            if isinstance(content, Rejected):
                self._position = counted.num_bytes
                yield content
                continue
            for item in self.reader.frames(content, member):
                self._position = counted.num_bytes
                yield item
        self._finish(counted, name)

    def _finish(self, counted: _Counted, name: str) -> None:
        """Read what is left, and note the hash. Raises UserError where the file is no longer what it was."""
        sha256 = counted.finish()
        if self.sizes[name] and counted.num_bytes != self.sizes[name]:  # 0: a server that did not say
            raise UserError(
                f"{name}: changed while it was read ({self.sizes[name]:,} bytes at first, then {counted.num_bytes:,}); "
                "run again when nothing writes to it any more"
            )
        self.sha256[name] = sha256

    def is_local(self, name: str) -> bool:
        """The file lies on this machine's disks."""
        return (self.base_dir / name).exists()

    def hash(self, name: str) -> str:
        """The sha256 of a file, read now where it was not read to its end before."""
        if name not in self.sha256:
            with self.reader.open(self.base_dir, name) as stream:
                self.sha256[name] = _Counted(stream).finish()
        return self.sha256[name]

    def documents(self, on_error: str, names: Sequence[str] | None = None) -> Iterator[Document | Rejected]:
        """Every document of these files in order, in this process. Raises UserError as `stop_at` does."""
        for item in self.frames(names):
            for document in [item] if isinstance(item, Rejected) else self.reader.documents(item):
                if isinstance(document, Rejected):
                    stop_at(document, on_error)
                yield document


def stop_at(rejected: Rejected, on_error: str) -> None:
    """Raise UserError for what cannot be used, with on_error="stop" (what is HARMLESS excepted)."""
    if on_error == "stop" and rejected.reason not in HARMLESS:
        raise UserError(stopping(f"{rejected.place}: {rejected.reason}: {rejected.detail}"))


def stopping(failure: str) -> str:
    """The message for a document that stops the run."""
    return f"{failure}; mend it, or leave such documents out with on_error=reject"
