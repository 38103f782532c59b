import json
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from data_preprocessing.config import TokenizerTrainConfig
from data_preprocessing.tokenizer_training import train
from modelzoo.base_config import UserError
from modelzoo.tokenizer import Tokenizer
from tests.samples import TRICKY

CODE = "def function_{i}(value):\n    if value > {i}:\n            return value * {i}\n\treturn None\n"


@pytest.fixture
def base(tmp_path):
    lines = [json.dumps({"text": CODE.replace("{i}", str(i))}) for i in range(300)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    return tmp_path


def config(**settings):
    reader = {"kind": "jsonl", "paths": "corpus.jsonl"}
    wanted = {"name": "t", "reader": reader, "output": "tokenizer.json", "vocab_size": 320, "style": "neox"}
    return TokenizerTrainConfig.model_validate({**wanted, **settings})


@pytest.mark.parametrize("style", ["gpt2", "neox"])
def test_vocabulary_is_as_asked_for_and_every_byte_comes_back(base, style):
    trained = train(config(style=style), base)
    loaded = Tokenizer.load(base)
    assert loaded.sha256 == trained.sha256
    assert loaded.vocab_size == 320
    assert loaded.end_of_document_id == 0
    for text in TRICKY:
        assert loaded.decode_bytes(loaded.encode(text)) == text.encode()
        assert 0 not in loaded.encode(text)


def test_neox_takes_a_run_of_spaces_as_one_token(base):
    neox = train(config(), base)
    gpt2 = train(config(style="gpt2", output="gpt2.json"), base)
    for length in (2, 3, 9, 24):
        ids = neox.encode(" " * length + "x")
        assert neox.decode(ids[:1]) == " " * length
        assert ids[0] == neox.vocab_size - length + 1  # 24 spaces first, as in GPT-NeoX-20B
    assert len(neox.encode(" " * 48)) == 2
    assert len(gpt2.encode(" " * 24)) > 1
    assert not [token for token in neox.backend.get_vocab() if "ĠĠ" in token]  # no merge is wasted
    assert [token for token in gpt2.backend.get_vocab() if "ĠĠ" in token]


def test_training_is_deterministic(base):
    settings = {"vocab_size": 305, "digits": "split", "pad_vocab_to_multiple_of": 64}
    train(config(**settings), base)
    here = (base / "tokenizer.json").read_bytes()
    program = (
        "import sys; from pathlib import Path\n"
        "from data_preprocessing.config import TokenizerTrainConfig as C\n"
        "from data_preprocessing.tokenizer_training import train\n"
        "train(C.model_validate_json(sys.argv[1]), Path(sys.argv[2]))"
    )
    for threads in ("1", "2", "5"):
        again = config(**settings, output=f"{threads}.json").model_dump_json()
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        subprocess.run([sys.executable, "-c", program, again, str(base)], env=environment, check=True)
        assert (base / f"{threads}.json").read_bytes() == here


def test_digits_alone_or_merged(base):
    (base / "corpus.jsonl").write_text(json.dumps({"text": CODE * 50 + " 27 items of 27;" * 200}))
    merged = train(config(vocab_size=300), base)
    split = train(config(vocab_size=300, digits="split", output="split.json"), base)
    assert merged.decode(merged.encode("of 27")[-1:]) == " 27"
    assert [split.decode([id_]) for id_ in split.encode("\n 27, 3")] == [*"\n 27,", " ", "3"]
    assert not [token for token in split.backend.get_vocab() if len(token) > 1 and any(map(str.isdigit, token))]
    for text in TRICKY:
        assert split.decode_bytes(split.encode(text)) == text.encode()


def test_padding_of_the_vocabulary(base):
    trained = train(config(vocab_size=321, pad_vocab_to_multiple_of=64), base)
    bare = train(config(vocab_size=321, output="bare.json"), base)
    assert (trained.vocab_size, bare.vocab_size) == (384, 321)
    assert config(vocab_size=321, pad_vocab_to_multiple_of=64).padded_vocab_size == 384
    assert [trained.decode([id_]) for id_ in (321, 383)] == ["<|padding_0|>", "<|padding_62|>"]
    for text in [*TRICKY, "<|padding_0|>"]:
        assert trained.encode(text) == bare.encode(text)
    assert train(config(vocab_size=320, pad_vocab_to_multiple_of=64, output="no.json"), base).vocab_size == 320


def test_tokens_for_fill_in_the_middle_and_chat(base):
    names = ["<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|user|>"]
    (base / "corpus.jsonl").write_text(json.dumps({"text": "<|user|> <|fim_prefix|>" * 500 + CODE * 300}))
    trained = train(config(special_tokens=names), base)
    assert [trained.backend.token_to_id(name) for name in names] == [0, 1, 2, 3, 4]
    for name in names:  # however often a text spells it
        assert min(trained.encode(f"a{name} {name}")) > 4


def test_special_tokens_come_first(base):
    trained = train(config(special_tokens=["<|endoftext|>", "<|padding|>"]), base)
    assert trained.backend.token_to_id("<|padding|>") == 1
    assert trained.vocab_size == 320


def test_too_little_text(base):
    with pytest.raises(UserError, match=r"vocab_size=320: \d+ bytes of text give only \d+ tokens"):
        train(config(max_bytes=1), base)
    assert not (base / "tokenizer.json").exists()


def test_max_bytes_reads_the_first_documents(base):
    seen = []
    train(config(max_bytes=5000), base, seen.append)
    assert 5000 <= seen[-1].documents * len(CODE) < 6000
    assert seen[-1].bytes_done <= seen[-1].bytes_total


def test_broken_document_stops_or_is_left_out(base):
    with (base / "corpus.jsonl").open("a") as file:
        file.write("\n{broken")
    with pytest.raises(UserError, match=r"corpus\.jsonl:301: not JSON"):
        train(config(), base)
    assert not (base / "tokenizer.json").exists()
    train(config(on_error="reject"), base)


def test_another_tokenizer_is_not_overwritten(base):
    train(config(), base)
    train(config(), base)
    with pytest.raises(UserError, match="holds another tokenizer"):
        train(config(style="gpt2"), base)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 280}, "280 leaves no merges: .* take 280"),
        ({"special_tokens": ["<s>"]}, "must hold <|endoftext|>"),
        ({"special_tokens": ["<|endoftext|>", "a", "a"]}, "names a token twice"),
        ({"style": "gptj"}, "Input should be 'gpt2' or 'neox'"),
        ({"digits": "kept"}, "Input should be 'merged' or 'split'"),
        ({"special_tokens": ["<|endoftext|>", "the"]}, "'the' could be learnt from text"),
        ({"special_tokens": ["<|endoftext|>", "'s"]}, "'s\" could be learnt from text"),
        ({"special_tokens": ["<|endoftext|>", "<|>"]}, "could be learnt from text"),
        ({"special_tokens": ["<|endoftext|>", "<|a b|>"]}, "holds white space"),
        ({"special_tokens": ["<|endoftext|>", ""]}, "could be learnt"),
        (
            {"special_tokens": ["<|endoftext|>", "<|padding_7|>"], "pad_vocab_to_multiple_of": 8},
            "is kept for pad_vocab",
        ),
        ({"pad_vocab_to_multiple_of": 0}, "greater than 0"),
    ],
)
def test_settings_that_are_wrong(settings, message):
    with pytest.raises(ValidationError, match=message):
        config(**settings)


def test_a_special_token_that_merges_could_make_would_be_met_in_text(base):
    """Why such names are refused."""
    good = config(special_tokens=["<|endoftext|>", "<|value|>"])
    for name, met in (("<|value|>", False), ("value", True)):
        unchecked = good.model_copy(update={"special_tokens": ("<|endoftext|>", name), "output": f"{name}.json"})
        assert (1 in train(unchecked, base).encode(f"x {name} (value)")) == met


def test_every_option_is_tested_by_its_effect():
    assert set(TokenizerTrainConfig.model_fields) == {
        "name", "description", "reader", "output", "vocab_size", "style", "digits", "special_tokens",
        "pad_vocab_to_multiple_of", "max_bytes", "on_error",
    }  # fmt: skip
