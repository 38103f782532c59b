"""Small inputs that several tests share, and the place of the larger ones."""

import os
from pathlib import Path

import pytest
from tokenizers import models, pre_tokenizers, trainers

from modelzoo.tokenizer import Tokenizer, byte_level, special_token

TRICKY = [
    "",
    " ",
    "plain text, with punctuation: 3.14!",
    "runs  of   spaces" + " " * 40 + "and\ttabs\t\t\n\n\r\n end ",
    "def f(x):\n    if x:\n        return {1: 'a'}  # code\n",
    "emoji 😶‍🌫️🚀, ελληνικά, 日本語, e\u0301 (not composed), \x00 and \u2028",
    "<|endoftext|> spelt <|endoftext|><|endoftext|>  in text",
]


def small_tokenizer(vocab_size: int = 275) -> Tokenizer:
    """A byte-level BPE tokenizer with `<|endoftext|>` at id 0."""
    backend = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[special_token("<|endoftext|>")],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(["the cat and the dog and the bird saw the other cat"] * 3, trainer)
    return Tokenizer(backend, "small")


def shared_data(relative: str) -> Path:
    """A file that lies beside the repository, or where MODELZOO_TEST_DATA points; skips where it is not."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("MODELZOO_TEST_DATA", beside)) / relative
    if not path.exists():
        pytest.skip(f"{relative} is in neither MODELZOO_TEST_DATA nor shared/data beside the repository")
    return path
