"""Rotary positions: pairs of channels of each query and key turn by an angle proportional to the position.

Shapes: T positions, K head_dim, R rotary_dim: the leading channels of a head that turn, U = K - R: the others.
P pairs of channels that have an angle: R/2, or K/2 where the others have a signal too.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from modelzoo.base_config import Problem
from modelzoo.model.position.base import PositionConfig

if TYPE_CHECKING:
    from torch import Tensor


class RotaryPosition(PositionConfig):
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864) on a leading fraction of each head."""

    kind: Literal["rotary"] = "rotary"

    style: Literal["interleaved", "half"] = "interleaved"
    """Which channels form a pair: 2i with 2i + 1 (interleaved), or i with i + rotary_dim / 2 (half)."""

    fraction: float = Field(default=1.0, gt=0, le=1)
    """The part of each head that is rotated: rotary_dim = int(head_dim * fraction), which must be even."""

    theta: float = Field(default=10_000.0, gt=1, le=1e9)
    """Base of the geometric series of wavelengths."""

    unrotated: Literal["none", "sinusoidal"] = "none"
    """What the rest of each head knows of positions. none: nothing, as in the released GPT-J and GPT-NeoX. sinusoidal:
    to its channels in queries and keys the fixed sines and cosines of Vaswani et al. (2017, section 3.5) are added, as
    some descriptions of GPT-J have it; scores then know absolute positions too."""

    def rotary_dim(self, head_dim: int) -> int:
        return int(head_dim * self.fraction)

    def problems_with(self, head_dim: int) -> Iterator[Problem]:
        rotary_dim = self.rotary_dim(head_dim)
        if rotary_dim >= 2 and rotary_dim % 2 == 0:
            yield from self._problems_with_rest(head_dim, head_dim - rotary_dim)
            return
        even = {max(2, rotary_dim - rotary_dim % 2), rotary_dim + rotary_dim % 2 or 2}
        choices = [f"{fraction_for(dim, head_dim)} ({dim})" for dim in sorted(even) if dim <= head_dim]
        yield Problem(
            ("fraction",),
            f"fraction={self.fraction} with head_dim={head_dim} gives rotary_dim={rotary_dim}, which is "
            + ("odd" if rotary_dim % 2 else "zero")
            + (f"; use {' or '.join(choices)}" if choices else "; use fewer heads or a larger hidden_size"),
        )

    def _problems_with_rest(self, head_dim: int, rest: int) -> Iterator[Problem]:
        if self.unrotated == "sinusoidal" and (rest == 0 or rest % 2):
            wrong = "an odd number of channels has no pairs" if rest else "fraction=1.0 leaves no channel unrotated"
            yield Problem(
                ("unrotated",),
                f"unrotated=sinusoidal with head_dim={head_dim} and {rest} channels that are not rotated: {wrong}; "
                f"use {'an even head_dim' if rest else 'a smaller fraction'}, or unrotated=none",
            )

    def table(self, position_ids: "Tensor", head_dim: int) -> "Tensor":
        """cos and sin of every angle, (2, T, P) or (2, B, 1, T, P), those of the rotation first. In fp32 whatever the
        model computes in: bf16 cannot tell position 257 from 258. Built per forward pass, not kept as a buffer that a
        cast could damage."""
        import torch

        rotary_dim = self.rotary_dim(head_dim)
        sizes = (rotary_dim,) if self.unrotated == "none" else (rotary_dim, head_dim - rotary_dim)
        exponents = [torch.arange(0, size, 2, dtype=torch.float32, device=position_ids.device) / size for size in sizes]
        angles = position_ids.float().unsqueeze(-1) * (1.0 / self.theta ** torch.cat(exponents))  # (…, T, P)
        if angles.dim() == 3:
            angles = angles.unsqueeze(1)  # for all heads
        return torch.stack((angles.cos(), angles.sin()))

    def rotate(self, x: "Tensor", table: "Tensor | None") -> "Tensor":
        import torch

        assert table is not None
        rotary_dim = self.rotary_dim(x.shape[-1])
        cos, sin = table[..., : rotary_dim // 2]
        turned, rest = x.split((rotary_dim, x.shape[-1] - rotary_dim), dim=-1)
        pair_dim = -1 if self.style == "interleaved" else -2
        pairs = turned.unflatten(-1, (-1, 2) if self.style == "interleaved" else (2, -1))
        a, b = pairs.float().unbind(pair_dim)  # (…, T, R/2) each
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=pair_dim).flatten(-2)
        if self.unrotated == "sinusoidal":
            rest = (rest.float() + _sinusoids(table[..., rotary_dim // 2 :])).to(x.dtype)
        return torch.cat((turned.to(x.dtype), rest), dim=-1)

    def factors(self, position_ids: "Tensor", head_dim: int) -> "tuple[Tensor, ...]":
        """What multiplies a channel, and what its partner, (T, 1, 1, R/2, 2) each, or (T, 1, 1, 2, R/2) by halves; and
        what is added to the other channels, (T, 1, 1, U), where they have a signal."""
        import torch

        table, num_pairs = self.table(position_ids, head_dim)[:, :, None, None], self.rotary_dim(head_dim) // 2
        cos, sin = table[..., :num_pairs]  # (T, 1, 1, R/2) each
        pair_dim = -1 if self.style == "interleaved" else -2
        turning = torch.stack((cos, cos), pair_dim), torch.stack((-sin, sin), pair_dim)
        return turning if self.unrotated == "none" else (*turning, _sinusoids(table[..., num_pairs:]))

    def rotate_(self, x: "Tensor", factors: "tuple[Tensor, ...]") -> None:
        own, partners = factors[:2]
        shape = own.shape[-2:]
        pairs = x.as_strided((*x.shape[:-1], *shape), (*x.stride()[:-1], shape[1], 1))
        in_fp32 = pairs.float()  # the same memory, where it is fp32
        swapped = in_fp32.flip(-1 if self.style == "interleaved" else -2)
        in_fp32.mul_(own).addcmul_(swapped, partners)
        if in_fp32 is not pairs:
            pairs.copy_(in_fp32)
        for signal in factors[2:]:
            x.narrow(-1, x.shape[-1] - signal.shape[-1], signal.shape[-1]).add_(signal)


def _sinusoids(table: "Tensor") -> "Tensor":
    """What is added: cos and sin (2, …, U/2) to (…, U), channel 2i a sine and 2i + 1 the cosine of the same angle."""
    import torch

    cos, sin = table
    return torch.stack((sin, cos), dim=-1).flatten(-2)


def fraction_for(rotary_dim: int, head_dim: int) -> float:
    """A short `fraction` that gives exactly this rotary_dim, in spite of int() rounding down."""
    millionths = -(-rotary_dim * 1_000_000 // head_dim)
    return next(f for f in (millionths / 1e6, (millionths + 1) / 1e6) if int(head_dim * f) == rotary_dim)
