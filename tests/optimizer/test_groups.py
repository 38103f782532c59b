"""Each parameter is in exactly one group, decayed or not, at the rate its parametrisation wants."""

import pytest
import torch

from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.optimizer.adamw import AdamWConfig
from modelzoo.optimizer.base import parameter_groups
from modelzoo.run_config import load_run_config


def groups_of(model_config: ModelConfig, lr=1e-3, weight_decay=0.1):
    with torch.device("meta"):
        model = GPT(model_config)
    return model, parameter_groups(model.named_parameters(), lr, weight_decay, model.lr_multipliers())


@pytest.mark.parametrize("name", ["gptj_tiny", "gpt_neox_tiny", "gpt2_tiny", "params_gptj_6B_muP"])
def test_each_parameter_is_in_exactly_one_group(name):
    model, groups = groups_of(load_run_config(name).model)
    listed = [n for group in groups for n in group["names"]]
    assert sorted(listed) == sorted(n for n, _ in model.named_parameters())
    assert sum(p.numel() for group in groups for p in group["params"]) == load_run_config(name).model.num_parameters()


def test_biases_and_norms_are_not_decayed_and_embeddings_and_head_are():
    _, groups = groups_of(load_run_config("gptj_tiny").model)
    decay = {name: group["weight_decay"] for group in groups for name in group["names"]}
    for name, value in decay.items():
        assert value == (0.0 if name.endswith("bias") or "norm" in name else 0.1), name
    assert decay["embedding.weight"] == decay["lm_head.weight"] == 0.1


def test_mup_scales_the_rate_of_hidden_matrices_only():
    _, groups = groups_of(load_run_config("params_gptj_6B_muP").model, lr=1e-3)  # twice the base width
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    hidden = ("qkv.weight", "out.weight", "fc_in.weight", "fc_out.weight")
    for name, rate in rates.items():
        assert rate == pytest.approx(5e-4 if name.endswith(hidden) else 1e-3), name


def test_each_step_takes_the_same_share_of_every_matrix_at_every_width():
    """AdamW takes lr · weight_decay of a weight: where muP divides the rate, the decay is multiplied."""
    _, groups = groups_of(load_run_config("params_gptj_6B_muP").model, lr=1e-3, weight_decay=0.1)
    decay = {name: group["weight_decay"] for group in groups for name in group["names"]}
    assert decay["blocks.0.mlp.fc_out.weight"] == decay["blocks.27.attention.qkv.weight"] == pytest.approx(0.2)
    assert decay["embedding.weight"] == decay["lm_head.weight"] == pytest.approx(0.1)
    for group in groups:
        assert group["lr"] * group["weight_decay"] in (0.0, pytest.approx(1e-4)), group["names"]


def test_frozen_parameters_are_left_out():
    model = GPT(load_run_config("gptj_tiny", ["model.num_layers=1"]).model)
    model.embedding.weight.requires_grad_(False)
    groups = parameter_groups(model.named_parameters(), 1e-3, 0.1, model.lr_multipliers())
    assert "embedding.weight" not in [name for group in groups for name in group["names"]]


@pytest.mark.parametrize("fused", [True, False])
def test_adamw_is_torchs_with_these_numbers(fused):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    config = AdamWConfig(lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.5)
    groups = parameter_groups([("w", weight)], config.lr, config.weight_decay, {"w": 1.0})
    optimizer = config.build(groups, fused=fused)
    reference = torch.nn.Parameter(torch.ones(2, 2))
    expected = torch.optim.AdamW([reference], lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.5)
    for _ in range(3):
        for parameter, optim in ((weight, optimizer), (reference, expected)):
            (parameter**3).sum().backward()
            optim.step()
            optim.zero_grad()
    assert torch.allclose(weight, reference, atol=1e-7)
    assert type(optimizer).__name__ == "AdamW"
    assert isinstance(optimizer, torch.optim.AdamW)
    assert not any(value.requires_grad for value in optimizer.state[weight].values())
    assert len(optimizer.state[weight]) == 3  # step and two moments: 8 bytes a parameter
    assert config.state_bytes_per_parameter == 8
