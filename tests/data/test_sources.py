"""From the YAML's data section to training: mixtures, packing, isolation, other programs' files."""

import h5py
import numpy as np
import pytest
import torch

from modelzoo.base_config import UserError
from modelzoo.data.config import DatasetConfig, MixtureConfig
from modelzoo.launch import build_run, resume
from modelzoo.run_config import RunConfig, dump_yaml, load_run_config
from tests.runs import small_config, write_dataset
from tests.samples import small_tokenizer


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


def launch(config):
    trainer = build_run(config)
    resume(trainer, config)
    return trainer


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


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
