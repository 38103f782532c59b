"""Reading Hugging Face configs and weights: what is refused, and that nothing is lost. Parity:
tests/model."""

from typing import Any

import pytest
import torch

from modelzoo.convert import hf
from modelzoo.model.config import ModelConfig
from tests.model.families import ours, reference

FAMILIES = ["gpt2", "gptj", "gpt_neox"]


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("gpt2", "activation_function", "relu"),
        ("gpt2", "scale_attn_weights", False),
        ("gpt2", "scale_attn_by_inverse_layer_idx", True),
        ("gpt2", "add_cross_attention", True),
        ("gpt2", "attn_pdrop", 0.3),
        ("gptj", "activation_function", "silu"),
        ("gptj", "tie_word_embeddings", True),
        ("gptj", "rotary_dim", None),
        ("gpt_neox", "hidden_act", "relu"),
        ("gpt_neox", "hidden_dropout", 0.3),
        ("gpt_neox", "rope_scaling", {"type": "linear", "factor": 2.0}),
        ("gpt_neox", "rope_parameters", {"rope_type": "yarn"}),
        ("gpt_neox", "model_type", "llama"),
    ],
)
def test_what_we_cannot_do_is_refused(family: str, field: str, value: Any) -> None:
    config = reference(family).config.to_dict()
    hf.config_from_hf(config)
    with pytest.raises(ValueError, match="rope_type" if field.startswith("rope") else field):
        hf.config_from_hf(config | {field: value})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_field_is_named(family: str) -> None:
    config = reference(family).config.to_dict()
    del config["vocab_size"]
    with pytest.raises(ValueError, match="no field 'vocab_size'"):
        hf.config_from_hf(config)


def test_config_of_released_models() -> None:
    """The config.json of EleutherAI/gpt-j-6b and EleutherAI/pythia-160m, as far as they describe the
    model."""
    gpt_j = {
        "model_type": "gptj",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-05,
        "n_embd": 4096,
        "n_head": 16,
        "n_inner": None,
        "n_layer": 28,
        "n_positions": 2048,
        "rotary_dim": 64,
        "tie_word_embeddings": False,
        "vocab_size": 50400,
    }
    assert ModelConfig.model_validate(hf.config_from_hf(gpt_j)).num_parameters() == 6_050_882_784
    pythia = {
        "model_type": "gpt_neox",
        "hidden_act": "gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "vocab_size": 50304,
    }
    config = ModelConfig.model_validate(hf.config_from_hf(pythia))
    assert config.num_parameters() == 162_322_944
    assert (config.position.model_dump(), config.activation) == (
        {"kind": "rotary", "style": "half", "fraction": 0.25, "theta": 10_000.0, "unrotated": "none"},
        "gelu",
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_neither_missing_nor_left_over(family: str) -> None:
    theirs = reference(family)
    config = theirs.config.to_dict()
    model_config = ours(theirs).config
    state = theirs.state_dict()
    for name in state:
        if not (name == "lm_head.weight" and model_config.tie_embeddings):
            with pytest.raises(ValueError, match="the weights have no"):
                hf.weights_from_hf({k: v for k, v in state.items() if k != name}, config, model_config)
    with pytest.raises(ValueError, match="1 tensors that the config does not need: 'extra'"):
        hf.weights_from_hf(state | {"extra": torch.zeros(1)}, config, model_config)
    wider = model_config.model_copy(update={"padded_vocab_size": 64})
    with pytest.raises(
        ValueError, match=r"(wte|embed_in).weight has shape \(53, 24\), and the config needs \(64, 24\)"
    ):
        hf.weights_from_hf(state, config, wider)


def test_names_of_other_versions() -> None:
    """Old buffers are passed over; GPT-2's hub files have no prefix; GPT-NeoX's head has had two names."""
    theirs = reference("gpt2")
    state = {name.removeprefix("transformer."): value for name, value in theirs.state_dict().items()}
    state |= {"h.0.attn.bias": torch.ones(1, 1, 9, 9), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    _same(hf.weights_from_hf(state, theirs.config.to_dict(), ours(theirs).config), ours(theirs).state_dict())

    theirs = reference("gpt_neox")
    state = theirs.state_dict()
    state["embed_out.weight"] = state.pop("lm_head.weight")
    for name in ("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq"):
        state[f"gpt_neox.layers.0.{name}"] = torch.ones(3)
    _same(hf.weights_from_hf(state, theirs.config.to_dict(), ours(theirs).config), ours(theirs).state_dict())


def test_a_head_that_is_not_the_embedding() -> None:
    theirs = reference("gpt2", tie_word_embeddings=False)
    tied = ours(theirs).config.model_copy(update={"tie_embeddings": True})
    with pytest.raises(ValueError, match=r"lm_head\.weight differs from the embedding"):
        hf.weights_from_hf(theirs.state_dict(), theirs.config.to_dict(), tied)


def _same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
