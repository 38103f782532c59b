"""`fastokens` beside `tokenizers`: the same ids, some fifty times faster, and never believed unseen.

Before it is used it must give the ids of `tokenizers` for `PROBES`; while it is used, a sample of what it really
gave is encoded again in every call.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Sequence
from threading import Thread
from typing import Any

import numpy as np

from modelzoo.base_config import UserError

SAMPLE_CHARACTERS = 1024
CALL_CHARACTERS = 2**20
"""One sample of about SAMPLE_CHARACTERS for each so many characters of a call: a tenth of the encoding's time."""

WORD_END = re.compile(r"[A-Za-z](?= [A-Za-z])")
"""Where a text may be cut for a sample: every pattern in use starts a token at a single space between words."""

PROBES = (
    "",
    " ",
    "Plain prose, with punctuation: it's 3.14, isn't it? They'll say we've I'd you're I'M DON'T.",
    *(f"a{' ' * run}b{' ' * run}\n{' ' * run}" for run in (2, 3, 4, 7, 23, 24, 25, 26, 48, 49, 100)),
    "tabs\t\tand \t mixed \t\t x\n\n\n\r\n\r\n \n  \n\t\nlast\v\f\x85\u2028\u2029\u00a0\u3000 end   ",
    "def f(x):\n    if x:\n\treturn {1: 'a', \"b\": [x**2, ~x]}  # code\n\n\nclass A_b(C):\n        x_y = 0x1F\n",
    "0 12 123 1234 12345 1234567890 1,234.5 ½ ² ٣٤ १२३ Ⅷ 1e-5",
    "emoji 😶‍🌫️🚀👩‍👩‍👧‍👦🏳️‍🌈 🇩🇪🇫🇷 👍🏽",
    "e\u0301 and é, a\u0323\u0307 a\u0307\u0323, \u1e9b\u0323, \u212b, \uac00 \u1100\u1161\u11a8, \u0344, Z͑ͫ̓ͪ̂, n\u0303",
    "日本語の文章。中文，ไทย ភាសា 한국어 हिन्दी",
    "עברית ‏ مرحبا بالعالم، \u202bRTL\u202c",
    "<|endoftext|> spelt <|endoftext|><|endoftext|>  in <|padding|> text, <|im_start|>user",
    "a" * 300 + " " + "ab" * 300 + " " + "Pneumonoultramicroscopicsilicovolcanoconiosis" * 5 + "!?" * 200,
    "\x00 \x00\x01\x7f\x1b[0m \ufeffbom \ufffd \uffff \U0010ffff",
    "ſ K ǅ ß ẞ İ ı ŉ 'ſ 'S 'K it’s ´ ` ^ ~ © ® ™ ¼ ﬁ ﷺ",
)
"""Short texts of every kind that encoders have differed in."""

Encode = Callable[[str], list[int]]
Decode = Callable[[Iterable[int]], str]


class Unusable(Exception):
    """`fastokens` is absent, cannot read the tokenizer, or gives other ids; the message says which."""


