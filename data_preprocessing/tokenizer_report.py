"""How well tokenizers fit text: bytes per token by domain and by kind of text, several of them side by side."""

import hashlib
import os
import re
import sysconfig
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter

from data_preprocessing.config import AnyReader
from data_preprocessing.inputs import InputReader
from data_preprocessing.readers import ReaderConfig, Rejected
from modelzoo.base_config import UserError
from modelzoo.tokenizer import Tokenizer

MAX_BYTES = 2_000_000
"""Of each domain. Fertility is known to about 1 % from 100 kB of even text."""
MIN_SHARE = 20_000
"""Bytes that each file of a domain may give at the least."""

KINDS = ("prose", "code", "indentation", "digits")
"""Every byte is of one kind. Indentation: spaces and tabs at the start of a line. Digits: 0 to 9. Code or prose,
by paragraph (lines up to a blank one): code where one visible byte in CODE_EVERY, or more, is one of CODE_MARKS."""
PROSE, CODE, INDENTATION, DIGITS = range(len(KINDS))
CODE_MARKS = b"{}[]()<>=_;|&*/\\#@$+`"
CODE_EVERY = 18


class Domain(NamedTuple):
    """A sample of text."""

    name: str
    origin: str
    """Where it is from, for the reader of the report."""
    texts: list[str]
    """In normal form C, as some tokenizers change text to it: so the same bytes are measured for all."""

    @property
    def num_words(self) -> int:
        """What stands between white space."""
        return sum(len(text.split()) for text in self.texts)


class Counts(NamedTuple):
    """A tokenizer on a domain."""

    num_tokens: int
    kind_bytes: tuple[int, ...]
    """By KINDS."""
    kind_tokens: tuple[float, ...] | None
    """A token of two kinds counts for each by its bytes. None: the tokenizer changes the text, so the place of
    its tokens is not known."""


class Report(NamedTuple):
    """`counts[t][d]` is tokenizer t on domain d."""

    domains: list[Domain]
    names: list[str]
    tokenizers: list[Tokenizer]
    counts: list[list[Counts]]

    def bytes_per_token(self, tokenizer: int, domain: int) -> float:
        """Of one tokenizer on one domain."""
        counts = self.counts[tokenizer][domain]
        return sum(counts.kind_bytes) / max(1, counts.num_tokens)

    def tokens_per_word(self, tokenizer: int, domain: int) -> float:
        """Fertility of one tokenizer on one domain."""
        return self.counts[tokenizer][domain].num_tokens / max(1, self.domains[domain].num_words)

    def kind_bytes(self, kind: int) -> int:
        """Bytes of one kind in all domains."""
        return sum(counts.kind_bytes[kind] for counts in self.counts[0])

    def kind_bytes_per_token(self, tokenizer: int, kind: int) -> float | None:
        """Of one tokenizer on one kind of text, over all domains; None where there is none, or it is not known."""
        tokens = [counts.kind_tokens for counts in self.counts[tokenizer]]
        if not self.kind_bytes(kind) or None in tokens:
            return None
        return self.kind_bytes(kind) / sum(of_kind[kind] for of_kind in tokens if of_kind)

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "domains": [
                {
                    "name": domain.name,
                    "origin": domain.origin,
                    "documents": len(domain.texts),
                    "bytes": sum(self.counts[0][index].kind_bytes),
                    "words": domain.num_words,
                    "bytes_by_kind": dict(zip(KINDS, self.counts[0][index].kind_bytes, strict=True)),
                }
                for index, domain in enumerate(self.domains)
            ],
            "tokenizers": [self._tokenizer_json(index) for index in range(len(self.tokenizers))],
        }

    def _tokenizer_json(self, index: int) -> dict[str, Any]:
        tokenizer = self.tokenizers[index]
        return {
            "name": self.names[index],
            "path": str(tokenizer.path),
            "sha256": tokenizer.sha256,
            "vocab_size": tokenizer.vocab_size,
            "domains": {
                domain.name: {
                    "tokens": self.counts[index][number].num_tokens,
                    "bytes_per_token": self.bytes_per_token(index, number),
                    "tokens_per_word": self.tokens_per_word(index, number),
                }
                for number, domain in enumerate(self.domains)
            },
            "bytes_per_token_by_kind": {kind: self.kind_bytes_per_token(index, i) for i, kind in enumerate(KINDS)},
        }


def report(tokenizers: dict[str, Tokenizer], domains: Sequence[Domain]) -> Report:
    """Encode every domain with every tokenizer."""
    counts = [[count(tokenizer, domain) for domain in domains] for tokenizer in tokenizers.values()]
    return Report(list(domains), list(tokenizers), list(tokenizers.values()), counts)


