"""Plain text: a document is a whole file, a line, or what stands between separators."""

from collections.abc import Iterator
from typing import Annotated, BinaryIO, Literal

from pydantic import Field

from data_preprocessing.readers import Document, ReaderConfig, Rejected
from data_preprocessing.streams import split_documents


class TextReader(ReaderConfig):
    """UTF-8 text files, also .gz and .xz."""

    kind: Literal["text"] = "text"
    separator: Annotated[str, Field(min_length=1)] | None = None
    """null: each file is one document. "\\n": each line is one. Any other string separates documents."""

    def read(self, stream: BinaryIO, name: str) -> Iterator[Document | Rejected]:
        return split_documents(stream, name, self.separator)
