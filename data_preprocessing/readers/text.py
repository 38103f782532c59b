"""Plain text: a document is a whole file, a line, or what stands between separators."""

from collections.abc import Iterator
from typing import Annotated, BinaryIO, Literal

from pydantic import Field

from data_preprocessing.readers import Document, Frame, ReaderConfig, Rejected, Unit
from data_preprocessing.streams import cut, decode, records


class TextReader(ReaderConfig):
    """UTF-8 text files, also compressed ones."""

    kind: Literal["text"] = "text"
    separator: Annotated[str, Field(min_length=1)] | None = None
    """null: each file is one document. "\\n": each line is one, without the \\r\\n or \\n at its end. Any other
    string separates documents, such as <|endoftext|>; all between two of them is kept as it stands, line ends
    too (in a file with \\r\\n, an empty line is "\\r\\n\\r\\n")."""

    @property
    def _separator(self) -> bytes | None:
        return self.separator.encode() if self.separator else None

    def frames(self, stream: BinaryIO, name: str) -> Iterator[Frame | Rejected]:
        unit: Unit = "file" if self.separator is None else "line" if self.separator == "\n" else "document"
        return cut(stream, name, unit, self._separator, self.max_document_bytes)

    def documents(self, frame: Frame) -> Iterator[Document | Rejected]:
        for raw, place in records(frame, self._separator):
            yield decode(raw.removesuffix(b"\r") if self.separator == "\n" else raw, place)
