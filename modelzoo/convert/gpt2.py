"""Hugging Face's GPT-2: its Conv1D layers keep weights as (in, out), transposed to ours."""

from modelzoo.convert.family import NO_ROPE, Family
from modelzoo.convert.layout import STACKED, TRANSPOSED, Part

FAMILY = Family(
    model_type="gpt2",
    architecture="GPT2LMHeadModel",
    description="position.kind=learned",
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
    dropouts=(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.1),
    flags={"tie_embeddings": ("tie_word_embeddings", True)},
    ours_only={"parallel_residual": False, "tied_norm": False, "attention_bias": True, "lm_head_bias": False},
    theirs_only={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "reorder_and_upcast_attn": (False,),
        "position_embedding_type": ("absolute", "learned", None),
        **dict.fromkeys(("rope_scaling", "rope_parameters"), NO_ROPE),
    },
    position_from=lambda hf, head_dim: {"kind": "learned"},
    position_to=lambda config: {},
    position_field="n_positions",
    prefix="transformer.",
    head=("lm_head",),
    buffers=r"\.attn\.(masked_)?bias",
    parts={
        "embedding": Part(("wte",)),
        "position_embedding": Part(("wpe",)),
        "blocks.{}.norm_1": Part(("h.{}.ln_1",)),
        "blocks.{}.attention.qkv": Part(("h.{}.attn.c_attn",), STACKED),
        "blocks.{}.attention.out": Part(("h.{}.attn.c_proj",), TRANSPOSED),
        "blocks.{}.norm_2": Part(("h.{}.ln_2",)),
        "blocks.{}.mlp.fc_in": Part(("h.{}.mlp.c_fc",), TRANSPOSED),
        "blocks.{}.mlp.fc_out": Part(("h.{}.mlp.c_proj",), TRANSPOSED),
        "final_norm": Part(("ln_f",)),
        "lm_head": Part(("lm_head",)),
    },
)
