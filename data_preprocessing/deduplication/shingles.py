"""Texts to the hashes of their shingles, the runs of n words, many texts in a few passes of numpy.

Words are what `\\w+` finds in the lower-cased text: runs of letters, digits and `_`. Chinese and Japanese have no
blanks between words: there each wide letter is a word of its own (Korean's too). Everything else separates words
and is not looked at. What a letter is, and its lower case, follows the Unicode tables of this Python.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

PIECE_CHARACTERS = 2**18
"""Characters that are looked at in one go: the arrays of a pass fit the processor's cache."""
_NUM_CODE_POINTS = 0x110000
_FIRST_WIDE = 0x1100
_CHARACTER_BASE = 0x9E3779B97F4A7C15
_WORD_BASE = 0xD6E8FEB86659FD93


def mix(values: np.ndarray) -> np.ndarray:
    """uint64 to uint64, one to one, every bit depending on every other (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def groups(texts: Sequence[str]) -> Iterator[slice]:
    """Consecutive texts, of about PIECE_CHARACTERS together; a longer text stands alone."""
    start = size = 0
    for index, text in enumerate(texts):
        if size and size + len(text) > PIECE_CHARACTERS:
            yield slice(start, index)
            start, size = index, 0
        size += len(text) + 1
    if texts:
        yield slice(start, len(texts))


def shingles(texts: Sequence[str], num_words: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Hashes (num_shingles,) uint64 of each text's runs of `num_words` words, and how many each text has (at least 1).

    A text of fewer words has one shingle, of all its words; a text without words has itself as its shingle.
    All at once; but a long text, alone, in parts.
    """
    if len(texts) == 1 and len(texts[0]) > PIECE_CHARACTERS:
        words, is_short = np.empty(0, np.uint64), True
        for piece in _pieces(texts[0]):
            words = np.append(words, _words([piece])[0])
            if len(words) >= num_words:
                yield _runs(words, np.array([len(words)]), num_words)
                words, is_short = words[len(words) - num_words + 1 :], False
        if is_short:
            yield _runs(*_padded(words, np.array([len(words)]), texts, num_words), num_words)
    else:
        yield _runs(*_padded(*_words(texts), texts, num_words), num_words)


def _padded(
    words: np.ndarray, counts: np.ndarray, texts: Sequence[str], num_words: int
) -> tuple[np.ndarray, np.ndarray]:
    """Words and their counts with zeros after those of a text that has fewer than `num_words`."""
    if counts.min() >= num_words:
        return words, counts
    padded_counts = np.maximum(counts, num_words)
    starts = np.cumsum(padded_counts) - padded_counts
    padded = np.zeros(padded_counts.sum(), np.uint64)
    padded[np.arange(len(words)) + np.repeat(starts - (np.cumsum(counts) - counts), counts)] = words
    for index in np.flatnonzero(counts == 0).tolist():
        digest = hashlib.blake2b(texts[index].encode("utf-8", "surrogatepass"), digest_size=8).digest()
        padded[starts[index]] = int.from_bytes(digest, "little")
    return padded, padded_counts


def _runs(words: np.ndarray, counts: np.ndarray, num_words: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the runs of `num_words` words within each text of `counts` words, and how many each has."""
    runs = np.zeros(len(words) - num_words + 1, np.uint64)
    for index in range(num_words):
        runs += words[index : index + len(runs)] * np.uint64(pow(_WORD_BASE, index, 2**64))
    within = np.ones(len(words), dtype=bool)  # not across the end of a text
    within[(np.cumsum(counts)[:, None] - np.arange(1, num_words)).ravel()] = False
    return mix(runs[within[: len(runs)]]), counts - num_words + 1


def _pieces(text: str) -> Iterator[str]:
    """A long text, cut where no word is cut; but words of more than PIECE_CHARACTERS are."""
    separator, start = re.compile(r"\W"), 0
    while start < len(text):
        found = separator.search(text, start + PIECE_CHARACTERS, start + 2 * PIECE_CHARACTERS)
        stop = found.end() if found else start + 2 * PIECE_CHARACTERS
        yield text[start:stop]
        start = stop


def _words(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (num_words,) uint64 of the words of all texts, and how many each text has."""
    lowered = [text.lower() for text in texts]
    ends = np.cumsum([len(text) + 1 for text in lowered])
    codes = np.frombuffer("\n".join([*lowered, ""]).encode("utf-32-le", "surrogatepass"), "<u4")
    values, is_alone = _tables()
    value = values[codes]
    in_word = value != 0
    starts_word, ends_word = in_word.copy(), in_word.copy()
    starts_word[1:] &= ~in_word[:-1]
    ends_word[:-1] &= ~in_word[1:]
    if codes.max() >= _FIRST_WIDE:
        alone = is_alone[codes]
        starts_word |= alone
        ends_word |= alone
        starts_word[1:] |= alone[:-1] & in_word[1:]
        ends_word[:-1] |= alone[1:] & in_word[:-1]
    first, last = np.flatnonzero(starts_word), np.flatnonzero(ends_word)
    # the hash of a word is the sum of value[i] * base**i over its characters, from sums over the whole piece
    powers, inverse_powers = _powers(1 << len(codes).bit_length())
    sums = np.cumsum(value * powers[: len(codes)])
    hashes = (sums[last] - sums[first] + value[first] * powers[first]) * inverse_powers[first]
    return hashes, np.diff(np.searchsorted(first, ends), prepend=0)


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """By code point: what a character adds to the hash of its word, 0 between words; whether it is a word alone."""
    characters = [chr(code) for code in range(_NUM_CODE_POINTS)]
    in_word = np.array([character.isalnum() or character == "_" for character in characters])
    is_alone = np.zeros(_NUM_CODE_POINTS, dtype=bool)
    for code in np.flatnonzero(in_word[_FIRST_WIDE:]) + _FIRST_WIDE:
        is_alone[code] = unicodedata.east_asian_width(characters[code]) == "W"
    return np.where(in_word, mix(np.arange(1, _NUM_CODE_POINTS + 1, dtype=np.uint64)), np.uint64(0)), is_alone


@cache
def _powers(num: int) -> tuple[np.ndarray, np.ndarray]:
    """The powers 0 to num - 1 of the base, and of its inverse, modulo 2**64."""
    bases = (_CHARACTER_BASE, pow(_CHARACTER_BASE, -1, 2**64))
    powers, inverse_powers = (np.cumprod(np.array([1] + [base] * (num - 1), np.uint64)) for base in bases)
    return powers, inverse_powers
