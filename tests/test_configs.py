"""Every shipped YAML: it composes, validates, builds, and holds the numbers it stands for."""

import pytest
import torch
import yaml

from data_preprocessing.config import PreprocessConfig, TokenizerTrainConfig
from modelzoo.base_config import UserError, kind_of
from modelzoo.cli.any_config import load_any
from modelzoo.compare.config import CompareConfig
from modelzoo.config_files import NOT_RUNS, configs_dir, shipped_names
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.run_config import RunConfig, diff, dump_yaml, flatten, load_composed_run, load_run_config

RUNS = shipped_names()


def test_the_promised_configs_are_shipped():
    promised = {
        "params_gptj_6B", "params_gptj_6B_muP", "continuous_pretraining/params_gptj_6B_TRC2", "params_gpt_neox_20B",
        "gpt2_124M", "pythia_160M", "pythia_410M", "gptj_125M", "gpt_neox_125M", "gptj_tiny", "gpt_neox_tiny",
        "gpt2_tiny", "continuous_pretraining/params_gpt_neox_20B_continue", "continuous_pretraining/gptj_tiny_cpp",
        "continuous_pretraining/gptj_tiny_new_tokenizer", "continuous_pretraining/gptj_6B_neox_tokenizer",
    }  # fmt: skip
    assert promised <= set(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_config_composes_validates_and_builds(name):
    config, composed = load_composed_run(name)
    assert config.name == name.rsplit("/", 1)[-1]
    assert config.description
    assert composed.choices["model"] in ("gpt2", "gptj", "gpt_neox")
    with torch.device("meta"):
        model = GPT(config.model)
    assert sum(p.numel() for p in model.parameters()) == config.model.num_parameters()


@pytest.mark.parametrize("name", RUNS)
def test_a_dumped_config_loads_back_equal(name):
    config = load_run_config(name)
    assert RunConfig.model_validate(yaml.safe_load(dump_yaml(config))) == config


@pytest.mark.parametrize("group", NOT_RUNS)
def test_configs_of_other_verbs_validate(group):
    schema = {"preprocess": PreprocessConfig, "tokenizer": TokenizerTrainConfig, "compare": CompareConfig}[group]
    names = shipped_names(group)
    assert names
    for name in names:
        assert type(load_any(name)[0]) is schema


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2_124M", 124_439_808),
        ("params_gptj_6B", 6_050_882_784),
        ("continuous_pretraining/params_gptj_6B_TRC2", 6_050_882_784),
        ("params_gpt_neox_20B", 20_554_567_680),
        ("continuous_pretraining/params_gpt_neox_20B_continue", 20_554_567_680),
        ("finetune/gptj_6B_instruction", 6_050_882_784),
        ("pythia_160M", 162_322_944),
        ("pythia_410M", 405_334_016),
    ],
)
def test_parameter_counts_are_the_published_ones(name, parameters):
    assert load_run_config(name).model.num_parameters() == parameters


@pytest.mark.parametrize(
    ("name", "steps", "batch", "seq_len", "peak", "final", "warmup"),
    [
        ("params_gptj_6B", 1_493_333, 120, 2048, 5.809e-5, 5.809e-6, 12_800),
        ("continuous_pretraining/params_gptj_6B_TRC2", 25_000, 56, 512, 6e-6, None, 500),
        ("params_gpt_neox_20B", 150_000, 1536, 2048, 0.97e-4, 0.97e-5, 1_500),
        ("pythia_160M", 143_000, 1024, 2048, 6e-4, 6e-5, 1_430),
    ],
)
def test_schedules_of_the_reference_runs(name, steps, batch, seq_len, peak, final, warmup):
    config = load_run_config(name)
    assert (config.total_steps, config.trainer.global_batch_size, config.data.seq_len) == (steps, batch, seq_len)
    assert config.lr_factor(warmup - 1) == 1.0
    assert config.optimizer.lr == pytest.approx(peak)
    if final is not None:
        assert config.optimizer.lr * config.lr_factor(steps - 1) == pytest.approx(final, rel=1e-4)


def test_gptj_decays_for_1280000_steps_and_stays():
    config = load_run_config("params_gptj_6B")
    end = 12_800 + 1_280_000
    assert config.lr_factor(end - 1) > config.lr_factor(end) == config.lr_factor(end + 100_000) == pytest.approx(0.1)


