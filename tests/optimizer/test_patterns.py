"""Parameters by pattern: what is frozen stays, what is scaled learns so much slower, and no pattern is for nothing."""

import pytest
import torch

from modelzoo.base_config import UserError
from modelzoo.cli.show import run_facts
from modelzoo.cli.train import run
from modelzoo.config_errors import ConfigError
from modelzoo.config_files import shipped_names
from modelzoo.model.gpt import GPT
from modelzoo.model.parameters import depth_of, parameter_shapes
from modelzoo.optimizer.patterns import matches
from modelzoo.run_config import load_run_config
from modelzoo.trainer.callbacks.metrics import read_metrics
from modelzoo.trainer.checkpoint import latest_checkpoint, read_tensors
from tests.runs import launch, small_config, small_overrides

FROZEN = ["blocks.0", "embedding", "blocks.*.norm_1.bias"]
OF_TWO_BLOCKS = f"optimizer.frozen=[{','.join(FROZEN)}]"


@pytest.mark.parametrize("name", shipped_names())
def test_the_names_that_patterns_are_checked_against_are_the_models(name):
    config = load_run_config(name).model
    with torch.device("meta"):
        model = GPT(config)
    assert list(parameter_shapes(config).items()) == [(n, tuple(p.shape)) for n, p in model.named_parameters()]


def test_a_pattern_means_a_parameter_or_a_module_that_holds_it():
    assert matches("embedding", "embedding.weight")
    assert not matches("embedding", "position_embedding.weight")
    assert matches("*embedding", "position_embedding.weight")
    assert matches("blocks.1", "blocks.1.mlp.fc_in.bias")
    assert not matches("blocks.1", "blocks.10.mlp.fc_in.bias")
    assert matches("blocks.[0-3]", "blocks.3.norm_1.weight")
    assert not matches("blocks.[0-3]", "blocks.4.norm_1.weight")
    assert matches("blocks.*.fc_in.weight", "blocks.27.mlp.fc_in.weight")


# ------------------------------------------------------------------ groups


def group_of(config, name="peak_lr"):
    with torch.device("meta"):
        model = GPT(config.model)
    depths = {n: depth_of(n, config.model.num_layers) for n, _ in model.named_parameters()}
    groups = config.optimizer.groups(model.named_parameters(), model.lr_multipliers(), depths)
    listed = [n for group in groups for n in group["names"]]
    assert sorted(listed) == sorted(depths)  # each in exactly one
    return {n: group[name] for group in groups for n in group["names"]}


def test_each_layer_learns_slower_than_the_next():
    config = load_run_config("gpt2_tiny", ["optimizer=adamw_layerwise", "optimizer.lr=1e-3", "model.num_layers=2"])
    rates = group_of(config)
    expected = {"embedding.weight": 3, "position_embedding.weight": 3, "blocks.0.mlp.fc_in.weight": 2,
                "blocks.1.norm_2.bias": 1, "final_norm.weight": 0}  # fmt: skip
    assert {n: rates[n] for n in expected} == pytest.approx({n: 1e-3 * 0.9**power for n, power in expected.items()})
    untied = load_run_config("gptj_tiny", ["optimizer=adamw_layerwise", "optimizer.lr=1e-3"])
    assert group_of(untied)["lm_head.weight"] == pytest.approx(1e-3)


def test_scales_multiply_what_mup_and_the_layers_give_and_decay_follows_muP_alone():
    overrides = ["optimizer=adamw_slow_embedding", "optimizer.lr=1e-3", "optimizer.weight_decay=0.1"]
    overrides += ["optimizer.layerwise_lr_decay=0.5", "optimizer.lr_scale.lm_head=3", "model.num_layers=2"]
    config = load_run_config("params_gptj_6B_muP", overrides)  # twice the base width
    rates, decays = group_of(config), group_of(config, "weight_decay")
    assert rates["embedding.weight"] == pytest.approx(1e-3 * 0.5**3 * 0.1)
    assert rates["blocks.0.mlp.fc_in.weight"] == pytest.approx(1e-3 * 0.5**2 / 2)
    assert rates["blocks.0.norm_1.weight"] == pytest.approx(1e-3 * 0.5**2)
    assert rates["lm_head.weight"] == pytest.approx(3e-3)
    assert decays["embedding.weight"] == 0.0  # no_weight_decay
    assert decays["blocks.0.mlp.fc_in.weight"] == pytest.approx(0.2)  # as without layerwise_lr_decay
    assert decays["lm_head.weight"] == pytest.approx(0.1)


