"""The same model at other widths, small in all else. No torch here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from modelzoo.base_config import UserError
from modelzoo.model.config import ModelConfig

Growth = Literal["heads", "head_dim"]
"""What grows with the width: the number of heads, or the size of each."""

SMALLEST_WIDTH = 128
"""Of a check by default; below it, parts that vanish in wide models are not small yet."""

NUM_HEADS = 4
"""Where head_dim grows; or fewer, if the model has fewer."""


@dataclass(frozen=True)
class Settings:
    """What the models of one check have in common, at every width."""

    steps: int = 4
    """Optimizer steps."""
    lr: float = 2.0**-9
    """Learning rate at the narrowest width; constant, no warm-up."""
    num_layers: int = 2
    vocab_size: int = 16
    """Far below the widths: what is left of the random start in the logits falls as sqrt(vocab_size / width)."""
    seq_len: int = 16
    batch_size: int = 8
    growth: Growth = "heads"

    def model(self, config: ModelConfig, width: int) -> ModelConfig:
        """`config` at this width, without dropout, as small as these settings.

        Raises:
            UserError: the width does not fit the config.
        """
        small = {
            "num_layers": self.num_layers,
            "vocab_size": self.vocab_size,
            "padded_vocab_size": None,
            "max_seq_len": self.seq_len,
            "dropout": 0.0,
        }
        return _changed(at_width(config, width, self.growth), small, width)

    def widths(self, config: ModelConfig) -> list[int]:
        """Four widths that fit, each twice the one before, from SMALLEST_WIDTH or the next that fits."""
        unit = _unit(config, self.growth)
        smallest = math.ceil(SMALLEST_WIDTH / unit) * unit
        return [smallest * 2**doublings for doublings in range(4)]


def with_base(config: ModelConfig, width: int) -> ModelConfig:
    """`config` with muP's base moved to this hidden_size, the base MLP in the same proportion.

    Moving it changes constants, not what depends on the width. Far below its base a model starts with output
    logits that are larger than any it was tuned with, by sqrt(base / width), and learns otherwise for that.
    """
    if config.mup is None:
        return config
    base_ffn_size = max(1, round(config.mup.base_ffn_size * width / config.mup.base_hidden_size))
    changes = {"base_hidden_size": width, "base_ffn_size": base_ffn_size}
    return _changed(config, {"mup": config.mup.model_dump() | changes}, width)


def at_width(config: ModelConfig, width: int, growth: Growth = "heads") -> ModelConfig:
    """`config` with this hidden_size, its MLP in the same proportion; all else, `mup` included, as it is.

    The heads keep their size and become more or fewer; with growth="head_dim" there are NUM_HEADS of them.

    Raises:
        UserError: the width does not fit the config.
    """
    unit = _unit(config, growth)
    if width < 1 or width % unit:
        raise UserError(
            f"width {width}: no multiple of {unit}, as head_dim={config.head_dim} and an MLP of "
            f"{config.ffn_width}/{config.hidden_size} of the width need it; use {max(1, round(width / unit)) * unit}"
        )
    num_heads = width // config.head_dim if growth == "heads" else _fixed_heads(config)
    ffn_size = config.ffn_width * width // config.hidden_size
    return _changed(config, {"hidden_size": width, "ffn_size": ffn_size, "num_heads": num_heads}, width)


def _unit(config: ModelConfig, growth: Growth) -> int:
    """What widths must be multiples of, so that heads and MLP come out whole."""
    ffn_unit = config.hidden_size // math.gcd(config.hidden_size, config.ffn_width)
    return math.lcm(config.head_dim if growth == "heads" else _fixed_heads(config), ffn_unit)


def _fixed_heads(config: ModelConfig) -> int:
    return min(NUM_HEADS, config.num_heads)


def _changed(config: ModelConfig, changes: Mapping[str, object], width: int) -> ModelConfig:
    try:
        return ModelConfig.model_validate(config.model_dump() | dict(changes))
    except ValidationError as error:  # head_dim came out odd, say, and does not suit the positions
        reasons = "; ".join(entry["msg"] for entry in error.errors())
        raise UserError(f"width {width}: {reasons}; choose other widths") from None
