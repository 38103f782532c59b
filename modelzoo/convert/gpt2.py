"""Hugging Face's GPT-2: its Conv1D layers keep weights as (in, out), transposed to ours."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modelzoo.convert.mapping import Weights, activation_from, by_heads, dropout_from, require
from modelzoo.model.config import ModelConfig

_PARTS = {
    "norm_1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "norm_2": "ln_2",
    "mlp.fc_in": "mlp.c_fc",
    "mlp.fc_out": "mlp.c_proj",
}


def config_from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of our ModelConfig, from a config.json."""
    require(
        hf,
        scale_attn_weights=True,
        scale_attn_by_inverse_layer_idx=False,
        add_cross_attention=False,
    )
    return {
        "num_layers": hf["n_layer"],
        "num_heads": hf["n_head"],
        "hidden_size": hf["n_embd"],
        "ffn_size": hf.get("n_inner"),
        "vocab_size": hf["vocab_size"],
        "max_seq_len": hf["n_positions"],
        "activation": activation_from(hf, "activation_function", "gelu_new"),
        "tie_embeddings": hf.get("tie_word_embeddings", True),
        "norm_eps": hf.get("layer_norm_epsilon", 1e-5),
        "dropout": dropout_from(hf, ("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.1),
    }


def weights_from_hf(state_dict: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our weights by name. ValueError: weights are missing, left over, or of another vocabulary."""
    theirs = Weights(state_dict, prefix="transformer.", buffers=r"\.attn\.(masked_)?bias")
    ours = {
        "embedding.weight": theirs.take("wte.weight"),
        "position_embedding.weight": theirs.take("wpe.weight"),
    }
    for layer in range(config.num_layers):
        for part, their_part in _PARTS.items():
            for kind in ("weight", "bias"):
                value = theirs.take(f"h.{layer}.{their_part}.{kind}")
                value = value.t().contiguous() if value.dim() == 2 else value
                ours[f"blocks.{layer}.{part}.{kind}"] = (
                    by_heads(value, config.num_heads) if part == "attention.qkv" else value
                )
    for kind in ("weight", "bias"):
        ours[f"final_norm.{kind}"] = theirs.take(f"ln_f.{kind}")
    ours |= theirs.take_head(config, ours["embedding.weight"])
    return theirs.finish(ours, config)
