"""A tokenizer.json into `tokenizers`: the same object in half of the time that its own reader takes."""

from typing import Any, NamedTuple

import orjson
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Backend

ADDED = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")
"""An entry of `added_tokens`, in the order in which `tokenizers` writes it."""


class Written(NamedTuple):
    """What a backend writes."""

    json: str
    content: dict[str, Any]
    """The same, parsed."""


def read(text: str) -> tuple[Backend, Written | None]:
    """The backend that `Backend.from_str` gives, and, where that is known already, what it writes.

    Raises:
        BaseException: `tokenizers` cannot read it.
    """
    try:
        return _assembled(orjson.loads(text))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # of another shape, or kind; or a panic of Rust code, which is not an Exception
        return Backend.from_str(text), None


def _assembled(content: dict[str, Any]) -> tuple[Backend, Written]:
    """A byte-level BPE from its parts. Its own reader keeps a copy of the whole model to try other kinds of models on.

    Raises:
        Exception: it cannot be had in this way; ValueError where it would write anything that the file does not say.
    """
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    if merges and isinstance(merges[0], str):  # as files before 2024 have them
        merges = [merge.split(" ") for merge in merges]
    frame = {**content, "added_tokens": [], "model": {**content["model"], "vocab": {}, "merges": []}}
    backend = Backend.from_str(orjson.dumps(frame).decode())
    whole = orjson.loads(backend.to_str())
    options = {name: value for name, value in whole["model"].items() if value is not None}
    kind = options.pop("type")
    if kind != "BPE":
        raise ValueError(kind)
    backend.model = models.BPE(**{**options, "vocab": vocab, "merges": list(map(tuple, merges))})
    whole["model"].update(vocab=vocab, merges=merges)
    whole["added_tokens"] = [{name: token[name] for name in ADDED} for token in content["added_tokens"]]
    for token in whole["added_tokens"]:
        flags = {name: token[name] for name in ADDED[2:]}
        add = backend.add_special_tokens if token["special"] else backend.add_tokens
        add([AddedToken(token["content"], **flags)])
    written = backend.to_str()
    if written.encode() != orjson.dumps(whole):
        raise ValueError("another tokenizer than the file's")
    return backend, Written(written, whole)
