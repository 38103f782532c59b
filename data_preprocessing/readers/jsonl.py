"""JSON Lines: one object a line."""

from collections.abc import Iterator
from typing import BinaryIO, Literal

from data_preprocessing.objects import ObjectReader
from data_preprocessing.readers import Document, Frame, Rejected
from data_preprocessing.streams import cut


class JsonlReader(ObjectReader):
    """.jsonl files, also compressed ones."""

    kind: Literal["jsonl"] = "jsonl"

    def frames(self, stream: BinaryIO, name: str) -> Iterator[Frame | Rejected]:
        return cut(stream, name, "line", b"\n", self.max_document_bytes)

    def documents(self, frame: Frame) -> Iterator[Document | Rejected]:
        return self.json_documents(frame, b"\n")