def test_gpt_neox_20B_continues_at_the_rates_of_its_release():
    """By the root of the batch, as ModelZoo's 72 sequences are; from where the release's rate had ended."""
    config, release = (
        load_run_config(name) for name in ("continuous_pretraining/params_gpt_neox_20B_continue", "params_gpt_neox_20B")
    )
    scale = (config.trainer.global_batch_size / release.trainer.global_batch_size) ** 0.5
    assert config.optimizer.lr == pytest.approx(scale * release.optimizer.lr, rel=0.01)
    assert config.lr_factor(0) == pytest.approx(release.schedule.final_lr_ratio, abs=0.01)
    assert config.lr_factor(config.total_steps - 1) == pytest.approx(0.1, rel=1e-3)


def test_every_config_of_the_released_gpt_j_has_rows_for_the_ids_of_its_tokenizer():
    """50,400: GPT-2's 50,257 and 143 names. Data that was written with it would be refused otherwise."""
    names = [
        name for name in RUNS if str(load_run_config(name).continue_from).lower().endswith(("gpt-j-6b", "gptj_6b"))
    ]
    assert len(names) >= 6
    for name in names:
        assert load_run_config(name).model.vocab_size == load_run_config(name).model.num_embeddings == 50_400


def test_trc2_ends_its_decay_at_a_fifth():
    config = load_run_config("continuous_pretraining/params_gptj_6B_TRC2")
    assert config.optimizer.lr * config.lr_factor(50_500) == pytest.approx(1.2e-6)


@pytest.mark.parametrize(("a", "b"), [("gptj_125M", "gpt_neox_125M"), ("gptj_tiny", "gpt_neox_tiny")])
def test_twins_differ_in_what_separates_the_families_only(a, b):
    different = {key for key, _, _ in diff(load_run_config(a), load_run_config(b))}
    assert different == {
        "name", "description", "model.tied_norm", "model.position.style", "model.activation", "model.attention_bias",
        "model.lm_head_bias", "model.init.scheme",
    }  # fmt: skip


def test_every_value_of_every_model_option_is_used_by_a_shipped_config():
    seen: dict[str, set] = {}
    for name in RUNS:
        for key, value in flatten(load_run_config(name).model.model_dump()).items():
            seen.setdefault(key, set()).add(value)
    for key, info in ModelConfig.model_fields.items():
        if info.annotation is bool:
            assert seen[key] == {False, True}, key
    assert seen["position.style"] == {"interleaved", "half"}
    assert seen["activation"] == {"gelu", "gelu_tanh"}
    assert seen["init.scheme"] == {"gpt2", "mesh_jax", "small_wang"}
    assert {0.0, 0.1} <= seen["dropout"]
    assert None in seen["mup"]
    assert "mup.base_hidden_size" in seen


@pytest.mark.parametrize("group", ["schedule", "optimizer", "callbacks"])
def test_every_kind_is_used_by_a_shipped_yaml(group):
    from modelzoo.optimizer.base import OptimizerConfig
    from modelzoo.schedule.base import ScheduleConfig
    from modelzoo.trainer.callbacks.base import CallbackConfig

    base = {"schedule": ScheduleConfig, "optimizer": OptimizerConfig, "callbacks": CallbackConfig}[group]
    text = "".join(path.read_text() for path in (configs_dir() / group).glob("*.yaml"))
    for cls in base.__subclasses__():
        assert f"kind: {kind_of(cls)}" in text


ASKS_FOR = {
    "infinite": ["schedule.cooldown_steps=100"],
    "infinite_sqrt": ["schedule.cooldown_steps=100"],
    "sequence": ["schedule.phases.stable.duration_steps=100"],
}
"""Group files that cannot know a duration."""


def test_every_group_file_serves_a_run():
    for group in ("optimizer", "schedule", "accelerator", "callbacks"):
        for path in (configs_dir() / group).glob("*.yaml"):
            load_run_config("gptj_tiny", [f"{group}={path.stem}", *ASKS_FOR.get(path.stem, [])])


def test_every_value_of_every_schedule_option_is_used_by_a_shipped_yaml():
    text = "".join(path.read_text() for path in (configs_dir() / "schedule").glob("*.yaml"))
    text += (configs_dir() / "continuous_pretraining" / "params_gptj_6B_TRC2.yaml").read_text()
    for written in (
        *("decay_shape: one_minus_sqrt", "decay_shape: cosine", "cooldown_shape: cosine", "initial_lr_ratio: "),
        *("cooldown_shape: inverse_sqrt", "may_outlast_run: true"),
    ):
        assert written in text, written


def test_a_config_of_another_verb_is_told_to_be_one():
    with pytest.raises(UserError, match="no run, but a config of another command: modelzoo compare compare/tokenizers"):
        load_run_config("compare/tokenizers")
