"""Checks of ModelConfig, and the sizes it predicts."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT

SMALL = {"num_layers": 2, "num_heads": 4, "hidden_size": 64, "vocab_size": 100, "max_seq_len": 32}
GPT_J = {
    "parallel_residual": True,
    "tied_norm": True,
    "position": {"kind": "rotary", "fraction": 0.25},
    "attention_bias": False,
    "lm_head_bias": True,
    "tie_embeddings": False,
}
NEOX = {
    "parallel_residual": True,
    "position": {"kind": "rotary", "style": "half", "fraction": 0.25},
    "tie_embeddings": False,
}


def config(**changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(SMALL | changes)


def sized(layers: int, width: int, heads: int, vocab: int, length: int) -> dict[str, int]:
    return {
        "num_layers": layers,
        "hidden_size": width,
        "num_heads": heads,
        "vocab_size": vocab,
        "max_seq_len": length,
    }


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        (sized(12, 768, 12, 50257, 1024), 124_439_808),  # GPT-2
        (sized(28, 4096, 16, 50257, 2048) | {"padded_vocab_size": 50400} | GPT_J, 6_050_882_784),  # GPT-J 6B
        (sized(44, 6144, 64, 50277, 2048) | {"padded_vocab_size": 50432} | NEOX, 20_554_567_680),  # NeoX 20B
        (sized(12, 768, 12, 50277, 2048) | {"padded_vocab_size": 50304} | NEOX, 162_322_944),  # Pythia 160M
    ],
    ids=["gpt2", "gptj", "neox", "pythia"],
)
def test_parameters_of_released_models(fields: dict[str, Any], parameters: int) -> None:
    model_config = ModelConfig.model_validate(fields)
    with torch.device("meta"):
        model = GPT(model_config)
    assert sum(p.numel() for p in model.parameters()) == model_config.num_parameters() == parameters


@pytest.mark.parametrize("change", [{}, {"ffn_size": 10}, {"position": {"kind": "none"}}, GPT_J, NEOX], ids=str)
def test_parameters_by_part(change: dict[str, Any]) -> None:
    model_config = config(padded_vocab_size=128, **change)
    with torch.device("meta"):
        model = GPT(model_config)
    real = dict.fromkeys(("embedding", "blocks", "head"), 0)
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        real[{"position_embedding": "embedding"}.get(part, part if part in real else "head")] += parameter.numel()
    assert model_config.parameter_counts() == real
    norm = sum(p.numel() for p in model.final_norm.parameters())
    assert model_config.num_non_embedding() == real["blocks"] + norm


@pytest.mark.parametrize("change", [{}, GPT_J, NEOX, {"ffn_size": 10, "padded_vocab_size": 128}], ids=str)
def test_flops(change: dict[str, Any]) -> None:
    model_config = config(**change)
    model, counter = GPT(model_config), FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # fused kernels recompute the scores in their backward pass
        model(torch.zeros(3, 17, dtype=torch.long)).sum().backward()
    assert counter.get_total_flops() == pytest.approx(3 * 17 * model_config.flops_per_token(17), rel=0.01)


SINUSOIDAL = {"unrotated": "sinusoidal"}


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        ({"num_heads": 7}, "num_heads", "num_heads=7 does not divide hidden_size=64; use 4 or 8"),
        ({"num_heads": 100}, "num_heads", "use 64"),
        ({"tied_norm": True}, "tied_norm", "needs parallel_residual=true"),
        ({"lm_head_bias": True}, "lm_head_bias", "needs tie_embeddings=false"),
        ({"padded_vocab_size": 99}, "padded_vocab_size", "below vocab_size=100; use 100 or more"),
        (
            {"num_heads": 1, "position": {"kind": "rotary", "fraction": 0.3}},
            "position.fraction",
            "fraction=0.3 with head_dim=64 gives rotary_dim=19, which is odd; use 0.28125 (18) or 0.3125 (20)",
        ),
        (
            {"position": {"kind": "rotary", "fraction": 0.01}},
            "position.fraction",
            "fraction=0.01 with head_dim=16 gives rotary_dim=0, which is zero; use 0.125 (2)",
        ),
        (
            {"num_heads": 64, "position": {"kind": "rotary"}},
            "position.fraction",
            "head_dim=1 gives rotary_dim=1, which is odd; use fewer heads",
        ),
        (
            {"position": {"kind": "rotary", "unrotated": "sinusoidal"}},
            "position.unrotated",
            "unrotated=sinusoidal with head_dim=16 and 0 channels that are not rotated: fraction=1.0 leaves no channel",
        ),
        (
            {"num_heads": 2, "hidden_size": 26, "position": {"kind": "rotary", "fraction": 0.31} | SINUSOIDAL},
            "position.unrotated",
            "head_dim=13 and 9 channels that are not rotated: an odd number of channels has no pairs; use an even",
        ),
    ],
    ids=str,
)
def test_problems_between_fields(change: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**change)
    (problem,) = caught.value.errors()[0]["ctx"]["problems"]
    assert ".".join(problem.path) == path
    assert message in problem.message


def test_all_problems_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        config(num_heads=7, tied_norm=True, lm_head_bias=True, padded_vocab_size=3)
    assert len(caught.value.errors()[0]["ctx"]["problems"]) == 4


@pytest.mark.parametrize("head_dim", [3, 7, 10, 64, 96, 100])
def test_suggested_fractions_work(head_dim: int) -> None:
    for fraction in (0.011, 0.29, 0.3, 0.55, 0.99, 1.0):
        heads = {"num_heads": 1, "hidden_size": head_dim}
        try:
            config(**heads, position={"kind": "rotary", "fraction": fraction})
        except ValidationError as error:
            message = error.errors()[0]["ctx"]["problems"][0].message
            choices = message.split("; use ")[1].split(" or ")
            assert choices
            for choice in choices:
                value, rotary_dim = choice.rstrip(")").split(" (")
                chosen = config(**heads, position={"kind": "rotary", "fraction": float(value)})
                assert chosen.position.rotary_dim(head_dim) == int(rotary_dim)


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": 0},
        {"num_heads": 0},
        {"hidden_size": -64},
        {"ffn_size": 0},
        {"vocab_size": 0},
        {"padded_vocab_size": 0},
        {"max_seq_len": 0},
        {"norm_eps": -1.0},
        {"norm_eps": 0.0},
        {"norm_eps": 1.0},
        {"norm_eps": float("nan")},
        {"dropout": 1.0},
        {"dropout": 5.0},
        {"dropout": -0.1},
        {"activation": "relu"},
        {"hidden_size": "64"},
        {"hidden_size": 64.0},
        {"tied_norm": 1},
        {"num_layer": 2},
        {"init": {"scheme": "xavier"}},
        {"position": {"kind": "alibi"}},
        {"position": {"kind": "learned", "fraction": 0.5}},
        {"position": {"kind": "rotary", "fraction": 0.0}},
        {"position": {"kind": "rotary", "fraction": 1.5}},
        {"position": {"kind": "rotary", "theta": 0.0}},
        {"position": {"kind": "rotary", "style": "gptj"}},
        {"mup": {}},
        {"mup": {"base_hidden_size": 0, "base_ffn_size": 4}},
        {"mup": {"base_hidden_size": 1, "base_ffn_size": 4, "embeddings_scale": 0.0}},
    ],
    ids=str,
)
def test_nonsense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**change)


def test_no_torch() -> None:
    code = "import sys, modelzoo.model.config, modelzoo.model.scaling; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
