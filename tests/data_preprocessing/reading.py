"""How the tests of the readers read: through both halves, as the pipeline does."""

import io

from pydantic import TypeAdapter

from data_preprocessing.archives import members
from data_preprocessing.config import AnyReader
from data_preprocessing.inputs import InputReader
from data_preprocessing.readers import Document, Rejected


def reader(**settings):
    if settings.get("kind") != "hub":
        settings = {"paths": "a", **settings}
    return TypeAdapter(AnyReader).validate_python(settings)


def read(content, name="f", **settings):
    """Documents and rejections of one file, given as bytes or as a stream."""
    chosen = reader(**settings)
    stream = io.BytesIO(content) if isinstance(content, bytes) else content
    if chosen.needs_seek:
        return list(in_documents(chosen, chosen.frames(stream, name)))
    out = []
    for member, found in members(stream, name, chosen.wants):
        out += [found] if isinstance(found, Rejected) else in_documents(chosen, chosen.frames(found, member))
    return out


def in_documents(chosen, frames):
    for frame in frames:
        yield from [frame] if isinstance(frame, Rejected) else chosen.documents(frame)


def read_files(base_dir, **settings):
    """Documents and rejections of files, found by their names."""
    return list(InputReader(reader(**settings), base_dir).documents("reject"))


def texts(items):
    assert all(isinstance(item, Document) for item in items), items
    return [item.text for item in items]


def summary(items):
    """Texts and reasons, each with its place."""
    return [(str(item.place), item.text if isinstance(item, Document) else f"[{item.reason}]") for item in items]


class Dribble(io.RawIOBase):
    """A source that gives fewer bytes than it is asked for."""

    def __init__(self, content, most=1):
        self._stream, self._most = io.BytesIO(content), most

    def readable(self):
        return True

    def read(self, size=-1):
        return self._stream.read(self._most if size < 0 else min(size, self._most))
