"""Fill in the middle: documents rearranged so that the model learns to write what stands between two texts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from data_preprocessing.limits import DocumentLimit, cut, piece_bytes
from data_preprocessing.modes import Encoded, EncodedBatch, ModeConfig, Refused
from data_preprocessing.readers import TOO_LONG, Document
from data_preprocessing.special_tokens import remedy, special_ids
from modelzoo.base_config import FromFloat, Problem, UserError

if TYPE_CHECKING:
    from modelzoo.tokenizer import Tokenizer

RESERVED = 16
"""Tokens of a limit that are not text: three special ones, the end-of-document id, and what the two cuts may cost
in tokens that would have spanned them."""

Share = Annotated[float, Field(ge=0, le=1)]


class FimLimit(DocumentLimit):
    """For a document, before it is rearranged: one of more than max_tokens - 16 tokens of text is too long. What is
    written has at most max_tokens; should the cuts make more of a piece than that, it is not rearranged."""

    max_tokens: Annotated[int, FromFloat, Field(ge=2 * RESERVED)]
    """At most so many, special tokens and end-of-document id included; 32 or more."""


class _Piece(NamedTuple):
    """A document, or what a limit made of it."""

    text: str
    ids: np.ndarray | None = None
    """Those of the text as it is; None without a limit."""
    num_bytes: int | None = None


class FimMode(ModeConfig):
    """Some documents rearranged around a middle cut out of them, the others as they are; all is learnt.

    A rearranged document is cut at two of its characters, each drawn evenly from the start to the end of the text,
    into prefix, middle and suffix, any of which may be empty. It is written as one of

        PSM: prefix_token prefix suffix_token suffix middle_token middle
        SPM: prefix_token suffix_token suffix middle_token prefix middle

    then the end-of-document id. Source: Bavarian et al. 2022, "Efficient training of language models to fill in the
    middle": joint training, and of its two forms of SPM the second, which gpt-neox, Megatron-LM and StarCoder's
    training write too: it begins as PSM with an empty prefix does, so that the two help each other. The sections are
    tokenized apart, as in all of these, since at generation they arrive apart; and everything is learnt, so that
    no signal is lost to plain text. Unlike these, which rearrange windows of tokens in the loader, this works on
    the characters of a document before tokenization: the cuts fall within words, as a cursor does.

    What happens to a document is a pure function of `seed` and its text: neither its place nor the number of
    workers matters, and copies of it fare alike.
    """

    kind: Literal["fim"] = "fim"
    rate: Share = 0.5
    """Share of the documents that are rearranged."""
    spm_rate: Share = 0.5
    """Share of these that are written as SPM, the others as PSM."""
    min_characters: Annotated[int, Field(ge=1)] = 10
    """Shorter documents stay as they are."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Decides which documents are rearranged and where they are cut."""
    prefix_token: str = "<|fim_prefix|>"
    """A special token of the tokenizer."""
    middle_token: str = "<|fim_middle|>"
    """A special token of the tokenizer."""
    suffix_token: str = "<|fim_suffix|>"
    """A special token of the tokenizer."""
    limit: FimLimit | None = None
    """What becomes of a document of more tokens, before it is rearranged: pieces are rearranged each for itself.
    null: any length is written whole."""

    def problems(self) -> Iterator[Problem]:
        if len(set(self._tokens)) < 3:
            names = ("prefix_token", "middle_token", "suffix_token")
            found = ", ".join(f"{name}={token}" for name, token in zip(names, self._tokens, strict=True))
            yield Problem(("suffix_token",), f"{found}: two are the same; name three different tokens")

    @property
    def _tokens(self) -> tuple[str, str, str]:
        return self.prefix_token, self.middle_token, self.suffix_token

    def prepare(self, tokenizer: Tokenizer) -> None:
        known = special_ids(tokenizer)
        if missing := [token for token in self._tokens if token not in known]:
            raise UserError(f"mode.kind=fim: {', '.join(missing)}: no special token; {remedy(tokenizer, missing)}")
        if (end := tokenizer.end_of_document_token) in self._tokens:
            raise UserError(f"mode.kind=fim: {end} ends a document and cannot be one of {', '.join(self._tokens)}")

    def encode(self, tokenizer: Tokenizer, documents: Sequence[Document]) -> EncodedBatch:
        special = {token: np.array([id_], dtype=np.uint32) for token, id_ in special_ids(tokenizer).items()}
        end = special[tokenizer.end_of_document_token]
        by_document = self._pieces(tokenizer, [document.text for document in documents])
        pieces = [piece for found in by_document if not isinstance(found, Refused) for piece in found]
        layouts = [self._arrange(piece.text) for piece in pieces]
        for piece, layout in zip(pieces, layouts, strict=True):
            if not layout and piece.ids is None:
                layout.append(("", piece.text))
        ids = iter(tokenizer.encode_batch([text for layout in layouts for _, text in layout]))
        max_tokens = self.limit.max_tokens if self.limit else 0
        written: list[Encoded] = []
        for piece, layout in zip(pieces, layouts, strict=True):
            runs = [run for token, _ in layout for run in (special.get(token, end[:0]), next(ids))]
            if piece.ids is not None and (not runs or sum(map(len, runs)) >= max_tokens):
                runs = [piece.ids]
            written.append(Encoded(np.concatenate([*runs, end]), num_bytes=piece.num_bytes))
        in_order = iter(written)
        return EncodedBatch.of([d if isinstance(d, Refused) else [next(in_order) for _ in d] for d in by_document])

    def _pieces(self, tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[_Piece] | Refused]:
        """What the limit makes of each document."""
        if self.limit is None:
            return [[_Piece(text)] for text in texts]
        room = self.limit.max_tokens - RESERVED
        pieces: list[list[_Piece] | Refused] = []
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            if len(ids) <= room:
                pieces.append([_Piece(text, ids)])
            elif self.limit.policy == "reject":
                admits = f"mode.limit admits {self.limit.max_tokens}, {RESERVED} of them beside the text"
                pieces.append(Refused(TOO_LONG, f"{len(ids)} tokens of text; {admits}"))
            else:
                kept = cut(tokenizer, ids, self.limit, room)
                sizes = piece_bytes(tokenizer, ids, kept, len(text.encode()))
                found = [_Piece(tokenizer.decode(ids[k]), ids[k], size) for k, size in zip(kept, sizes, strict=True)]
                pieces.append(found)
        return pieces

    def _arrange(self, text: str) -> list[tuple[str, str]]:
        """The sections of a rearranged document, each after its special token ("": none); [] if it stays."""
        if len(text) < self.min_characters:
            return []
        key = self.seed.to_bytes(8, "little")
        digest = hashlib.blake2b(text.encode(), digest_size=32, key=key, person=b"fim").digest()
        draws = [int.from_bytes(digest[at : at + 8], "little") for at in range(0, 32, 8)]
        if draws[0] >= self.rate * 2**64:
            return []
        start, stop = sorted(draw * (len(text) + 1) >> 64 for draw in draws[2:])
        prefix, middle, suffix = text[:start], text[start:stop], text[stop:]
        if draws[1] < self.spm_rate * 2**64:
            return [(self.prefix_token, ""), (self.suffix_token, suffix), (self.middle_token, prefix), ("", middle)]
        return [(self.prefix_token, prefix), (self.suffix_token, suffix), (self.middle_token, middle)]
