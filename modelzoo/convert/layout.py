"""How a weight lies in a file of Hugging Face's and in ours, and the way there and back.

Every layout moves values and computes none, so a round trip is bit-identical, and all of them act on tensors of the
meta device too: the shapes that a file must have are what a layout makes of ours.

Shapes: D hidden_size, H heads, K head_dim.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from modelzoo.model.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor


class Layout(NamedTuple):
    """Two functions, each the other's inverse."""

    to_ours: "Callable[[Sequence[Tensor], ModelConfig], Tensor]"
    """Their tensors (one, or several that are one of ours) to ours."""
    to_theirs: "Callable[[Tensor, ModelConfig], Sequence[Tensor]]"
    """Ours to theirs."""


def _pack_heads(stacked: "Tensor", config: ModelConfig) -> "Tensor":
    """(3·H·K, …) in the order q/k/v, head, channel to ours: head, q/k/v, channel."""
    return stacked.unflatten(0, (3, config.num_heads, config.head_dim)).transpose(0, 1).flatten(0, 2)


def _unpack_heads(packed: "Tensor", config: ModelConfig) -> "Tensor":
    """Ours to (3·H·K, …) in the order q/k/v, head, channel."""
    return packed.unflatten(0, (config.num_heads, 3, config.head_dim)).transpose(0, 1).flatten(0, 2)


def _joined(parts: "Sequence[Tensor]") -> "Tensor":
    import torch

    return torch.cat(tuple(parts))


COPY = Layout(lambda theirs, _: theirs[0], lambda ours, _: (ours,))

TRANSPOSED = Layout(lambda theirs, _: theirs[0].t(), lambda ours, _: (ours.t(),))
"""Weights as (in, out), which Conv1D keeps, to (out, in). Biases stay as they are."""

STACKED = Layout(
    lambda theirs, config: _pack_heads(theirs[0].t(), config), lambda ours, config: (_unpack_heads(ours, config).t(),)
)
"""Weights as (in, out) of all of q, then k, then v; ours packs their rows head by head. Of biases the one dimension."""

SEPARATE = Layout(
    lambda theirs, config: _pack_heads(_joined(theirs), config),
    lambda ours, config: _unpack_heads(ours, config).chunk(3),
)
"""Query, key and value each by itself; ours packs their rows head by head, (3D, D)."""


class Part(NamedTuple):
    """A module of theirs (or several) that is one of ours; `{}` in a name stands for the layer."""

    theirs: tuple[str, ...]
    layout: Layout = COPY


class Rule(NamedTuple):
    """One tensor of ours, and the tensors of theirs that it is made of."""

    ours: str
    theirs: tuple[str, ...]
    layout: Layout
