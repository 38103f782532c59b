"""What becomes of a text that has too many tokens: the policies, and where a text is cut."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from modelzoo.base_config import Config, FromFloat

if TYPE_CHECKING:
    from modelzoo.tokenizer import Tokenizer


class Limit(Config):
    """A number of tokens. What is limited, and by which `policy`, says the class below."""

    max_tokens: Annotated[int, FromFloat, Field(gt=1)]
    """At most so many, the end-of-document id included where it follows."""


class DocumentLimit(Limit):
    """For a document of plain text. No cut falls into a character, unless the character alone is too long."""

    policy: Literal["split", "truncate_left", "truncate_right", "reject"]
    """`split`: written as several documents, which lose nothing; an end-of-document id follows each.
    `truncate_left` drops the start, `truncate_right` drops the end, `reject` leaves the document out."""


class PromptLimit(Limit):
    """For the prompt of an example, alone. Nothing follows a prompt that would count."""

    policy: Literal["truncate_left", "truncate_right", "reject"]
    """`truncate_left` drops the start, so that what stands next to the completion stays; `truncate_right` drops
    the end, `reject` leaves the example out."""


class CompletionLimit(Limit):
    """For the completion of an example, with its end-of-document id."""

    policy: Literal["truncate_right", "reject"]
    """`truncate_right` drops the end; the end-of-document id that follows is then not learnt, for the text does
    not end there. `reject` leaves the example out. The start is never dropped: it is what the prompt leads to."""


class ExampleLimit(Limit):
    """For a whole example, after the limits of its prompt and of its completion."""

    policy: Literal["truncate_left", "truncate_right", "reject"]
    """`truncate_left` drops the start of the prompt, all of it if need be; an example whose completion alone is
    too long is left out. `truncate_right` drops the end of the completion, whose end-of-document id is then not
    learnt; an example whose prompt leaves no room for one token of it is left out. `reject` leaves it out."""


class ConversationLimit(Limit):
    """For a whole conversation. It is cut between turns only."""

    policy: Literal["truncate_right", "reject"]
    """`truncate_right` drops turns from the end, up to the last learnt one that fits; the end-of-document id that
    follows is then not learnt. A conversation whose first learnt turn does not fit is left out, with `reject`
    every one that is too long."""


def cut(tokenizer: Tokenizer, ids: np.ndarray, limit: DocumentLimit, room: int) -> list[slice]:
    """What stays of a text that has more than `room` tokens, in one slice or, with `split`, in several.

    Args:
        ids: (length,) of the text, without the end-of-document id.
        room: tokens of text in a piece, at most.
    """
    continues = _table(tokenizer)[1]

    def end(start: int) -> int:
        stop = min(start + room, len(ids))
        while stop < len(ids) and stop > start and continues[ids[stop]]:
            stop -= 1
        return stop if stop > start else start + room

    if limit.policy == "truncate_right":
        return [slice(0, end(0))]
    if limit.policy == "truncate_left":
        start = len(ids) - room
        while start < len(ids) and continues[ids[start]]:
            start += 1
        return [slice(start if start < len(ids) else len(ids) - room, len(ids))]
    assert limit.policy == "split", limit
    pieces = [slice(0, end(0))]
    while pieces[-1].stop < len(ids):
        pieces.append(slice(pieces[-1].stop, end(pieces[-1].stop)))
    return pieces


def piece_bytes(tokenizer: Tokenizer, ids: np.ndarray, pieces: list[slice], total: int) -> list[int]:
    """UTF-8 bytes of the text in each piece. Pieces that cover all ids sum to `total`, the bytes of the text.

    Where the tokenizer's file has a normalizer (GPT-NeoX-20B's NFC), its ids stand for other bytes than those of
    the text: the pieces are then measured by the ids, and the last takes the difference.
    """
    reached = np.minimum(np.concatenate(([0], np.cumsum(_table(tokenizer)[0][ids]))), total)
    reached[-1] = total
    return [int(reached[piece.stop] - reached[piece.start]) for piece in pieces]


@lru_cache(maxsize=2)
def _table(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """By id (vocab_size,): bytes of the token, int64; whether it begins inside a character of UTF-8, bool."""
    tokens = [tokenizer.decode_bytes([id_]) for id_ in range(tokenizer.vocab_size)]
    lengths = np.array([len(token) for token in tokens], dtype=np.int64)
    return lengths, np.array([token[:1] >= b"\x80" and token[:1] < b"\xc0" for token in tokens])