def count(tokenizer: Tokenizer, domain: Domain) -> Counts:
    """Tokens of a domain, in all and by kind of text."""
    raw = "".join(domain.texts).encode()
    kinds = np.concatenate([kinds_of_bytes(text.encode()) for text in domain.texts] or [np.empty(0, np.uint8)])
    kind_bytes = tuple(np.bincount(kinds, minlength=len(KINDS)).tolist())
    ids, _ = tokenizer.encode_batch_flat(domain.texts)
    lengths = tokenizer.byte_lengths[ids]
    if tokenizer.decode_bytes(ids) != raw:
        return Counts(len(ids), kind_bytes, None)
    shares = np.repeat(1 / lengths, lengths)  # of a token, in each of its bytes
    kind_tokens = tuple(np.bincount(kinds, weights=shares, minlength=len(KINDS)).tolist())
    return Counts(len(ids), kind_bytes, kind_tokens)


def kinds_of_bytes(raw: bytes) -> np.ndarray:
    """(len(raw),) uint8: the place in KINDS of every byte of one text."""
    values = np.frombuffer(raw, dtype=np.uint8)
    kinds = np.full(len(raw), PROSE, dtype=np.uint8)
    is_mark = np.isin(values, np.frombuffer(CODE_MARKS, dtype=np.uint8))
    is_visible = values > ord(" ")
    borders = [0, *(blank.end() for blank in re.finditer(rb"\n[ \t\r\f]*\n", raw)), len(raw)]
    for begin, end in pairwise(borders):
        if is_mark[begin:end].sum() * CODE_EVERY >= max(1, is_visible[begin:end].sum()):
            kinds[begin:end] = CODE
    for indentation in re.finditer(rb"^[ \t]+", raw, re.MULTILINE):
        kinds[indentation.start() : indentation.end()] = INDENTATION
    kinds[(values >= ord("0")) & (values <= ord("9"))] = DIGITS
    return kinds


def read_domain(name: str, path: str, base_dir: Path = Path(), max_bytes: int = MAX_BYTES) -> Domain:
    """A sample of a file, a directory or a pattern: the first documents of each of its files.

    Where there are many files, each may give an equal share of `max_bytes`; they are taken in an order that
    only their names decide, until `max_bytes` are there.

    Raises:
        UserError: nothing to read there.
    """
    reader = _reader_for(path, base_dir)
    inputs = InputReader(reader, base_dir)
    names = sorted(inputs.names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())
    share, texts, left = max(MIN_SHARE, max_bytes // max(1, len(names))), [], max_bytes
    for name in names:
        of_file = 0
        for item in inputs.documents("reject", [name]):
            if isinstance(item, Rejected):
                continue
            text = _cut(item.text, min(share - of_file, left))
            of_file, left = of_file + len(text.encode()), left - len(text.encode())
            texts.append(text)
            if left <= 0 or of_file >= share:
                break
        if left <= 0:
            break
    if not any(texts):
        raise UserError(f"--data {name}={path}: no document can be read there; expected UTF-8 text or JSON Lines")
    return Domain(name, f"{path} ({len(inputs.names)} file{'s' * (len(inputs.names) != 1)})", texts)


def built_in_domains(max_bytes: int = MAX_BYTES) -> Iterator[Domain]:
    """What every Python has: its own documentation and sources."""
    from pydoc_data.topics import topics

    prose = _cut("\n\n".join(topics.values()), max_bytes)
    yield Domain("python docs", "the texts that Python's help() shows", [prose])
    library = Path(sysconfig.get_paths()["stdlib"])
    domain = read_domain("python code", "*.py", library, max_bytes)
    yield domain._replace(origin="sources of Python's standard library")


def _cut(text: str, num_bytes: int) -> str:
    """The beginning of a text, up to a whole line where there is one, in normal form C."""
    if len(text.encode()) > num_bytes:
        text = text.encode()[:num_bytes].decode(errors="ignore")
        text = text[: text.rfind("\n") + 1] or text
    return unicodedata.normalize("NFC", text)


def _reader_for(path: str, base_dir: Path) -> ReaderConfig:
    settings: dict[str, Any] = {"kind": "text", "paths": (path,)}
    if (base_dir / path).is_dir():
        settings |= {"kind": "directory", "suffixes": ("",)}
    elif re.search(r"\.(jsonl|ndjson)(\.\w+)?$", path):
        settings["kind"] = "jsonl"
    reader: ReaderConfig = TypeAdapter(AnyReader).validate_python(settings)
    return reader
