"""Hugging Face's GPT-NeoX (Pythia too): query, key and value are packed head by head.

Shapes: H heads, K head_dim, D hidden_size.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from modelzoo.convert.mapping import Weights, activation_from, dropout_from
from modelzoo.model.config import ModelConfig

_PARTS = {
    "norm_1": "input_layernorm",
    "attention.qkv": "attention.query_key_value",
    "attention.out": "attention.dense",
    "norm_2": "post_attention_layernorm",
    "mlp.fc_in": "mlp.dense_h_to_4h",
    "mlp.fc_out": "mlp.dense_4h_to_h",
}


def config_from_hf(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of our ModelConfig, from a config.json of any transformers version."""
    rope = {
        "rope_theta": hf.get("rotary_emb_base", 10_000),
        "partial_rotary_factor": hf.get("rotary_pct", 0.25),
    }
    rope |= hf.get("rope_parameters") or {}
    scaling = (hf.get("rope_scaling") or {}).get("type") or rope.get("rope_type", "default")
    if scaling != "default":
        raise ValueError(f"rope_type={scaling!r} is not supported; only 'default' is")
    return {
        "num_layers": hf["num_hidden_layers"],
        "num_heads": hf["num_attention_heads"],
        "hidden_size": hf["hidden_size"],
        "ffn_size": hf["intermediate_size"],
        "vocab_size": hf["vocab_size"],
        "max_seq_len": hf["max_position_embeddings"],
        "parallel_residual": hf.get("use_parallel_residual", True),
        "position": {
            "kind": "rotary",
            "style": "half",
            "fraction": rope["partial_rotary_factor"],
            "theta": rope["rope_theta"],
        },
        "activation": activation_from(hf, "hidden_act", "gelu"),
        "attention_bias": hf.get("attention_bias", True),
        "tie_embeddings": hf.get("tie_word_embeddings", False),
        "norm_eps": hf.get("layer_norm_eps", 1e-5),
        "dropout": dropout_from(hf, ("attention_dropout", "hidden_dropout"), 0.0),
    }


def weights_from_hf(state_dict: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our weights by name. ValueError: weights are missing, left over, or of another vocabulary."""
    theirs = Weights(state_dict, prefix="gpt_neox.", buffers=r"attention\.(masked_)?bias|rotary_emb\.\w+")
    ours = {"embedding.weight": theirs.take("embed_in.weight")}
    for layer in range(config.num_layers):
        for part, their_part in _PARTS.items():
            has_bias = config.attention_bias or not part.startswith("attention")
            for kind in ("weight", "bias") if has_bias else ("weight",):
                value = theirs.take(f"layers.{layer}.{their_part}.{kind}")
                ours[f"blocks.{layer}.{part}.{kind}"] = value
    for kind in ("weight", "bias"):
        ours[f"final_norm.{kind}"] = theirs.take(f"final_layer_norm.{kind}")
    head = "embed_out" if "embed_out.weight" in theirs else "lm_head"  # renamed in transformers 5
    ours |= theirs.take_head(config, ours["embedding.weight"], head)
    return theirs.finish(ours, config)
