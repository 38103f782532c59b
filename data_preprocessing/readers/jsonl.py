"""JSON Lines: one object a line, one or several of its keys are the text."""

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, BinaryIO, Literal

import orjson
from pydantic import Field, field_serializer

from data_preprocessing.readers import EMPTY, Document, Frame, OneOrMany, Place, ReaderConfig, Rejected
from data_preprocessing.streams import cut, decode, records
from modelzoo.base_config import Problem


class JsonlReader(ReaderConfig):
    """.jsonl files, also compressed ones."""

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

    def frames(self, stream: BinaryIO, name: str) -> Iterator[Frame | Rejected]:
        return cut(stream, name, "line", b"\n", self.max_document_bytes)

    def documents(self, frame: Frame) -> Iterator[Document | Rejected]:
        for raw, place in records(frame, b"\n"):
            try:  # the fast parser takes what is plainly right; whatever it refuses, `_parse` judges
                record = orjson.loads(raw)
            except orjson.JSONDecodeError:
                yield self._parse(raw, place)
            else:
                yield self._document(record, raw, place)

    def _parse(self, raw: bytes, place: Place) -> Document | Rejected:
        line = decode(raw.removesuffix(b"\r"), place)
        if isinstance(line, Rejected):
            return line
        if line.text.isspace():
            return Rejected(place, EMPTY, "blank line", len(raw))
        try:
            record = json.loads(line.text)
        except (ValueError, RecursionError) as error:
            return Rejected(place, "not JSON", f"{error}", len(raw))
        return self._document(record, raw, place)

    def _document(self, record: Any, raw: bytes, place: Place) -> Document | Rejected:
        def rejected(reason: str, detail: str) -> Rejected:
            return Rejected(place, reason, detail, len(raw))

        keys, several = self.text_key, self.num_parts > 1
        if not isinstance(record, dict):
            return rejected("not an object", f"expected an object with the key{'s' * several} {_quoted(keys)}")
        if missing := [key for key in keys if key not in record]:
            return rejected("missing key", f"no key {_quoted(missing)}; it has {_quoted(record)}")
        for key in keys:
            if not isinstance(record[key], str):
                return rejected("not a string", f"{key!r} is {json.dumps(record[key])[:40]}; expected a string")
        parts = tuple([record[key] for key in keys])
        if not any(parts):
            return rejected(EMPTY, f"{_quoted(keys)} {'are' if several else 'is'} empty")
        return Document(parts, place)


def _quoted(keys: Iterable[str]) -> str:
    return ", ".join(map(repr, keys))
