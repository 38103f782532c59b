"""The multipliers of a parametrisation: the model always multiplies, it never asks which one it is.

muP (Yang et al. 2022, arXiv:2203.03466; as in Cerebras-GPT, arXiv:2304.03208) and the standard
parametrisation differ in these numbers only. No torch here.
"""

from dataclasses import dataclass

from modelzoo.model.config import ModelConfig

HIDDEN_MATRICES = ("qkv", "out", "fc_in", "fc_out")
"""Weights whose both sides grow with the model, by the name of their module."""


@dataclass(frozen=True)
class Scaling:
    """A parametrisation. `init_std` and `lr` are by the module's name, and for its weight only."""

    embed: float
    """Multiplies the embeddings."""
    attention: float
    """Multiplies q·k before the softmax."""
    logits: float
    """Multiplies the output logits, before the bias of the head."""
    init_width: int
    """The hidden size at which the init scheme's stds are taken."""
    init_std: dict[str, float]
    """Multiplies the std of a hidden matrix."""
    lr: dict[str, float]
    """Multiplies the learning rate of a hidden matrix. Every other parameter: 1."""


def scaling_of(config: ModelConfig) -> Scaling:
    """The multipliers of this model."""
    mup = config.mup
    if mup is None:
        same = dict.fromkeys(HIDDEN_MATRICES, 1.0)
        return Scaling(1.0, config.head_dim**-0.5, 1.0, config.hidden_size, init_std=same, lr=same)
    width = config.hidden_size / mup.base_hidden_size
    ffn = config.ffn_width / mup.base_ffn_size
    fan_in = {"qkv": width, "out": width, "fc_in": width, "fc_out": ffn}
    return Scaling(
        embed=mup.embeddings_scale,
        attention=mup.attention_logits_alpha / config.head_dim,
        logits=mup.output_logits_alpha / width,
        init_width=mup.base_hidden_size,
        init_std={name: ratio**-0.5 for name, ratio in fan_in.items()},
        lr={name: 1 / ratio for name, ratio in fan_in.items()},
    )
