"""Hugging Face's GPT-NeoX (Pythia too): query, key and value are packed head by head."""

from collections.abc import Mapping
from typing import Any

from modelzoo.base_config import UserError
from modelzoo.convert.family import Family, number
from modelzoo.convert.layout import Part
from modelzoo.model.config import ModelConfig
from modelzoo.model.position.rotary import RotaryPosition


def _position_from(hf: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    """Of any version of transformers: `rotary_pct` and `rotary_emb_base`, or `rope_parameters`. As in transformers, a
    `rope_scaling` that says anything stands in the place of `rope_parameters`, and what it lacks is never taken from
    there."""
    rope: dict[str, Any] = {}
    for section in ("rope_parameters", "rope_scaling"):
        given = hf.get(section) or {}
        if not isinstance(given, Mapping):
            raise UserError(f"{section}={given!r}: expected a section")
        if (kind := given.get("rope_type", given.get("type", "default"))) != "default":
            raise UserError(f"{section}: rope_type={kind!r} is not supported; only 'default' is")
        if nested := [name for name, value in given.items() if isinstance(value, Mapping)]:
            raise UserError(f"{section}: {nested[0]!r} is not supported; only one section for all layers is")
        rope = dict(given) or rope
    old = {"rope_theta": ("rotary_emb_base", "rope_theta"), "partial_rotary_factor": ("rotary_pct",)}
    for name, fields in old.items():
        if name not in rope and (field := next((f for f in fields if f in hf), None)):
            rope[name] = hf[field]
    return {
        "kind": "rotary",
        "style": "half",
        "fraction": number(rope, "partial_rotary_factor", 0.25),
        "theta": number(rope, "rope_theta", 10_000),
    }


def _position_to(config: ModelConfig) -> dict[str, Any]:
    """As transformers 5 reads it, and as earlier ones and other programs do."""
    position = config.position
    assert isinstance(position, RotaryPosition)
    theta = int(position.theta) if position.theta.is_integer() else position.theta
    return {
        "rotary_pct": position.fraction,
        "rotary_emb_base": theta,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": position.theta,
            "partial_rotary_factor": position.fraction,
        },
    }


FAMILY = Family(
    model_type="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    description="position.kind=rotary with style=half",
    sizes={
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "hidden_size": "hidden_size",
        "vocab_size": "vocab_size",
        "max_seq_len": "max_position_embeddings",
    },
    ffn_size=("intermediate_size", False),
    activation=("hidden_act", "gelu"),
    norm_eps="layer_norm_eps",
    dropouts=(("attention_dropout", "hidden_dropout"), 0.0),
    flags={
        "parallel_residual": ("use_parallel_residual", True),
        "attention_bias": ("attention_bias", True),
        "tie_embeddings": ("tie_word_embeddings", False),
    },
    ours_only={"tied_norm": False, "lm_head_bias": False},
    theirs_only={"position_embedding_type": ("rotary", "rope", None)},
    position_from=_position_from,
    position_to=_position_to,
    position_field="rotary_pct (partial_rotary_factor of rope_parameters)",
    prefix="gpt_neox.",
    head=("embed_out", "lm_head"),  # on disk; in the memory of transformers 5
    buffers=r"attention\.(masked_)?bias|rotary_emb\.\w+",
    parts={
        "embedding": Part(("embed_in",)),
        "blocks.{}.norm_1": Part(("layers.{}.input_layernorm",)),
        "blocks.{}.attention.qkv": Part(("layers.{}.attention.query_key_value",)),
        "blocks.{}.attention.out": Part(("layers.{}.attention.dense",)),
        "blocks.{}.norm_2": Part(("layers.{}.post_attention_layernorm",)),
        "blocks.{}.mlp.fc_in": Part(("layers.{}.mlp.dense_h_to_4h",)),
        "blocks.{}.mlp.fc_out": Part(("layers.{}.mlp.dense_4h_to_h",)),
        "final_norm": Part(("final_layer_norm",)),
        "lm_head": Part(("embed_out",)),
    },
)
