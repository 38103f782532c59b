"""Text made to break tokenizers, from a seed; and small tokenizers of every style to try it on."""

import random
import sys
import unicodedata
from functools import cache

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from modelzoo.tokenizer import special_token

FRAGMENTS = [
    *(" " * length for length in (1, 1, 1, 2, 3, 4, 8, 23, 24, 25, 40)),
    "\t", "\t\t", "\n", "\n\n", "\r\n", "\r", "\v", "\f", "\x85", "\u2028", "\u00a0", "\u3000", "\u200b",
    "the", "The", "word", "naïve", "it's", "they'LL", "DON'T", "'s", "’s", "a", "b\nc", "x y",
    "def f(x):\n    return {1: 'a'}  # code\n", "if x:\n\t\tpass\n", "x_y=0x1F;", "</div>", "std::vector<int>&&", "\\n",
    "0", "1", "12", "123", "1234", "3.14", "1e-5", "½", "²", "٣٤", "१२३", "Ⅷ",
    "😶‍🌫️", "🚀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "👍🏽", "\u200d", "\ufe0f",
    "e\u0301", "é", "\u0301", "a\u0323\u0307", "a\u0307\u0323", "\u212b", "\uac00", "\u1100\u1161\u11a8", "\u0344",
    "日本語", "。", "中文", "ไทย", "한국어", "हिन्दी", "עברית", "\u200f", "مرحبا", "\u202b", "ß", "İ", "ﬁ", "ſ",
    "\x00", "\x00\x00", "\x01", "\x7f", "\x1b[0m", "\ufeff", "\ufffd", "\uffff", "\U0010ffff", "\ue000",
    "<|endoftext|>", "<|padding|>", "<|", "|>", "...", "!?", "--", "\"", "“”", "`", "_" * 30, "=" * 70, "Ġ", "Ċ", "Â",
]  # fmt: skip


def fuzzed_texts(seed: int, number: int, fragments: int = 40) -> list[str]:
    """Texts of up to so many fragments, some of them any character that UTF-8 can hold."""
    draw = random.Random(seed)

    def fragment() -> str:
        if draw.random() < 0.85:
            return draw.choice(FRAGMENTS)
        code = draw.choice((draw.randrange(0x250), draw.randrange(0x3000), draw.randrange(sys.maxunicode + 1)))
        return chr(code) if not 0xD800 <= code < 0xE000 else "\ufffd"

    return ["".join(fragment() for _ in range(draw.randrange(fragments))) for _ in range(number)]


SPLITS = {
    "gpt2": None,
    "cl100k": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
STYLES = ("gpt2", "neox", "digits", "cl100k", "o200k")


@cache
def tokenizer_json(style: str) -> str:
    """A tokenizer.json of 700 tokens. `neox` has NFC and runs of spaces, `digits` single digits."""
    backend = Backend(models.BPE())
    splitters = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=SPLITS.get(style) is None)]
    if pattern := SPLITS.get(style):
        splitters.insert(0, pre_tokenizers.Split(Regex(pattern), "isolated"))
    if style == "digits":
        splitters.insert(0, pre_tokenizers.Digits(individual_digits=True))
    backend.pre_tokenizer = splitters[0] if len(splitters) == 1 else pre_tokenizers.Sequence(splitters)
    backend.decoder = decoders.ByteLevel()
    if style == "neox":
        backend.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[special_token("<|endoftext|>")],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(fuzzed_texts(0, 400), trainer)
    if style == "neox":
        backend.add_tokens([AddedToken(" " * run, normalized=False) for run in range(24, 1, -1)])
    return str(backend.to_str())


def normalized(style: str, text: str) -> str:
    """What a round trip gives back."""
    return unicodedata.normalize("NFC", text) if style == "neox" else text