def test_a_scale_that_an_included_file_brings_can_be_dropped():
    config = load_run_config("gptj_tiny", ["optimizer=adamw_slow_embedding", "optimizer.lr_scale={*embedding:null}"])
    assert set(group_of(config).values()) == {config.optimizer.lr}


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.frozen=[embeding]"], "matches no parameter; did you mean embedding"),
        (["optimizer.frozen=[block.*.mlp]"], "did you mean blocks.*.mlp?"),
        (["optimizer.frozen=[embedding,'blocks.[4-9]']"], "position_embedding, final_norm, blocks.0 … blocks.3"),
        (["optimizer.frozen=[lm_head]"], "the head is the embedding here"),
        (["optimizer.frozen=['*']"], "nothing is left to train"),
        (["optimizer.no_weight_decay=[norms]"], "optimizer.no_weight_decay.0 = 'norms'"),
        (["optimizer.lr_scale={blocks.*.mpl: 2}"], "did you mean blocks.*.mlp?"),
        (["optimizer.lr_scale={blocks.*.mlp: 2, blocks.0: 3}"], "which of the two holds?"),
        (["optimizer.lr_scale={embedding: 2}", "optimizer.frozen=[embedding]"], "all that it matches is frozen"),
        (["optimizer.lr_scale={embedding: 0}"], "greater than 0"),
        (["optimizer.lr_scale={embedding: 100}"], "33.3 or less"),
        (["optimizer.layerwise_lr_decay=1.1"], "less than or equal to 1"),
    ],
)  # fmt: skip
def test_a_pattern_for_nothing_is_an_error_before_torch(overrides, message):
    with pytest.raises(ConfigError) as error:
        load_run_config("gpt2_tiny", overrides)
    assert message in str(error.value)
    assert "1 problem" in str(error.value)


def test_a_pattern_in_a_file_is_found_by_its_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = "defaults:\n  - gpt2_tiny\n  - _self_\nname: mine\noptimizer:\n  frozen:\n  - embedding\n  - haed\n"
    (tmp_path / "mine.yaml").write_text(body + "  lr_scale:\n    blocks.?.mlpp: 0.1\n")
    with pytest.raises(UserError) as error:
        load_run_config("mine.yaml")
    assert "mine.yaml:8: optimizer.frozen.1 = 'haed'" in str(error.value)
    assert "mine.yaml:10: optimizer.lr_scale.blocks.?.mlpp = 0.1" in str(error.value)


# ------------------------------------------------------------------ what is frozen


def test_show_counts_gradients_and_optimizer_state_of_what_is_trained():
    config = load_run_config("gpt2_tiny", ["optimizer.frozen=[embedding]"])
    facts = run_facts(config)
    embedding = 4096 * 192
    assert facts["parameters_trained"] == facts["parameters"] - embedding
    assert facts["bytes"]["weights"] == 4 * facts["parameters"]
    assert facts["bytes"]["gradients"] == 4 * (facts["parameters"] - embedding)
    assert facts["bytes"]["optimizer"] == 8 * (facts["parameters"] - embedding)
    assert "the head too" in facts["notes"][0]
    assert "the head too" not in load_run_config("gptj_tiny", ["optimizer.frozen=[embedding]"]).notes()[0]
    assert load_run_config("gptj_tiny").notes() == []


def frozen_names(names):
    return {n for n in names if any(matches(pattern, n) for pattern in FROZEN)}


