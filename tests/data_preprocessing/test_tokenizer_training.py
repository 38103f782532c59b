import json
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
    here = train(config(), base).sha256
    program = (
        "import sys; from pathlib import Path\n"
        "from data_preprocessing.config import TokenizerTrainConfig as C\n"
        "from data_preprocessing.tokenizer_training import train\n"
        "print(train(C.model_validate_json(sys.argv[1]), Path(sys.argv[2])).sha256)"
    )
    settings = config(output="again.json").model_dump_json()
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program, settings, str(base)], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == here


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
    ],
)
def test_settings_that_are_wrong(settings, message):
    with pytest.raises(ValidationError, match=message):
        config(**settings)
