"""A directory tree: each file of the wanted kinds is a document. For source code, books, pages."""

from collections.abc import Iterator
from typing import BinaryIO, Literal

from data_preprocessing.directories import TreeReader
from data_preprocessing.readers import Document, Frame, Rejected
from data_preprocessing.streams import cut, decode, records


class DirectoryReader(TreeReader):
    """The files below the directories `paths`, sorted by their relative paths. Links are followed; what several of
    them lead to is read once."""

    kind: Literal["directory"] = "directory"

    def frames(self, stream: BinaryIO, name: str) -> Iterator[Frame | Rejected]:
        return cut(stream, name, "file", None, self.max_document_bytes)

    def documents(self, frame: Frame) -> Iterator[Document | Rejected]:
        for raw, place in records(frame, None):
            yield decode(raw, place)
