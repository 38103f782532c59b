"""JSON Lines: one object a line, one or several of its keys are the text."""

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, BinaryIO, Literal

from pydantic import Field, field_serializer

from data_preprocessing.readers import EMPTY, Document, OneOrMany, ReaderConfig, Rejected
from data_preprocessing.streams import split_documents
from modelzoo.base_config import Problem


class JsonlReader(ReaderConfig):
    """.jsonl files, also .gz and .xz."""

    kind: Literal["jsonl"] = "jsonl"
    text_key: Annotated[tuple[str, ...], OneOrMany, Field(min_length=1)] = ("text",)
    """The key that holds the text; or a list of keys, whose texts are the parts of the document, in this order.
    Every line must have them all; a document is empty when all its parts are."""

    @field_serializer("text_key")
    def _one_as_a_string(self, keys: tuple[str, ...]) -> str | tuple[str, ...]:
        # the settings stand in every shard, whose bytes are to be those of a plain `text_key: text`
        return keys[0] if len(keys) == 1 else keys

    @property
    def num_parts(self) -> int:
        return len(self.text_key)

    def problems(self) -> Iterator[Problem]:
        if len(set(self.text_key)) < len(self.text_key):
            yield Problem(("text_key",), f"{list(self.text_key)} names a key twice; name each once")

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
        keys, several = self.text_key, self.num_parts > 1
        if not isinstance(record, dict):
            return rejected("not an object", f"expected an object with the key{'s' * several} {_quoted(keys)}")
        if missing := [key for key in keys if key not in record]:
            return rejected("missing key", f"no key {_quoted(missing)}; it has {_quoted(record)}")
        for key in keys:
            if not isinstance(record[key], str):
                return rejected("not a string", f"{key!r} is {json.dumps(record[key])[:40]}; expected a string")
        parts = tuple(record[key] for key in keys)
        if not any(parts):
            return rejected(EMPTY, f"{_quoted(keys)} {'are' if several else 'is'} empty")
        return Document(parts, line.place)


def _quoted(keys: Iterable[str]) -> str:
    return ", ".join(map(repr, keys))