@pytest.mark.parametrize("how", ["none", "full"])
def test_what_is_frozen_stays_bit_for_bit_and_has_no_state(dataset, tmp_path, how):
    overrides = [OF_TWO_BLOCKS, f"accelerator.activation_checkpointing={how}", "optimizer.lr=0.01"]
    config = small_config(dataset, tmp_path, *overrides, "callbacks.checkpoint.every_steps=5", "trainer.max_steps=10")
    trainer = launch(config)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert trainer.train()
    folder, _ = latest_checkpoint(trainer.run_dir)
    saved, state = read_tensors(folder, "model"), read_tensors(folder, "optimizer")
    frozen = frozen_names(before)
    assert len(frozen) == 1 + 8 + 1  # the embedding, GPT-J's first block, a bias of the second
    assert saved.keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(value, saved[name]) == (name in frozen), name
    assert {label.split("/")[1] for label in state} == before.keys() - frozen


def test_a_frozen_gradient_is_not_in_the_norm_that_clipping_bounds(dataset, tmp_path):
    trainer = launch(small_config(dataset, tmp_path, OF_TWO_BLOCKS, "trainer.gradient_clip_norm=null"))
    whole = launch(small_config(dataset, tmp_path, "name=whole", "trainer.gradient_clip_norm=null"))
    kept = {}
    whole.optimizer.register_step_pre_hook(
        lambda *_: kept.update({n: p.grad.clone() for n, p in whole.model.named_parameters()})
    )
    all_of_it = whole.update()["gradient_norm"]
    trained = torch.stack([g.norm() for n, g in kept.items() if n not in frozen_names(kept)]).norm().item()
    assert trainer.update()["gradient_norm"] == pytest.approx(trained, rel=1e-5)
    assert trained < 0.99 * all_of_it


def test_a_resumed_run_with_frozen_parts_is_bit_identical_and_may_not_freeze_others(dataset, tmp_path):
    base = ["schedule=constant", "callbacks.checkpoint.every_steps=4"]
    overrides = [*base, OF_TWO_BLOCKS, "optimizer.layerwise_lr_decay=0.7"]
    whole = launch(small_config(dataset, tmp_path / "whole", *overrides, "trainer.max_steps=8"))
    whole.train()
    for steps in (4, 8):
        parts = launch(small_config(dataset, tmp_path / "parts", *overrides, f"trainer.max_steps={steps}"))
        assert parts.step == steps - 4
        parts.train()
    theirs = parts.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in whole.model.state_dict().items())
    other = [*base, "optimizer.layerwise_lr_decay=0.7", "optimizer.frozen=[embedding]", "trainer.max_steps=8"]
    with pytest.raises(UserError, match=r"optimizer\.frozen"):
        launch(small_config(dataset, tmp_path / "whole", *other))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "sizes"),  # untied and tied
    [("gptj_tiny", (2, 1, 1)), ("gptj_tiny", (1, 2, 2)), ("gpt2_tiny", (1, 2, 1)), ("gpt2_tiny", (1, 1, 2))],
    ids=str,
)
def test_ranks_that_share_a_model_with_frozen_parts_train_as_one_does(dataset, tmp_path, monkeypatch, name, sizes):
    """The embedding is frozen: what enters the first part that a rank gathers needs no gradient."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def trained(folder, sizes):
        split = [f"accelerator.{k}={v}" for k, v in zip(("replicate", "shard", "tensor"), sizes, strict=True)]
        without = ["~model.position.fraction"] if name == "gpt2_tiny" else []
        more = ["model.padded_vocab_size=276", "trainer.max_steps=6", "trainer.micro_batch_size=2", OF_TWO_BLOCKS]
        assert run(name, [*small_overrides(dataset, folder), *without, *more, *split])
        (run_dir,) = folder.iterdir()
        checkpoint, _ = latest_checkpoint(run_dir)
        numbers = [(r["loss"], r["gradient_norm"]) for r in read_metrics(run_dir / "metrics.jsonl") if "loss" in r]
        return numbers, read_tensors(checkpoint, "model"), read_tensors(checkpoint, "optimizer")

    numbers, weights, state = trained(tmp_path / "alone", (1, 1, 1))
    theirs, their_weights, their_state = trained(tmp_path / "ranks", sizes)
    for mine, other in zip(numbers, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-5)
    assert state.keys() == their_state.keys()
    assert weights.keys() == their_weights.keys()
    for name_of_weight in frozen_names(weights):
        assert torch.equal(weights[name_of_weight], their_weights[name_of_weight]), name_of_weight
