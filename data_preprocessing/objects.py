"""Objects (of JSON, rows of a table) to documents: which of their keys are the text."""

import json
import re
from collections.abc import Iterable, Iterator
from functools import cache
from string import Formatter
from typing import Annotated, Any, NamedTuple

import orjson
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from data_preprocessing.readers import EMPTY, Document, Frame, OneOrMany, Place, ReaderConfig, Rejected
from data_preprocessing.streams import decode, lines
from modelzoo.base_config import FromList, Problem


class ObjectReader(ReaderConfig):
    """What all readers of objects share. A dot in a key leads into nested objects: `meta.text`; a key that is
    written with the dot itself goes first."""

    members: Annotated[tuple[str, ...], OneOrMany, Field(min_length=1)] = ("*.json*", "*.ndjson*")
    """Patterns of the names of the files to read in tar archives; `*` matches `/` too. Other files in them are
    left out and counted."""
    text_key: Annotated[tuple[str, ...], OneOrMany, Field(min_length=1)] = ("text",)
    """The key that holds the text; or a list of keys, whose texts are the parts of the document, in this order.
    Every object must have them all; a document is empty when all its parts are."""
    optional_keys: Annotated[tuple[str, ...], FromList] = ()
    """Those of the keys that may be missing or null: their text is then empty."""
    template: str | None = None
    """Instead of text_key, a text with keys in braces: "# {title}\\n\\n{text}". Strings and numbers are put in as
    they are; {{ and }} are braces."""
    messages_key: str | None = None
    """Instead of text_key, for a chat: the key that holds the list of messages. Each is an object."""
    role_key: str = "role"
    """The key of a message that says who speaks."""
    content_key: str = "content"
    """The key of a message that holds its text."""

    @model_serializer(mode="wrap")
    def _only_what_applies(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # the settings stand in every shard: `text_key: text` and `text_key: [text]` are to be the same bytes
        out: dict[str, Any] = dump(self)
        if len(self.text_key) == 1:
            out["text_key"] = self.text_key[0]
        unused = [key for key in ("template", "messages_key") if out.get(key) is None]
        unused += ["text_key"] * (len(unused) < 2) + ["role_key", "content_key"] * (self.messages_key is None)
        unused += ["optional_keys"] * (not self.optional_keys)
        return {key: value for key, value in out.items() if key not in unused}

    @property
    def num_parts(self) -> int:
        if self.messages_key is not None:
            return 0
        return len(self.text_key) if self.template is None else 1

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of an object that are read."""
        if self.messages_key is not None:
            return (self.messages_key,)
        if self.template is not None:
            return keys_of(self.template)
        return self.text_key

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        chosen = [key for key in ("text_key", "template", "messages_key") if key in self.model_fields_set]
        chosen = [key for key in chosen if getattr(self, key) is not None]
        if len(chosen) > 1:
            yield Problem((chosen[1],), f"excludes {chosen[0]}; give one of them")
        if len(set(self.text_key)) < len(self.text_key):
            yield Problem(("text_key",), f"{list(self.text_key)} names a key twice; name each once")
        if self.template is not None:
            try:
                if not self.keys:
                    yield Problem(("template",), "names no key; put one in braces: {text}")
            except ValueError as error:
                yield Problem(("template",), f"{error}")
                return
        if self.messages_key is None:
            for key in ("role_key", "content_key"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    yield Problem((key,), "is for the messages of a chat; give messages_key as well")
        if unknown := [key for key in self.optional_keys if key not in self.keys]:
            yield Problem(("optional_keys",), f"{unknown} are not read; expected some of {list(self.keys)}")
        if self.messages_key is not None and self.optional_keys:
            yield Problem(("optional_keys",), "a chat without messages is none; leave it out with messages_key")

    def json_documents(self, frame: Frame, separator: bytes) -> Iterator[Document | Rejected]:
        """The documents of a frame whose records are JSON."""
        name, unit, first = frame.first
        plain = len(self.text_key) == 1 and self.template is None and self.messages_key is None
        key = self.text_key[0]
        for number, raw in enumerate(
            lines(frame.data) if separator == b"\n" else frame.data.split(separator), start=first
        ):
            place = Place(name, unit, number)
            try:  # orjson takes what is plainly right; whatever it refuses, `_parse` judges
                record = orjson.loads(raw)
                if plain and type(text := record[key]) is str and text:
                    yield Document((text,), place)
                    continue
            except orjson.JSONDecodeError:
                yield self._parse(raw.removesuffix(b"\n"), place)
                continue
            except (LookupError, TypeError):
                pass  # `document` says what is amiss
            raw = raw.removesuffix(b"\n")
            if self.template is None:
                yield self.document(record, place, len(raw))
            else:
                yield self._parse(raw, place)  # orjson rounds whole numbers above 64 bits, which go into the text

    def _parse(self, raw: bytes, place: Place) -> Document | Rejected:
        """One record by the parser of the standard library: slower, exact in large numbers, takes NaN and halves of
        surrogate pairs."""
        line = decode(raw.removesuffix(b"\r"), place)
        if isinstance(line, Rejected):
            return line
        if line.text.isspace():
            return Rejected(place, EMPTY, f"blank {place.unit}", len(raw))
        try:
            if line.text.count("[") + line.text.count("{") > DEEPEST:
                _refuse_depth(line.text)
            record = (AS_WRITTEN.decode if self.template else json.loads)(line.text)
        except ValueError as error:
            return Rejected(place, "not JSON", f"{error}", len(raw))
        return self.document(record, place, len(raw))

    def document(self, record: Any, place: Place, num_bytes: int) -> Document | Rejected:
        """One object as a document."""
        try:
            if not isinstance(record, dict):
                raise _Unfit("not an object", f"expected an object with the key{_s(self.keys)} {_quoted(self.keys)}")
            if self.messages_key is not None:
                return self._chat(record, place)
            values = {key: self._value(record, key) for key in self.keys}
            if missing := [key for key, value in values.items() if value is MISSING]:
                raise _Unfit("missing key", f"no key {_quoted(missing)}; it has {_quoted(record)}")
            if self.template is None:
                parts = tuple([_text(values[key], key) for key in self.text_key])
                filled = any(parts)
            else:
                texts = {key: _text(value, key, numbers=True) for key, value in values.items()}
                parts = ("".join(part.before + texts.get(part.key or "", "") for part in pieces(self.template)),)
                filled = any(texts.values())
            if not filled:
                raise _Unfit(EMPTY, f"{_quoted(self.keys)} {'are' if len(self.keys) > 1 else 'is'} empty")
            return Document(parts, place)
        except _Unfit as unfit:
            return Rejected(place, unfit.reason, unfit.detail, num_bytes)

    def _value(self, record: dict[str, Any], key: str) -> Any:
        value = value_at(record, key)
        return "" if key in self.optional_keys and (value is MISSING or value is None) else value

    def _chat(self, record: dict[str, Any], place: Place) -> Document:
        messages = value_at(record, self.keys[0])
        if messages is MISSING:
            raise _Unfit("missing key", f"no key {_quoted(self.keys)}; it has {_quoted(record)}")
        if not isinstance(messages, list):
            raise _Unfit("not a list", f"{self.keys[0]!r} is {_shown(messages)}; expected a list of messages")
        texts: dict[str, list[str]] = {self.role_key: [], self.content_key: []}
        for number, message in enumerate(messages, start=1):
            if not isinstance(message, dict):
                raise _Unfit("not an object", f"message {number} is {_shown(message)}; expected an object")
            for key, found in texts.items():
                value = value_at(message, key)
                if value is MISSING:
                    raise _Unfit("missing key", f"message {number} has no key {key!r}; it has {_quoted(message)}")
                found.append(_text(value, key, f"message {number}: "))
        if not any(texts[self.content_key]):
            raise _Unfit(EMPTY, f"no message in {self.keys[0]!r} has text")
        return Document(tuple(texts[self.content_key]), place, tuple(texts[self.role_key]))


class _Spelt(str):
    """A number as it was written, 1.10 or 1e400: for a template."""

    __slots__ = ()


MISSING = object()
AS_WRITTEN = json.JSONDecoder(parse_int=_Spelt, parse_float=_Spelt)

DEEPEST = 500
"""Brackets within each other that the parser of the standard library is given; orjson takes 1,024."""
BRACKET_OR_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)

SHOWN = 40
"""Characters of a value in a message."""


class _Unfit(Exception):
    """An object that is no document."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason, self.detail = reason, detail


def value_at(record: dict[str, Any], key: str) -> Any:
    """What an object has at a key, or at `outer.inner` in an object within it; MISSING if nothing."""
    if key in record:
        return record[key]
    outer, dot, inner = key.partition(".")
    within = record.get(outer) if dot else None
    return value_at(within, inner) if isinstance(within, dict) else MISSING


class Piece(NamedTuple):
    """A part of a template: literal text, and the key whose text follows it."""

    before: str
    key: str | None


@cache
def pieces(template: str) -> tuple[Piece, ...]:
    """The parts of a template. It is only ever cut up, never given to str.format, which can reach into objects.

    Raises:
        ValueError: a brace is left open, or holds more than a key.
    """
    found = []
    for before, key, spec, conversion in Formatter().parse(template):
        if key is not None and (not key or key.isspace() or spec or conversion or "[" in key or "{" in key):
            raise ValueError(f"{{{key}}} with what follows it is not just a key; write {{text}}, and {{{{ for a brace")
        found.append(Piece(before, key))
    return tuple(found)


@cache
def keys_of(template: str) -> tuple[str, ...]:
    """The keys that a template names, each once. Raises ValueError: see `pieces`."""
    return tuple(dict.fromkeys(piece.key for piece in pieces(template) if piece.key is not None))


def _refuse_depth(text: str) -> None:
    """Raise ValueError for brackets within more than DEEPEST others: what the parser takes depends on how deep the
    program's own calls are, which may differ from one worker to the next."""
    depth = 0
    for found in BRACKET_OR_STRING.finditer(text):
        depth += (found[0] in "[{") - (found[0] in "]}")
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} brackets within each other")


def _text(value: Any, key: str, where: str = "", numbers: bool = False) -> str:
    if isinstance(value, _Spelt):
        if numbers:
            return str(value)
    elif isinstance(value, str):
        return value
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    raise _Unfit("not a string", f"{where}{key!r} is {_shown(value)}; expected a string{' or a number' * numbers}")


def _shown(value: Any) -> str:
    """The start of a value as JSON: no more of it is looked at, however deep it goes."""
    shown = ""
    for part in json.JSONEncoder(default=repr).iterencode(value):
        shown += part
        if len(shown) >= SHOWN:
            break
    return shown[:SHOWN]


def _quoted(keys: Iterable[str]) -> str:
    return ", ".join(map(repr, keys))


def _s(keys: tuple[str, ...]) -> str:
    return "s" * (len(keys) > 1)
