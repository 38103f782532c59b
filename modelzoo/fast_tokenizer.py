"""`fastokens` beside `tokenizers`: the same ids, some fifty times faster, and never believed unseen.

Before it is used it must give the ids of `tokenizers` for `PROBES`; while it is used, a sample of what it really
gave is encoded again in every call.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from modelzoo.base_config import UserError
from modelzoo.fast_loading import fits, is_installed, loading
from modelzoo.tokenizer_cuts import SAFE_CUT

SAMPLE = 1 / 2048
"""Share of the characters of a call that is encoded again, which takes 5 to 10 % of the time of the call."""

MIN_SAMPLE_CHARACTERS = 128
MAX_SAMPLE_TEXTS = 64

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

REMEDY = "encode with tokenizer_backend=tokenizers, and report the text to the authors of fastokens"

Encode = Callable[[str], list[int]]
Decode = Callable[[Iterable[int]], str]


class Unusable(Exception):
    """`fastokens` is absent, cannot read the tokenizer, or gives other ids; the message says which."""


class FastEncoder:
    """One tokenizer in `fastokens`. Starts to load, in a thread beside, as soon as it is made."""

    def __init__(self, specification: str) -> None:
        """Read the text of a tokenizer.json, which takes about half a second without holding the interpreter.

        Raises:
            Unusable: not installed, or not able to read this one.
        """
        if not is_installed():
            raise Unusable("the package fastokens is not installed (pip install 'modelzoo[fast]')")
        if not fits(specification):
            raise Unusable("an added token's id is beyond what fastokens takes")
        self._loading = loading(specification)
        self._native: Any = None

    def prepare(self, encode: Encode, added_tokens: Sequence[str] = ()) -> None:
        """Finish loading, and compare the ids of the probes with those of `encode`. Starts no thread.

        Raises:
            Unusable: it cannot be loaded, or differs.
        """
        self._native, failure = self._loading.wait()
        if failure:
            raise Unusable(failure)
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
        """Ids (n,) uint32 of all texts, and where each text's begin and end, (len(texts) + 1,) int64; read-only.

        Raises:
            TypeError, UnicodeEncodeError: what is not text, or holds an unpaired surrogate.
            UserError: it fails in any other way.
        """
        try:
            ids, offsets = self._native.encode_batch_flat(list(texts), split_special_tokens=True)
        except (TypeError, UnicodeEncodeError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of Rust code is not an Exception
            what = f"{type(error).__name__}: {error}"
            raise UserError(f"fastokens fails ({what}) in a batch that begins {texts[0][:40]!r}; {REMEDY}") from error
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
    left = max(MIN_SAMPLE_CHARACTERS, int(SAMPLE * sum(map(len, texts))))
    first = len(ids) * 2654435761 % max(1, len(texts))  # a multiplicative hash (Knuth)
    for index in islice(chain(range(first, len(texts)), range(first)), MAX_SAMPLE_TEXTS):  # several where short
        begin, end = offsets[index], offsets[index + 1]
        _compare(texts[index], ids[begin:end], left, encode, decode, where)
        left -= len(texts[index])
        if left <= 0:
            break


def _compare(text: str, ids: np.ndarray, limit: int, encode: Encode, decode: Decode, where: str) -> None:
    sample = text
    if len(text) > limit:
        cut = SAFE_CUT.search(text, limit, 2 * limit)
        sample = text[: cut.end() if cut else limit]
    expected = np.array(encode(sample), dtype=np.uint32)
    exact = len(sample) == len(text)
    if not exact and not cut:
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
