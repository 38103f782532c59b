"""From the YAML's data section to training: mixtures, packing, isolation, other programs' files."""

import h5py
import numpy as np
import pytest
import torch

from data_preprocessing import pipeline
from data_preprocessing.config import PreprocessConfig, TokenizerTrainConfig
from data_preprocessing.tokenizer_training import train
from modelzoo.base_config import UserError
from modelzoo.data.config import DatasetConfig, MixtureConfig
from modelzoo.data.dataset import TokenDataset
from modelzoo.data.loader import BatchLoader
from modelzoo.launch import build_run
from modelzoo.run_config import RunConfig, dump_yaml, load_run_config
from modelzoo.tokenizer import Tokenizer
from tests.runs import launch, small_config, write_dataset
from tests.samples import small_tokenizer
from tests.trainer.observing import weights


def mixture(first, second, **changes):
    """Overrides that train on two datasets; `changes` are keys of the second source."""
    extra = "".join(f", {key}: {value}" for key, value in changes.items())
    return (
        "~data.train",
        f"+data.train={{sources: {{a: {{path: '{first}', split: train, weight: 3}}, "
        f"b: {{path: '{second}', split: train, weight: 1{extra}}}}}}}",
    )


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("second"), seed=1)


def test_the_keys_tell_one_dataset_from_a_mixture(dataset, second, tmp_path):
    one, two = small_config(dataset, tmp_path), small_config(dataset, tmp_path, *mixture(dataset, second))
    assert isinstance(one.data.train, DatasetConfig)
    assert isinstance(two.data.train, MixtureConfig)
    assert [source.path for source in two.data.used_sources()] == [str(dataset), str(second), str(dataset)]
    dropped = small_config(dataset, tmp_path, *mixture(dataset, second), "data.train.sources.b=null")
    assert list(dropped.data.train.used_sources()) == ["a"]


MISTAKES = [
    ("weight: 0}", "data.train.sources.code.weight = 0", "set it to null"),
    ("weight: -1}", "data.train.sources.code.weight = -1", "greater than 0"),
    ("weigth: 1}", "data.train.sources.code.weigth = 1", "did you mean weight?"),
    ("split: train}", "data.train.sources.code.weight", "give a weight"),
    ("weight: 1, max_epochs: 1.5}", "data.train.sources.code.max_epochs = 1.5", "valid integer"),
    ("weight: 1, max_tokens: 0}", "data.train.sources.code.max_tokens = 0", "greater than 0"),
    ("weight: 1, packing: bestfit}", "data.train.sources.code.packing = 'bestfit'", "did you mean best_fit?"),
    ("weight: 1, split: validation}", "data.validation", "measure memory"),
]


@pytest.mark.parametrize(("source", "place", "remedy"), MISTAKES)
def test_mistakes_in_a_mixture_are_explained(tmp_path, source, place, remedy):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "defaults:\n  - gptj_tiny\n  - override data: null\n  - _self_\nname: mine\ndata:\n"
        "  validation: {path: data/python_stdlib, split: validation}\n"
        f"  train:\n    sources:\n      code: {{path: data/python_stdlib, {source}\n"
    )
    with pytest.raises(UserError) as error:
        load_run_config(str(path))
    assert place in str(error.value)
    assert remedy in str(error.value)


def test_other_mistakes(dataset, tmp_path):
    for override, message in [
        ("+data.train.kind=mixtur", "must be one of dataset, mixture; did you mean mixture?"),
        ("data.train={sources: {}}", "unknown key"),  # merged into the dataset's keys
        ("+data.train.packng=best_fit", "did you mean packing?"),
    ]:
        with pytest.raises(UserError, match=message.replace("?", r"\?")):
            small_config(dataset, tmp_path, override)
    with pytest.raises(UserError, match="name at least one source"):
        small_config(dataset, tmp_path, "~data.train", "+data.train={sources: {}}")


@pytest.mark.parametrize("name", ["prompt_completion", "trc2_with_replay_gpt2"])
def test_shipped_data_sections_serve_a_run(name):
    config = load_run_config("gptj_tiny", [f"data={name}", "data.seq_len=256"])
    assert RunConfig.model_validate(config.model_dump()) == config
    assert "data:" in dump_yaml(config)


