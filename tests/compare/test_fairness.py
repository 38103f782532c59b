"""What is not equal, and not what the study is about, is refused; what holds is written down."""

import json
import shutil

import pytest

from modelzoo.base_config import UserError
from modelzoo.compare.plan import base_sha256, make_plan
from modelzoo.run_config import load_run_config
from tests.compare.studies import small_study
from tests.runs import write_dataset


def plan_of(study):
    return make_plan(study, ["modelzoo compare small"])


def test_a_fair_study_says_what_holds(dataset, tmp_path):
    checks = {check.check: check for check in plan_of(small_study(dataset, tmp_path, seeds=[0, 1, 2])).checks}
    assert all(check.held for check in checks.values())
    assert "model.tied_norm" in checks["nothing differs but what the study is about"].detail
    assert checks["same budget in tokens"].detail == "2,304 tokens"
    assert "at most 0.25% apart" in checks["parameters alike (all)"].detail


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("optimizer.lr=1e-4", "optimizer.lr"),
        ("optimizer.betas=[0.9,0.99]", "optimizer.betas"),
        ("data.seq_len=20", "data.seq_len"),
        ("trainer.global_batch_size=4", "trainer.global_batch_size"),
        ("trainer.gradient_clip_norm=null", "trainer.gradient_clip_norm"),
        ("accelerator.precision=bf16", "accelerator.precision"),
        ("schedule.warmup_steps=5", "schedule.warmup_steps"),
    ],
)
def test_another_difference_is_refused_by_its_key(override, key, dataset, tmp_path):
    arms = {"gptj": {"config": "gptj_tiny"}, "neox": {"config": "gpt_neox_tiny", "overrides": [override]}}
    with pytest.raises(UserError, match=rf"not be fair:\n    {key}: .* in neox, .* in gptj") as error:
        plan_of(small_study(dataset, tmp_path, arms=arms))
    assert "may_differ" in str(error.value)


def test_a_pattern_allows_what_the_study_is_about_and_nothing_else(dataset, tmp_path):
    arms = {
        "a": {"config": "gptj_tiny"},
        "b": {"builds_on": "a", "overrides": ["optimizer.lr=1e-4", "optimizer.weight_decay=0.3"]},
    }
    with pytest.raises(UserError) as error:
        plan_of(small_study(dataset, tmp_path, arms=arms, may_differ=["optimizer.lr"]))
    assert "optimizer.weight_decay" in str(error.value)
    assert "optimizer.lr:" not in str(error.value)
    plan = plan_of(small_study(dataset, tmp_path, arms=arms, may_differ=["optimizer.*"]))
    rates = next(check for check in plan.checks if check.check == "learning rates")
    assert not rates.held


@pytest.mark.parametrize(
    ("override", "pattern", "check"),
    [
        ("trainer.global_batch_size=16", "trainer.global_batch_size", "same global batch in tokens"),
        ("trainer.global_batch_size=16", "trainer.global_batch_size", "same documents in the same order"),
        ("data.seq_len=12", "data.seq_len", "same documents in the same order"),
        ("data.shuffle=false", "data.*", "same documents in the same order"),
        ("data.isolate_documents=true", "data.*", "same documents in the same order"),
        ("trainer.skip_batches=[[1,2]]", "trainer.*", "same documents in the same order"),
        ("data.train.packing=best_fit", "data.train.*", "same documents in the same order"),
        ("schedule.warmup_steps=0", "schedule.*", "same schedule in relative terms"),
        ("optimizer.lr=1e-4", "optimizer.*", "learning rates"),
    ],
)
def test_what_the_study_is_about_is_not_said_to_be_the_same(override, pattern, check, dataset, tmp_path):
    arms = {"a": {"config": "gptj_tiny"}, "b": {"builds_on": "a", "overrides": [override]}}
    plan = plan_of(small_study(dataset, tmp_path, arms=arms, may_differ=[pattern]))
    assert not next(each for each in plan.checks if each.check == check).held


def test_a_mixture_and_packing_of_other_tokenizers_are_refused(dataset, tmp_path):
    other = other_text(dataset, tmp_path, lambda manifest: None)
    common = [*small_study(dataset, tmp_path).overrides, "data.shuffle=false", "data.train.packing=best_fit"]
    arms = {"a": {"config": "gptj_tiny"}, "b": {"builds_on": "a", "overrides": other}}
    with pytest.raises(UserError, match="best_fit orders documents by their tokens"):
        plan_of(small_study(dataset, tmp_path, arms=arms, overrides=common, may_differ=["data.*"]))


def test_what_would_fail_after_the_training_fails_before(dataset, tmp_path):
    study = small_study(dataset, tmp_path)
    with pytest.raises(UserError, match="hidden_size"):
        plan_of(small_study(dataset, tmp_path, speed={"overrides": ["model.hiden_size=3"]}))
    for more, message in (
        ("~callbacks.checkpoint", "has none of the kind checkpoint"),
        (
            "+callbacks.stop={kind: early_stop, metric: validation_loss, patience: 2}",
            "early_stop would end a run before its budget",
        ),
    ):
        kept = [o for o in study.overrides if "checkpoint" not in o or more.startswith("+")]
        with pytest.raises(UserError, match=message):
            plan_of(small_study(dataset, tmp_path, overrides=[*kept, more]))


def test_models_of_other_sizes_are_refused_with_their_numbers(dataset, tmp_path):
    arms = {"a": {"config": "gptj_tiny"}, "b": {"builds_on": "a", "overrides": ["model.num_layers=3"]}}
    with pytest.raises(UserError, match=r"parameters \(all\): .*\+\d+\.\d\d%, and parameters.within is 2.00%"):
        plan_of(small_study(dataset, tmp_path, arms=arms))


