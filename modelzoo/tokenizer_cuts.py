"""Where a long text may be cut so that the ids of its pieces, joined, are those of the whole."""

import re
from collections.abc import Iterator
from typing import Any

PIECE_CHARACTERS = 2**18
"""So that no encoder holds much more than a text at once."""
SHORT_PIECE_CHARACTERS = 2**12
"""For `tokenizers`, which keeps 16 bytes beside every character, and is a tenth faster where they fit the cache."""

SAFE_CUT = re.compile(r"[A-Za-z](?=[ \n][A-Za-z])")
"""Between a letter and a single space or line feed before another letter. Each of PATTERNS ends a token there,
and no normal form joins what stands on the two sides."""

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    *(
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{SPACES}"
        for digits in (r"\p{N}{1,3}", r"\p{N}")  # cl100k and Llama 3; Qwen 2
    ),
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{SPACES}",  # o200k
}
"""Patterns of splitting that are known to keep a boundary at SAFE_CUT, whatever stands elsewhere."""


def is_cuttable(specification: dict[str, Any]) -> bool:
    """Whether a tokenizer (the content of a tokenizer.json) is known to keep the boundaries of `pieces`."""
    normalizers = _parts(specification["normalizer"], "normalizers")
    splitters = _parts(specification["pre_tokenizer"], "pretokenizers")
    return (
        all(part["type"] in ("NFC", "NFD", "NFKC", "NFKD") for part in normalizers)
        and all(map(_is_known, splitters))
        and any(part["type"] == "Split" or part.get("use_regex") for part in splitters)
        and not any(map(_crosses_cuts, specification["added_tokens"]))
    )


def pieces(text: str, characters: int) -> Iterator[str]:
    """A text in pieces of about so many characters, longer where there is no safe place."""
    begin = 0
    while len(text) - begin > characters and (cut := SAFE_CUT.search(text, begin + characters)):
        yield text[begin : cut.end()]
        begin = cut.end()
    yield text[begin:]


def _parts(section: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if section is None:
        return []
    return list(section[key]) if section["type"] == "Sequence" else [section]


def _is_known(splitter: dict[str, Any]) -> bool:
    if splitter["type"] == "Split":
        return splitter["pattern"].get("Regex") in PATTERNS and splitter["behavior"] == "Isolated"
    return splitter["type"] in ("ByteLevel", "Digits")


def _crosses_cuts(added: dict[str, Any]) -> bool:
    """Whether an added token may match across a SAFE_CUT: it holds white space and is no run of spaces."""
    content = added["content"]
    is_run = len(content) > 1 and not content.strip(" ")
    takes_spaces = not added["special"] and (added["lstrip"] or added["rstrip"])
    return takes_spaces or (not is_run and any(space in content for space in " \n"))