def test_a_mixture_trains_and_resumes_exactly(dataset, second, tmp_path):
    config = small_config(dataset, tmp_path / "whole", *mixture(dataset, second), "schedule=constant")
    whole = launch(config)
    whole.train()
    first = small_config(
        dataset, tmp_path / "parts", *mixture(dataset, second), "schedule=constant", "trainer.max_steps=5"
    )
    launch(first).train()
    moved = tmp_path / "moved"
    second.rename(moved)
    try:
        rest = small_config(dataset, tmp_path / "parts", *mixture(dataset, moved), "schedule=constant")
        trainer = launch(rest)
        assert trainer.step == 5
        trainer.train()
    finally:
        moved.rename(second)
    assert all(torch.equal(value, weights(trainer)[name]) for name, value in weights(whole).items())
    assert whole.data.tokens_seen(12) == {"a": 12 * 8 * 24 * 3 // 4, "b": 12 * 8 * 24 // 4}


def test_a_mixture_of_other_proportions_is_another_run(dataset, second, tmp_path):
    launch(small_config(dataset, tmp_path, *mixture(dataset, second))).train()
    with pytest.raises(UserError, match=r"data\.train\.sources\.b\.weight: 1\.0 → 2\.0"):
        launch(small_config(dataset, tmp_path, *mixture(dataset, second), "data.train.sources.b.weight=2"))


def test_a_mixture_that_repeats_too_much_is_refused_before_the_run(dataset, second, tmp_path):
    capped = mixture(dataset, second, max_epochs=1, max_tokens=96)
    with pytest.raises(UserError, match=r"b: 25\.00% of the run: 576 tokens, 6\.00 epochs \(at most 1\) of the 96"):
        build_run(small_config(dataset, tmp_path, *capped))
    build_run(
        small_config(dataset, tmp_path, *capped, "trainer.max_steps=2", "schedule=constant", "schedule.warmup_steps=1")
    )


@pytest.mark.parametrize("packing", ["stream", "best_fit"])
def test_isolated_documents_reach_the_model(dataset, tmp_path, packing):
    changes = [f"+data.{section}.packing={packing}" for section in ("train", "validation")]
    trainer = launch(small_config(dataset, tmp_path / packing, *changes, "+data.isolate_documents=true"))
    seen = []
    trainer.model.blocks[0].attention.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    trainer.train()
    assert trainer.step == 12
    assert all(mask is not None and mask.shape[-2:] == (24, 24) for mask in seen)
    batch = trainer.data.batch(0)
    expected = batch["segment_ids"][:, None, :, None] == batch["segment_ids"][:, None, None, :]
    assert np.array_equal(seen[0].numpy(), np.tril(expected))
    plain = launch(small_config(dataset, tmp_path / "plain", *changes))
    assert "segment_ids" not in plain.data.batch(0)


def test_modelzoos_files_train_with_a_tokenizer_that_is_named(dataset, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    ids = np.random.default_rng(0).integers(0, 275, (40, 25))
    with h5py.File(folder / "a.h5", "w") as file:
        file["data"] = np.stack([ids[:, :-1], np.ones((40, 24), int), ids[:, 1:]], axis=1).astype(np.int32)
    small_tokenizer().save(tmp_path / "tokenizer.json")
    overrides = [f"data.train.path={folder}", "data.train.split=null"]
    with pytest.raises(UserError, match=r"holds no tokenizer.* data\.tokenizer=PATH"):
        build_run(small_config(dataset, tmp_path, *overrides))
    config = small_config(dataset, tmp_path, *overrides, f"+data.tokenizer={tmp_path / 'tokenizer.json'}")
    trainer = launch(config)
    assert "do not say which tokenizer wrote them" in trainer.data.notes[0]
    trainer.train()
    assert launch(config).step == 12
    with h5py.File(folder / "a.h5", "r+") as file:
        file["data"][0, 0, 0] = 7
    with pytest.raises(UserError, match="manifest_sha256"):
        launch(config)


def stored_rows(path):
    dataset = TokenDataset(path, "train", 24)
    return dataset.rows(range(len(dataset)))["input_ids"]


def test_unshuffled_rows_come_as_they_are_stored_whatever_the_seed_epoch_or_rank(dataset, tmp_path):
    stored = stored_rows(dataset)
    for seed in (0, 1):
        data = build_run(small_config(dataset, tmp_path, "data.shuffle=false", f"seed={seed}")).data
        steps = 2 * data.num_batches_per_epoch  # into the third epoch
        read = np.concatenate([data.batch(step)["input_ids"] for step in range(steps)])
        assert np.array_equal(read, stored[np.arange(len(read)) % len(stored)])
        ranks = [data.batch(steps, slice(4 * rank, 4 * rank + 4))["input_ids"] for rank in (0, 1)]
        assert np.array_equal(np.concatenate(ranks), data.batch(steps)["input_ids"])
    shuffled = build_run(small_config(dataset, tmp_path)).data
    read = np.concatenate([shuffled.batch(step)["input_ids"] for step in range(shuffled.num_batches_per_epoch)])
    assert not np.array_equal(read[: len(stored)], stored)


def test_unshuffled_sources_of_a_mixture_come_as_they_are_stored(dataset, second, tmp_path):
    config = small_config(dataset, tmp_path, *mixture(dataset, second, max_tokens=96), "data.shuffle=false")
    data = build_run(config).data
    for name, rows in {"a": stored_rows(dataset), "b": stored_rows(second)[: 96 // 24]}.items():
        read = [
            row
            for step in range(9)
            for row, source in zip(data.batch(step)["input_ids"], data.source_of_rows(step), strict=True)
            if source == name
        ]
        assert np.array_equal(read, rows[np.arange(len(read)) % len(rows)])


def test_an_unshuffled_run_resumes_and_does_not_take_up_another_order(dataset, tmp_path):
    settings = ("data.shuffle=false", "schedule=constant")
    whole = launch(small_config(dataset, tmp_path / "whole", *settings))
    whole.train()
    launch(small_config(dataset, tmp_path / "parts", *settings, "trainer.max_steps=5")).train()
    with pytest.raises(UserError, match=r"data\.shuffle: False → True"):
        launch(small_config(dataset, tmp_path / "parts", *settings[1:]))
    rest = launch(small_config(dataset, tmp_path / "parts", *settings))
    assert rest.step == 5
    rest.train()
    assert rest.batches == whole.batches
    assert all(torch.equal(value, weights(rest)[name]) for name, value in weights(whole).items())


def test_two_tokenizers_give_the_same_documents_in_the_same_order(tmp_path):
    """What preprocessing shuffles and splits by the bytes of the documents comes to the trainer as it is stored."""
    (tmp_path / "corpus.txt").write_text(
        "\n".join(f"document {number} " + "abc " * (number % 7) for number in range(90))
    )
    small_tokenizer().save(tmp_path / "merged.json")
    train(
        TokenizerTrainConfig.model_validate(
            {
                "name": "bytes",
                "reader": {"kind": "text", "paths": "corpus.txt", "separator": "\n"},
                "output": "other.json",
                "vocab_size": 290,
                "style": "neox",
            }
        ),
        tmp_path,
    )
    texts, counts = [], []
    for tokenizer in ("merged", "other"):
        config = PreprocessConfig.model_validate(
            {
                "name": tokenizer,
                "reader": {"kind": "text", "paths": "corpus.txt", "separator": "\n"},
                "tokenizer": f"{tokenizer}.json",
                "output": tokenizer,
                "validation_fraction": 0.2,
                "shuffle_seed": 1,
                "shard_tokens": 400,
            }
        )
        dataset = TokenDataset(pipeline.run(config, tmp_path).output, "train", 24)
        loader = BatchLoader(dataset, 4, seed=0, shuffle=False)
        batches = [loader.batch(step) for step in range(len(loader))]
        ids = np.concatenate([batch["labels"][batch["loss_mask"]] for batch in batches])[: dataset.num_tokens]
        texts.append(Tokenizer.load(tmp_path / f"{tokenizer}.json").decode(ids.tolist()))
        counts.append(len(ids))
    assert texts[0] == texts[1]
    assert counts[0] != counts[1]
    assert texts[0].split("<|endoftext|>") != sorted(texts[0].split("<|endoftext|>"))
