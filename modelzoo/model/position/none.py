"""No position signal: the causal mask alone tells the order."""

from typing import Literal

from modelzoo.model.position.base import PositionConfig


class NoPosition(PositionConfig):
    """No signal at all ("NoPE", Kazemnejad et al. 2023, arXiv:2305.19466)."""

    kind: Literal["none"] = "none"
