"""Documents as something to be shown: tokens that are whole characters, and characters that are visible."""

import codecs
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from data_preprocessing.inspect.contents import Document
from modelzoo.tokenizer import Tokenizer

JOINERS = "\u200c\u200d"
"""Format characters that scripts and emoji are spelt with; the others can reorder or hide what is shown."""


class Piece(NamedTuple):
    """One token; several where a character is spread over them."""

    ids: tuple[int, ...]
    data: bytes
    """The bytes that the ids stand for."""
    text: str
    """`data` made visible."""
    learnt: bool
    special: bool
    """Only the program writes it: the end of a document."""


def pieces(document: Document, tokenizer: Tokenizer | None) -> Iterator[Piece]:
    """The tokens of a document in order. Without a tokenizer each reads as its number."""
    mask = [True] * len(document.ids) if document.loss_mask is None else document.loss_mask.tolist()
    if tokenizer is None:
        yield from (Piece((id_,), b"", f" {id_}", bool(mask[i]), False) for i, id_ in enumerate(document.ids.tolist()))
        return
    special = {id_ for id_, token in tokenizer.backend.get_added_tokens_decoder().items() if token.special}
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    ids: list[int] = []
    data, text, learnt = b"", "", False
    for id_, is_learnt in zip(document.ids.tolist(), mask, strict=True):
        if id_ in special and ids:  # the character before it was never finished
            yield Piece(tuple(ids), data, visible(text + decoder.decode(b"", final=True)), learnt, False)
            ids, data, text, learnt = [], b"", "", False
        token = tokenizer.decode_bytes([id_])
        ids.append(id_)
        data, text, learnt = data + token, text + decoder.decode(token), learnt or bool(is_learnt)
        if not decoder.getstate()[0]:
            yield Piece(tuple(ids), data, visible(text), learnt, id_ in special)
            ids, data, text, learnt = [], b"", "", False
    if ids:
        yield Piece(tuple(ids), data, visible(text + decoder.decode(b"", final=True)), learnt, False)


def folded(shown: Iterable[Piece]) -> Iterator[Piece]:
    """The same with a run of one special token, as padding is, drawn together: `<|padding|>×142`."""
    for _, run in groupby(enumerate(shown), key=lambda one: (one[1].ids, one[1].learnt) if one[1].special else one[0]):
        alike = [piece for _, piece in run]
        first, many = alike[0], len(alike)
        yield first if many == 1 else first._replace(ids=first.ids * many, text=f"{first.text}×{many:,}")


def visible(text: str) -> str:
    """`text` with a sign for each character that a terminal would obey, or that shows nothing.

    A line break stays one, behind its sign. No text can move the cursor, colour what follows, or reorder it.
    """
    return "".join(char if " " <= char <= "~" else _sign(char) for char in text)


def _sign(char: str) -> str:
    if char == "\n":
        return "↵\n"
    if char == "\t":
        return "⇥   "
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if char not in JOINERS and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs"):
        return f"⟨U+{code:04X}⟩"
    return char
