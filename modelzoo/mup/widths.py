"""The same model at other widths. No torch here."""

from collections.abc import Iterator
from typing import Literal

from modelzoo.base_config import UserError
from modelzoo.model.config import ModelConfig

Growth = Literal["heads", "head_dim"]
"""What grows with the width: the number of heads, or the size of each."""


def at_width(config: ModelConfig, hidden_size: int, growth: Growth = "heads") -> ModelConfig:
    """`config` with another hidden_size, its MLP in the same proportion; all else, `mup` included, as it is.

    Raises:
        UserError: the width is no multiple of what stays fixed.
    """
    fixed, name = (config.head_dim, "head_dim") if growth == "heads" else (config.num_heads, "num_heads")
    ffn_size, remainder = divmod(config.ffn_width * hidden_size, config.hidden_size)
    if hidden_size % fixed or remainder:
        unit = next(w for w in _multiples(fixed) if config.ffn_width * w % config.hidden_size == 0)
        raise UserError(
            f"width {hidden_size} does not fit {name}={fixed} and an MLP of {config.ffn_width}/{config.hidden_size} "
            f"of the width; use multiples of {unit}"
        )
    num_heads = hidden_size // fixed if growth == "heads" else fixed
    return ModelConfig.model_validate(
        config.model_dump() | {"hidden_size": hidden_size, "ffn_size": ffn_size, "num_heads": num_heads}
    )


def _multiples(number: int) -> Iterator[int]:
    multiple = number
    while True:
        yield multiple
        multiple += number
