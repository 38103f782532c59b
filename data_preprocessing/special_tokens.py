"""Special tokens: the ids that only the program writes, never the text of a document."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from modelzoo.tokenizer import Tokenizer

LOOKS_SPECIAL = re.compile(r"<\|[^\s|<>]+\|>")


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """Token -> id of every special token. Text never encodes to them; other added tokens it may spell."""
    added = tokenizer.backend.get_added_tokens_decoder()
    return {token.content: id_ for id_, token in sorted(added.items()) if token.special}


def encode_template(tokenizer: Tokenizer, template: str) -> np.ndarray:
    """The ids (length,) uint32 of text that a config holds: special tokens spelled in it become their ids."""
    ids = special_ids(tokenizer)
    names = "|".join(re.escape(name) for name in sorted(ids, key=len, reverse=True))
    found: list[int] = []
    for index, run in enumerate(re.split(f"({names})", template)):
        found += [ids[run]] if index % 2 else tokenizer.encode(run)
    return np.array(found, dtype=np.uint32)


def unknown_tokens(tokenizer: Tokenizer, template: str) -> list[str]:
    """What looks like a special token in a template and is none of this tokenizer's."""
    known = special_ids(tokenizer)
    return [token for token in LOOKS_SPECIAL.findall(template) if token not in known]


def remedy(tokenizer: Tokenizer, missing: list[str]) -> str:
    """How to come by a tokenizer that has these tokens."""
    wanted = ", ".join([tokenizer.end_of_document_token, *missing])
    return (
        f"{tokenizer.path} has {', '.join(special_ids(tokenizer))}; name those that it has, train one with "
        f"special_tokens=[{wanted}] (modelzoo tokenizer train), or add them to its added_tokens with special: true"
    )