class FastEncoder:
    """One tokenizer in `fastokens`. Starts to load, in a thread beside, as soon as it is made."""

    def __init__(self, specification: str) -> None:
        """Read the text of a tokenizer.json, which takes about half a second without holding the interpreter.

        Raises:
            Unusable: not installed.
        """
        if not importlib.util.find_spec("fastokens"):
            raise Unusable("the package fastokens is not installed (pip install 'modelzoo[fast]')")
        self._native: Any = None
        self._error = ""
        self._thread = Thread(target=self._load, args=(specification,), daemon=True)
        self._thread.start()

    def _load(self, specification: str) -> None:
        # One thread a process: encoders run in processes of their own, and no process that may still fork
        # gets a pool of threads. Whoever sets the variable keeps what he set.
        os.environ.setdefault("FASTOKENS_BPE_THREADS", "1")
        try:
            import fastokens

            native = fastokens.Tokenizer.from_json_str(specification)
            native.no_truncation()
            native.no_padding()
            self._native = native
        except BaseException as error:  # a panic of Rust code is not an Exception
            self._error = f"fastokens cannot read it ({type(error).__name__}: {error})"

    def prepare(self, encode: Encode, added_tokens: Sequence[str] = ()) -> None:
        """Finish loading, and compare the ids of the probes with those of `encode`. Starts no thread.

        Raises:
            Unusable: it cannot be loaded, or differs.
        """
        self._thread.join()
        if self._error:
            raise Unusable(self._error)
        added = (f"a{token}b {token} {token}{token}" for token in added_tokens)
        for text in (*PROBES, *added):
            try:
                ids = list(self._native.encode(text, split_special_tokens=True).ids)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt | SystemExit):
                    raise
                raise Unusable(f"fastokens fails on {text[:40]!r} ({type(error).__name__}: {error})") from error
            if ids != encode(text):
                raise Unusable(f"fastokens gives other ids than tokenizers, for one for {text[:40]!r}")

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids (n,) uint32 of all texts, and where each text's begin and end, (len(texts) + 1,) int64."""
        ids, offsets = self._native.encode_batch_flat(list(texts), split_special_tokens=True)
        return np.frombuffer(ids, dtype="<u4"), np.frombuffer(offsets, dtype="<i8")


def check_sample(
    texts: Sequence[str], ids: np.ndarray, offsets: np.ndarray, encode: Encode, decode: Decode, where: str
) -> None:
    """Encode samples of `texts` again and compare. Which ones is decided by the output alone, so runs agree.

    Args:
        ids, offsets: what was given for `texts`, as `FastEncoder.encode` gives it.
        encode, decode: the authority.
        where: names the tokenizer, for the message.

    Raises:
        UserError: a difference. Only the whole text's ids decide: a sample cut at an unlucky place raises nothing.
    """
    if len(offsets) != len(texts) + 1 or offsets[0] != 0 or offsets[-1] != len(ids):
        raise UserError(f"{where}: fastokens gave {len(offsets) - 1} id lists for {len(texts)} texts; {REMEDY}")
    characters = sum(map(len, texts))
    for round_ in range(1 + characters // CALL_CHARACTERS if characters else 0):
        left = SAMPLE_CHARACTERS
        index = (len(ids) * 2654435761 + round_ * 40503 + len(texts)) % len(texts)
        for step in range(min(len(texts), 64)):  # short texts: several
            text = texts[(index + step) % len(texts)]
            begin, end = offsets[(index + step) % len(texts)], offsets[(index + step) % len(texts) + 1]
            _compare(text, ids[begin:end], left, encode, decode, where)
            left -= len(text)
            if left <= 0:
                break


REMEDY = "encode with tokenizer_backend=tokenizers, and report the text to the authors of fastokens"


def _compare(text: str, ids: np.ndarray, limit: int, encode: Encode, decode: Decode, where: str) -> None:
    cut = WORD_END.search(text, limit) if len(text) > limit else None
    sample = text[: cut.end()] if cut and cut.end() < 2 * limit + 64 else text[: max(limit, 1)]
    expected = np.array(encode(sample), dtype=np.uint32)
    exact = len(sample) == len(text)
    if not exact and not (cut and cut.end() == len(sample)):
        expected = expected[: len(expected) * 3 // 4]  # no safe place: what stands near the cut proves nothing
    if np.array_equal(ids if exact else ids[: len(expected)], expected):
        return
    expected = np.array(encode(text), dtype=np.uint32)  # the authority's word on the whole
    if np.array_equal(ids, expected):
        return
    shared = min(len(ids), len(expected))
    unequal = np.flatnonzero(ids[:shared] != expected[:shared])
    first = int(unequal[0]) if len(unequal) else shared
    raise UserError(
        f"{where}: fastokens and tokenizers differ at token {first} of a text: fastokens gives "
        f"{ids[first : first + 8].tolist()}, tokenizers {expected[first : first + 8].tolist()}, "
        f"around {decode(expected[max(0, first - 8) : first + 8])!r} in the text that begins {text[:40]!r}; {REMEDY}"
    )
