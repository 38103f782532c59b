"""JSON Lines: one object a line, one of its keys is the text."""

import json
from collections.abc import Iterator
from typing import BinaryIO, Literal

from data_preprocessing.readers import EMPTY, Document, ReaderConfig, Rejected
from data_preprocessing.streams import split_documents


class JsonlReader(ReaderConfig):
    """.jsonl files, also .gz and .xz."""

    kind: Literal["jsonl"] = "jsonl"
    text_key: str = "text"
    """The key that holds the text."""

    def read(self, stream: BinaryIO, name: str) -> Iterator[Document | Rejected]:
        for line in split_documents(stream, name, "\n"):
            yield self._parse(line) if isinstance(line, Document) else line

    def _parse(self, line: Document) -> Document | Rejected:
        def rejected(reason: str, detail: str) -> Rejected:
            return Rejected(line.place, reason, detail, len(line.text.encode()))

        if line.text.isspace():
            return rejected(EMPTY, "blank line")
        try:
            record = json.loads(line.text)
        except (ValueError, RecursionError) as error:
            return rejected("not JSON", f"{error}")
        if not isinstance(record, dict):
            return rejected("not an object", f"expected an object with the key {self.text_key!r}")
        if self.text_key not in record:
            return rejected("missing key", f"no key {self.text_key!r}; it has {', '.join(map(repr, record))}")
        text = record[self.text_key]
        if not isinstance(text, str):
            return rejected("not a string", f"{self.text_key!r} is {json.dumps(text)[:40]}; expected a string")
        return Document(text, line.place) if text else rejected(EMPTY, f"{self.text_key!r} is empty")
