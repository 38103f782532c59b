"""Hugging Face's GPT-J: separate query, key and value projections without biases, and a head with one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modelzoo.convert.mapping import Weights, activation_from, by_heads, dropout_from, require
from modelzoo.model.config import ModelConfig
from modelzoo.model.position.rotary import fraction_for

_PARTS = {
    "norm_1.weight": "ln_1.weight",
    "norm_1.bias": "ln_1.bias",
    "attention.out.weight": "attn.out_proj.weight",
    "mlp.fc_in.weight": "mlp.fc_in.weight",
    "mlp.fc_in.bias": "mlp.fc_in.bias",
    "mlp.fc_out.weight": "mlp.fc_out.weight",
    "mlp.fc_out.bias": "mlp.fc_out.bias",
}


def config_from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of our ModelConfig, from a config.json."""
    require(hf, tie_word_embeddings=False)
    rotary_dim, head_dim = hf.get("rotary_dim", 64), hf["n_embd"] // hf["n_head"]
    if rotary_dim is None:
        raise ValueError("rotary_dim=None is not supported; give the number of rotated channels")
    return {
        "num_layers": hf["n_layer"],
        "num_heads": hf["n_head"],
        "hidden_size": hf["n_embd"],
        "ffn_size": hf.get("n_inner"),
        "vocab_size": hf["vocab_size"],
        "max_seq_len": hf["n_positions"],
        "parallel_residual": True,
        "tied_norm": True,
        "position": {
            "kind": "rotary",
            "style": "interleaved",
            "fraction": fraction_for(rotary_dim, head_dim),
        },
        "activation": activation_from(hf, "activation_function", "gelu_new"),
        "attention_bias": False,
        "lm_head_bias": True,
        "tie_embeddings": False,
        "norm_eps": hf.get("layer_norm_epsilon", 1e-5),
        "dropout": dropout_from(hf, ("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0),
    }


def weights_from_hf(state_dict: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our weights by name. ValueError: weights are missing, left over, or of another vocabulary."""
    theirs = Weights(state_dict, prefix="transformer.", buffers=r"\.attn\.((masked_)?bias|embed_positions)")
    ours = {"embedding.weight": theirs.take("wte.weight")}
    for layer in range(config.num_layers):
        projections = [theirs.take(f"h.{layer}.attn.{name}_proj.weight") for name in "qkv"]
        ours[f"blocks.{layer}.attention.qkv.weight"] = by_heads(torch.cat(projections), config.num_heads)
        for name, their_name in _PARTS.items():
            ours[f"blocks.{layer}.{name}"] = theirs.take(f"h.{layer}.{their_name}")
    for kind in ("weight", "bias"):
        ours[f"final_norm.{kind}"] = theirs.take(f"ln_f.{kind}")
    ours |= theirs.take_head(config, ours["embedding.weight"])
    return theirs.finish(ours, config)
