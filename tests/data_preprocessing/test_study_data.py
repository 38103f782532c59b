"""The data of the shipped studies: two tokenizers, the same documents in the same order, held out by domain."""

import pytest

from data_preprocessing import pipeline, tokenizer_training
from modelzoo.cli.any_config import load_any
from modelzoo.data.config import DatasetConfig, ValidationSets
from modelzoo.data.dataset import TokenDataset
from modelzoo.run_config import load_run_config
from modelzoo.tokenizer import Tokenizer

STYLES = ("neox", "gpt2")
TYPICAL = '"""Module {0}, which has a docstring."""\n\n\nclass Thing{0}:\n    """Is number {0}."""\n\n    value = {0}\n'


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder where everything was prepared, from a few modules instead of the standard library."""
    base = tmp_path_factory.mktemp("study")
    (base / "library").mkdir()
    for number in range(120):
        (base / "library" / f"module_{number}.py").write_text(TYPICAL.format(number) + "    x = 1\n" * (number % 5))
    for style in STYLES:
        config = load_any(f"tokenizer/study_{style}")[0]
        reader = config.reader.model_copy(update={"paths": ("library",)})
        tokenizer_training.train(config.model_copy(update={"reader": reader, "vocab_size": 320}), base)
        for part in ("", "code_", "prose_"):
            config = load_any(f"preprocess/study_{part}{style}")[0]
            sources = {
                name: source.model_copy(update={"reader": source.reader.model_copy(update={"paths": ("library",)})})
                for name, source in config.sources.items()
            }
            pipeline.run(config.model_copy(update={"sources": sources}), base)
    return base


def documents(base, source):
    """The texts that one source of a run's data reads, in their order."""
    dataset = TokenDataset(base / source.path, source.split, 64, source.packing)
    rows = dataset.rows(range(len(dataset)))
    tokenizer = Tokenizer.load(base / "tokenizers" / source.path.replace("code_", "").replace("prose_", "")[5:])
    text = tokenizer.decode(rows["labels"][rows["loss_mask"]].tolist())
    return text.split("<|endoftext|>")[:-1]


def test_both_tokenizers_read_the_same_documents_in_one_order_and_hold_out_the_same(written):
    found = {}
    for style in STYLES:
        data = load_run_config("gptj_tiny", [f"data=study_{style}", "data.seq_len=256"]).data
        assert not data.shuffle
        assert isinstance(data.train, DatasetConfig)
        assert isinstance(data.validation, ValidationSets)
        held_out = {name: documents(written, source) for name, source in data.validation_sources().items()}
        found[style] = {"train": documents(written, data.train), **held_out}
    assert found["neox"] == found["gpt2"]
    train, code, prose = (set(found["neox"][name]) for name in ("train", "code", "prose"))
    assert len(train | code | prose) == 240
    assert not train & (code | prose)
    assert code
    assert all("class Thing" in text and "docstring" not in text for text in code)
    assert prose
    assert all("which has a docstring" in text and "class" not in text for text in prose)
    order = [text for text in found["neox"]["train"] if text in train]
    assert order != sorted(order)
