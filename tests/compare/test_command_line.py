"""A study from what is typed."""

import pytest

from modelzoo.base_config import UserError
from modelzoo.compare.arms import compose_arms
from modelzoo.compare.command_line import is_study, study_of_runs


def test_two_runs_are_two_arms_that_may_differ_in_their_model(tmp_path):
    study = study_of_runs(["gptj_tiny", "gpt_neox_tiny"], ["optimizer.lr=1e-3"], seeds=[5])
    assert list(study.arms) == ["gptj_tiny", "gpt_neox_tiny"]
    assert study.name == "gptj_tiny_vs_gpt_neox_tiny"
    assert (study.overrides, study.may_differ, study.seeds) == (("optimizer.lr=1e-3",), ("model.*",), (5,))


def test_a_config_against_itself_is_two_arms():
    assert list(study_of_runs(["gptj_tiny", "gptj_tiny"], []).arms) == ["gptj_tiny", "gptj_tiny_2"]


def test_a_sweep_in_hydras_grammar_makes_an_arm_of_each_point():
    study = study_of_runs(
        ["gptj_tiny"], ["optimizer.lr=1e-4,3e-4", "model.activation=choice(gelu,gelu_tanh)", "data.seq_len=64"]
    )
    assert list(study.arms) == [
        "lr_0.0001-activation_gelu", "lr_0.0001-activation_gelu_tanh", "lr_0.0003-activation_gelu",
        "lr_0.0003-activation_gelu_tanh",
    ]  # fmt: skip
    assert study.overrides == ("data.seq_len=64",)
    assert study.may_differ == ("optimizer.lr*", "model.activation*")
    assert [arm.config.optimizer.lr for arm in compose_arms(study)] == [1e-4, 1e-4, 3e-4, 3e-4]
    assert {arm.config.model.activation for arm in compose_arms(study)} == {"gelu", "gelu_tanh"}


def test_a_sweep_over_files_of_a_group_and_over_runs():
    study = study_of_runs(["gptj_tiny", "gpt_neox_tiny"], ["schedule=cosine,linear"])
    assert list(study.arms) == [
        "gptj_tiny-schedule_cosine", "gptj_tiny-schedule_linear", "gpt_neox_tiny-schedule_cosine",
        "gpt_neox_tiny-schedule_linear",
    ]  # fmt: skip
    assert study.may_differ == ("model.*", "schedule.*")


@pytest.mark.parametrize(
    ("names", "overrides", "message"),
    [
        (["gptj_tiny"], [], "alone is nothing to compare"),
        (["gptj_tiny"], ["optimizer.lr=1e-4,"], "is not an override"),
        (["gptj_tiny"], ["model.num_layers=range(1,100000000)"], "has more than 64 values"),
        (["gptj_tiny"], ["model.num_layers=range(1,9)", "data.seq_len=range(1,11)"], "has 80 arms; use at most 64"),
        (["gptj_tiny"], ["optimizer.lr=interval(1e-4,1e-2)"], "is not an override"),
        (["gptj_tiny"], ["seed=0,1"], "seed: cannot be swept"),
        (["gptj_tiny"], ["trainer.max_steps=10,20"], "--budget the length"),
    ],
)
def test_what_is_no_study_is_refused(names, overrides, message):
    with pytest.raises(UserError, match=message):
        study_of_runs(names, overrides)


def test_a_sweep_keeps_how_its_key_was_written():
    study = study_of_runs(["gptj_tiny"], ["+callbacks.evaluate.batch_size=8,16"])
    assert [arm.overrides for arm in study.used_arms.values()] == [
        ("+callbacks.evaluate.batch_size=8",), ("+callbacks.evaluate.batch_size=16",),
    ]  # fmt: skip


def test_a_study_is_known_by_its_keys(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\narmz: {a: {config: gptj_tiny}}\nseeds: [1]\n")
    assert is_study(str(path))  # so that its own schema names the mistake
    assert is_study("compare/gptj_vs_neox_tiny")
    assert not is_study("gptj_tiny")
