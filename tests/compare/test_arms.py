"""Arms: composed along their chain, brought to one size, budget and batch."""

import dataclasses

import pytest

from modelzoo.base_config import UserError
from modelzoo.compare.arms import compose_arms, fit_budget, fit_size
from tests.compare.studies import small_study


def arms_of(study, seconds=None):
    return {arm.name: arm for arm in fit_budget(study, fit_size(study, compose_arms(study)), seconds or {})}


def test_a_chain_adds_up_and_may_have_to_end_at_a_config(dataset, tmp_path):
    rungs = {
        "gptj": {"config": "gptj_tiny"},
        "untied": {"builds_on": "gptj", "overrides": ["model.tied_norm=false"]},
        "half": {"builds_on": "untied", "overrides": ["model.position.style=half"]},
        "bias": {"builds_on": "half", "overrides": ["model.attention_bias=true", "model.lm_head_bias=false"]},
        "gelu": {"builds_on": "bias", "overrides": ["model.activation=gelu"]},
        "init": {
            "builds_on": "gelu",
            "overrides": ["model.init.scheme=small_wang"],
            "equals": "gpt_neox_tiny",
        },
    }
    arms = arms_of(small_study(dataset, tmp_path, arms=rungs))
    assert arms["half"].config.model.tied_norm is False
    assert arms["init"].config.model == arms_of(small_study(dataset, tmp_path))["neox"].config.model
    rungs["gelu"]["equals"] = "gpt_neox_tiny"
    with pytest.raises(UserError, match=r"model.init.scheme: mesh_jax here, small_wang in gpt_neox_tiny"):
        compose_arms(small_study(dataset, tmp_path, arms=rungs))


def test_what_is_wrong_with_any_arm_is_said_of_all(dataset, tmp_path):
    wrong = {"a": {"config": "gptj_tiny", "overrides": ["model.tied_nrm=true"]}, "b": {"config": "gpt_neox_tny"}}
    with pytest.raises(UserError) as error:
        compose_arms(small_study(dataset, tmp_path, arms=wrong))
    assert "arm a: " in str(error.value)
    assert "tied_norm" in str(error.value)
    assert "arm b: gpt_neox_tny: neither" in str(error.value)


def test_a_budget_of_tokens_replaces_the_length_of_every_arm(dataset, tmp_path):
    study = small_study(dataset, tmp_path, budget={"unit": "tokens", "amount": 8 * 24 * 20})
    arms = arms_of(study)
    assert {arm.steps for arm in arms.values()} == {20}
    assert {arm.config.trainer.max_steps for arm in arms.values()} == {20}
    assert {arm.steps for arm in arms_of(small_study(dataset, tmp_path)).values()} == {12}  # the baseline's own


def test_a_budget_of_flops_gives_a_deeper_arm_fewer_updates_and_the_same_schedule_in_relative_terms(dataset, tmp_path):
    arms = {
        "gptj": {"config": "gptj_tiny"},
        "deep": {"builds_on": "gptj", "overrides": ["model.num_layers=8"]},
    }
    flops = 40 * 192 * arms_of(small_study(dataset, tmp_path))["gptj"].flops_per_token
    found = arms_of(small_study(dataset, tmp_path, arms=arms, budget={"unit": "flops", "amount": flops}))
    shallow, deep = found["gptj"], found["deep"]
    assert shallow.steps == 40
    assert deep.steps < 30
    assert abs(deep.flops / shallow.flops - 1) < 0.5 / deep.steps
    assert deep.config.schedule.warmup_steps == round(3 * deep.steps / 40) < shallow.config.schedule.warmup_steps == 3


def test_budgets_and_batches_in_bytes_count_the_text_and_not_the_tokens(dataset, tmp_path):
    study = small_study(dataset, tmp_path, batch="bytes", budget={"unit": "bytes", "amount": 20_000})
    base, other = fit_size(study, compose_arms(study))
    coarse = dataclasses.replace(other, bytes_per_token=2 * base.bytes_per_token)
    base, coarse = fit_budget(study, [base, coarse], {})
    assert coarse.config.trainer.global_batch_size == base.config.trainer.global_batch_size / 2 == 4
    assert coarse.steps == base.steps == round(20_000 / (192 * base.bytes_per_token))
    assert coarse.tokens == base.tokens / 2


def test_a_budget_of_seconds_goes_by_each_arms_own_speed(dataset, tmp_path):
    study = small_study(dataset, tmp_path, budget={"unit": "seconds", "amount": 10})
    arms = arms_of(study, {"gptj": 0.1, "neox": 0.2})
    assert (arms["gptj"].steps, arms["neox"].steps) == (100, 50)


def test_a_wider_mlp_makes_up_for_what_another_arm_has_more(dataset, tmp_path):
    arms = {
        "gptj": {"config": "gptj_tiny"},
        "shallow": {"builds_on": "gptj", "overrides": ["model.num_layers=1"]},
    }
    rule = {"count": "without_embeddings", "within": 0.03, "adjust_ffn_size": True}
    found = arms_of(small_study(dataset, tmp_path, arms=arms, parameters=rule))
    shallow, base = found["shallow"], found["gptj"]
    assert shallow.ffn_size_was == 128
    assert shallow.config.model.ffn_width > 256
    sizes = [arm.parameters("without_embeddings") for arm in (shallow, base)]
    assert abs(sizes[0] / sizes[1] - 1) < 0.03


def test_an_epoch_is_no_budget_and_bytes_need_their_text(dataset, tmp_path):
    study = small_study(dataset, tmp_path)
    epochs = [*study.overrides, "trainer.max_steps=null", "trainer.max_epochs=1"]
    with pytest.raises(UserError, match=r"budget\.amount"):
        arms_of(small_study(dataset, tmp_path, overrides=epochs))
    absent = [*study.overrides, "data.train.path=nowhere"]
    with pytest.raises(UserError, match=r"needs data\.train to be one dataset of plain text"):
        arms_of(small_study(dataset, tmp_path, overrides=absent, budget={"unit": "bytes", "amount": 1e5}))


def test_overrides_that_would_be_ignored_are_refused(dataset, tmp_path):
    study = small_study(dataset, tmp_path)
    with pytest.raises(UserError, match=r"overrides: seed=3: is decided by the study's seeds"):
        compose_arms(small_study(dataset, tmp_path, overrides=[*study.overrides, "seed=3"]))
    arms = {"a": {"config": "gptj_tiny"}, "b": {"config": "gptj_tiny", "overrides": ["trainer.max_steps=3", "name=x"]}}
    with pytest.raises(UserError) as error:
        compose_arms(small_study(dataset, tmp_path, arms=arms))
    assert "arms.b.overrides: trainer.max_steps=3: the length of every run comes from the study's budget" in str(error)
    assert "arms.b.overrides: name=x: is decided by the study's name" in str(error.value)


def test_a_batch_in_bytes_stays_a_multiple_of_what_it_is_made_of(dataset, tmp_path):
    common = [*small_study(dataset, tmp_path).overrides, "trainer.micro_batch_size=4"]
    study = small_study(dataset, tmp_path, batch="bytes", overrides=common)
    base, other = fit_size(study, compose_arms(study))
    _, fine = fit_budget(study, [base, dataclasses.replace(other, bytes_per_token=0.75 * base.bytes_per_token)], {})
    assert fine.config.trainer.global_batch_size == 12  # 10 or 11 would be nearer