def test_a_rung_is_compared_with_the_one_below_and_a_side_rung_with_where_it_leaves(dataset, tmp_path):
    arms = {
        "a": {"config": "gptj_tiny"},
        "b": {"builds_on": "a", "overrides": ["model.tied_norm=false"]},
        "c": {"builds_on": "b", "overrides": ["model.activation=gelu"]},
        "side": {"builds_on": "a", "overrides": ["model.lm_head_bias=false"]},
    }
    plan = plan_of(small_study(dataset, tmp_path, arms=arms))
    content = plan.to_json([], [])
    assert [(arm["name"], arm["against"]) for arm in content["arms"]] == [
        ("a", None), ("b", "a"), ("c", "b"), ("side", "a"),
    ]  # fmt: skip
    assert [arm["differences"] for arm in content["arms"]] == [
        [], [["model.tied_norm", True, False]], [["model.activation", "gelu_tanh", "gelu"]],
        [["model.lm_head_bias", True, False]],
    ]  # fmt: skip


def other_text(dataset, tmp_path, change):
    """A copy of a dataset whose manifest has been changed, as another tokenizer's dataset of one corpus would be."""
    copy = tmp_path / "other"
    shutil.copytree(dataset, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return [f"data.train.path={copy}", f"data.validation.path={copy}"]


def test_datasets_of_one_text_are_compared_in_the_order_in_which_they_are_stored(dataset, tmp_path):
    overrides = other_text(dataset, tmp_path, lambda manifest: None)
    arms = {"a": {"config": "gptj_tiny"}, "b": {"builds_on": "a", "overrides": overrides}}
    study = small_study(dataset, tmp_path, arms=arms, may_differ=["data.train.path", "data.validation.path"])
    with pytest.raises(UserError, match=r"data\.shuffle=false"):
        plan_of(study)
    in_order = study.model_copy(update={"overrides": (*study.overrides, "data.shuffle=false")})
    check = next(c for c in plan_of(in_order).checks if c.check == "same documents in the same order")
    assert "several tokenizers" in check.detail


def drop_a_document(manifest):
    manifest["splits"]["validation"]["num_documents"] -= 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["inputs"][0].update(sha256="0" * 64), "are not of the same files"),
        (lambda m: m["settings"].update(fraction=0.5), r"different settings \(fraction\)"),
        (drop_a_document, "preprocess both alike"),
    ],
)
def test_datasets_of_other_text_are_refused(change, reason, dataset, tmp_path):
    overrides = other_text(dataset, tmp_path, change)
    arms = {"a": {"config": "gptj_tiny"}, "b": {"builds_on": "a", "overrides": overrides}}
    common = [*small_study(dataset, tmp_path).overrides, "data.shuffle=false"]
    study = small_study(dataset, tmp_path, arms=arms, overrides=common, may_differ=["data.*"])
    with pytest.raises(UserError, match=reason):
        plan_of(study)


def test_held_out_text_is_needed(dataset, tmp_path):
    overrides = [*small_study(dataset, tmp_path).overrides, "data.validation=null", "~callbacks.evaluate"]
    overrides = [each for each in overrides if not each.startswith(("data.validation.path", "callbacks.evaluate"))]
    with pytest.raises(UserError, match=r"data\.validation: is null in every arm"):
        plan_of(small_study(dataset, tmp_path, overrides=overrides))


def test_few_seeds_and_seeds_apart_are_said(dataset, tmp_path):
    def seeds(study):
        return next(check for check in plan_of(study).checks if check.check == "same seeds")

    assert not seeds(small_study(dataset, tmp_path)).held  # two
    arms = {"a": {"config": "gptj_tiny"}, "b": {"config": "gptj_tiny", "seed_offset": 100}}
    apart = seeds(small_study(dataset, tmp_path, arms=arms, seeds=[0, 1, 2]))
    assert not apart.held
    assert "not paired: moved in b by 100" in apart.detail


def test_the_weights_of_a_base_are_in_the_hash(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    config = load_run_config("gptj_tiny", [f"continue_from={tmp_path}"])
    before = base_sha256(config)
    weights.write_bytes(b"another")
    assert base_sha256(config) != before


def test_the_hash_of_a_run_follows_config_data_and_code(dataset, tmp_path, monkeypatch):
    study = small_study(dataset, tmp_path)
    first = plan_of(study).runs({})
    assert len({run.sha256 for run in first}) == len(first) == 4
    again = plan_of(small_study(dataset, tmp_path, name="other_name")).runs({})
    assert [run.sha256 for run in again] == [run.sha256 for run in first]
    rate = [*study.overrides, "optimizer.lr=1e-3"]
    assert not {r.sha256 for r in plan_of(small_study(dataset, tmp_path, overrides=rate)).runs({})} & {
        r.sha256 for r in first
    }
    other = write_dataset(tmp_path / "second", seed=1)
    shutil.copy(other / "manifest.json", tmp_path / "kept.json")
    paths = [*study.overrides, f"data.train.path={other}", f"data.validation.path={other}"]
    before = plan_of(small_study(dataset, tmp_path, overrides=paths)).runs({})[0].sha256
    (other / "manifest.json").write_text((other / "manifest.json").read_text() + "\n")
    assert plan_of(small_study(dataset, tmp_path, overrides=paths)).runs({})[0].sha256 != before
    monkeypatch.setattr("modelzoo.compare.plan.code_sha256", lambda parts=(): "other code")
    assert plan_of(study).runs({})[0].sha256 != first[0].sha256
