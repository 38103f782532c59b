"""Every weight's std as measured, and where the draws come from."""

import math
from typing import Any

import pytest
import torch

from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.model.init import init_stds, initialize

L, D, F, V = 3, 96, 160, 500
FIELDS: dict[str, Any] = {
    "num_layers": L,
    "num_heads": 4,
    "hidden_size": D,
    "ffn_size": F,
    "vocab_size": V,
    "padded_vocab_size": 512,
    "max_seq_len": 256,
    "tie_embeddings": False,
    "lm_head_bias": True,
}
OF_TRUNCATED = 0.87962566  # std of a unit normal truncated at ±2

STDS = {
    "gpt2": {
        "embedding": 0.02,
        "position_embedding": 0.01,
        "qkv": 0.02,
        "out": 0.02 / math.sqrt(6),
        "fc_in": 0.02,
        "fc_out": 0.02 / math.sqrt(6),
        "lm_head": 0.02,
    },
    "mesh_jax": {
        "embedding": V**-0.5 * OF_TRUNCATED,
        "position_embedding": V**-0.5 * OF_TRUNCATED,
        "qkv": D**-0.5 * OF_TRUNCATED,
        "out": 2 / L * D**-0.5 * OF_TRUNCATED,
        "fc_in": D**-0.5 * OF_TRUNCATED,
        "fc_out": 2 / L * D**-0.5 * OF_TRUNCATED,
        "lm_head": D**-0.5 * OF_TRUNCATED,
    },
    "small_wang": {
        "embedding": math.sqrt(2 / (5 * D)),
        "position_embedding": math.sqrt(2 / (5 * D)),
        "qkv": math.sqrt(2 / (5 * D)),
        "out": 2 / L * D**-0.5,
        "fc_in": math.sqrt(2 / (5 * D)),
        "fc_out": 2 / L * D**-0.5,
        "lm_head": math.sqrt(2 / (5 * D)),
    },
}


def config(scheme: str, **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(FIELDS | {"init": {"scheme": scheme}} | changes)


def check(model: GPT, stds: dict[str, float]) -> None:
    seen = set()
    for name, parameter in model.named_parameters():
        module = name.split(".")[-2]
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in module:
            assert (parameter == 1).all(), name
        else:
            seen.add(module)
            assert parameter.std().item() == pytest.approx(stds[module], rel=0.03), name
            assert abs(parameter.mean().item()) < 0.03 * stds[module], name
    assert seen == stds.keys()


@pytest.mark.parametrize("scheme", STDS)
def test_measured_stds(scheme: str) -> None:
    model = GPT(config(scheme))
    check(model, STDS[scheme])
    if scheme == "mesh_jax":
        for block in model.blocks:
            assert block.attention.qkv.weight.abs().max() <= 2 * D**-0.5


@pytest.mark.parametrize("scheme", STDS)
def test_mup_stds(scheme: str) -> None:
    """Twice as wide as the base, with an MLP four times as wide: the base's stds times the rule's factors."""
    base = init_stds(config(scheme))
    mup = {"base_hidden_size": D, "base_ffn_size": F}
    wide = init_stds(config(scheme, hidden_size=2 * D, ffn_size=4 * F, mup=mup))
    factors = {"qkv": 2**-0.5, "out": 2**-0.5, "fc_in": 2**-0.5, "fc_out": 4**-0.5}
    assert wide == pytest.approx({name: std * factors.get(name, 1.0) for name, std in base.items()})


def test_mup_stds_of_gpt_j_at_its_base_width() -> None:
    size: dict[str, Any] = {"num_layers": 28, "num_heads": 8, "hidden_size": 2048, "ffn_size": 8192}
    mup = {"base_hidden_size": 2048, "base_ffn_size": 8192}
    stds = init_stds(config("mesh_jax", **size, mup=mup))
    assert stds["qkv"] == pytest.approx(0.0221, rel=1e-3)
    assert stds["out"] == pytest.approx(0.0118 * (2 * 28) ** -0.5, rel=2e-3)


def test_a_draw_depends_on_seed_and_name_alone() -> None:
    model, same, other = GPT(config("gpt2")), GPT(config("gpt2")), GPT(config("gpt2"), seed=1)
    deeper = GPT(config("gpt2", num_layers=L + 1, vocab_size=400)).state_dict()
    torch.manual_seed(123)
    with torch.device("meta"):
        late = GPT(config("gpt2"))
    assert all(p.is_meta for p in late.parameters())
    late = late.to_empty(device="cpu")
    initialize(late, late.config)
    for name, value in model.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
        assert torch.equal(value, late.state_dict()[name])
        if "weight" in name and "norm" not in name:
            assert not torch.equal(value, other.state_dict()[name])
    assert torch.equal(model.state_dict()["blocks.0.attention.qkv.weight"], deeper["blocks.0.attention.qkv.weight"])
    assert not torch.equal(model.blocks[0].mlp.fc_in.weight, model.blocks[1].mlp.fc_in.weight)
