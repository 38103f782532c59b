"""Hugging Face's GPT-J: separate query, key and value projections without biases, and a head with one."""

from collections.abc import Mapping
from typing import Any

from modelzoo.base_config import UserError
from modelzoo.convert.family import NO_ROPE, Family
from modelzoo.convert.layout import SEPARATE, Part
from modelzoo.model.config import ModelConfig
from modelzoo.model.position.rotary import RotaryPosition, fraction_for


def _position_from(hf: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    rotary_dim = hf.get("rotary_dim", 64)
    if not isinstance(rotary_dim, int) or not 1 <= rotary_dim <= head_dim:
        raise UserError(
            f"rotary_dim={rotary_dim!r} is not supported; give the number of rotated channels, 2 to head_dim={head_dim}"
        )
    return {"kind": "rotary", "style": "interleaved", "fraction": fraction_for(rotary_dim, head_dim)}


def _position_to(config: ModelConfig) -> dict[str, Any]:
    position = config.position
    assert isinstance(position, RotaryPosition)
    return {"rotary_dim": position.rotary_dim(config.head_dim)}


FAMILY = Family(
    model_type="gptj",
    architecture="GPTJForCausalLM",
    description="position.kind=rotary with style=interleaved",
    sizes={
        "num_layers": "n_layer",
        "num_heads": "n_head",
        "hidden_size": "n_embd",
        "vocab_size": "vocab_size",
        "max_seq_len": "n_positions",
    },
    ffn_size=("n_inner", True),
    activation=("activation_function", "gelu_new"),
    norm_eps="layer_norm_epsilon",
    dropouts=(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0),
    flags={},
    ours_only={
        "parallel_residual": True,
        "tied_norm": True,
        "attention_bias": False,
        "lm_head_bias": True,
        "tie_embeddings": False,
    },
    theirs_only={
        "tie_word_embeddings": (False,),
        "position_embedding_type": ("rotary", "rope", None),
        **dict.fromkeys(("rope_scaling", "rope_parameters"), NO_ROPE),
    },
    position_from=_position_from,
    position_to=_position_to,
    position_field="rotary_dim",
    prefix="transformer.",
    head=("lm_head",),
    buffers=r"\.attn\.((masked_)?bias|embed_positions)",
    parts={
        "embedding": Part(("wte",)),
        "blocks.{}.norm_1": Part(("h.{}.ln_1",)),
        "blocks.{}.attention.qkv": Part(
            ("h.{}.attn.q_proj", "h.{}.attn.k_proj", "h.{}.attn.v_proj"),
            SEPARATE,
        ),
        "blocks.{}.attention.out": Part(("h.{}.attn.out_proj",)),
        "blocks.{}.mlp.fc_in": Part(("h.{}.mlp.fc_in",)),
        "blocks.{}.mlp.fc_out": Part(("h.{}.mlp.fc_out",)),
        "final_norm": Part(("ln_f",)),
        "lm_head": Part(("lm_head",)),
    },
)
