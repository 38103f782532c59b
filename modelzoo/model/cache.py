"""Keys and values of the tokens seen so far, kept for generation.

The rows of a cache are texts of different lengths. Tokens come without padding: those of all rows one after
the other, as one sequence of N tokens, of which `expect` says whose they are.

Shapes: L layers, N new tokens of all rows; G rows of a group, with C new tokens each; H heads, S positions,
K head_dim.
"""

import math
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from modelzoo.model.config import ModelConfig


@dataclass(frozen=True)
class Group:
    """Rows beside each other, with equally many new tokens, that attend in one call."""

    num_rows: int
    tokens: slice
    """Where their new tokens lie among the N."""
    keys: tuple[Tensor, ...]
    """Of each layer, (G, H, S, K): up to the end of the longest row, new tokens included."""
    values: tuple[Tensor, ...]
    mask: Tensor | None
    """Added to the scores, (C, S) or (G, 1, 1, S)."""
    causal: bool
    """The new tokens are the first, and each looks at those before it: no mask is needed."""


class KVCache:
    """Keys and values of `max_rows` rows of up to `max_len` tokens, in memory that is taken once."""

    def __init__(
        self,
        config: ModelConfig,
        max_rows: int,
        max_len: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.max_len, self.dtype, self.device = max_len, dtype, torch.device(device)
        shape = (config.num_layers, 2, max_rows, config.num_heads, max_len, config.head_dim)
        # Zeros: what lies behind the end of a shorter row is multiplied by a probability of 0, so it must be finite.
        self._stored = torch.zeros(shape, dtype=dtype, device=device)
        self.layers = self._stored.flatten(1, 4).unbind()
        """Of each layer, the memory by `slots`: (2 · rows · H · S, K)."""
        part, head = (torch.arange(count, device=device) for count in (2, config.num_heads))
        self._row_size = config.num_heads * max_len
        self._heads = (part[:, None] * (max_rows * self._row_size) + head * max_len).flatten()  # (2 · H,)
        self._factors = config.position.factors(torch.arange(max_len, device=device), config.head_dim)
        self.lengths = [0] * max_rows

    def expect(self, num_single: int, runs: list[tuple[int, int]]) -> None:
        """Say whose tokens come next: one of each of the rows 0 … num_single - 1, then `runs` of (row, number of
        its tokens), by rows in ascending order."""
        rows, positions = list(range(num_single)), self.lengths[:num_single]
        for row, count in runs:
            rows += [row] * count
            positions += range(self.lengths[row], self.lengths[row] + count)
        assert max(positions) < self.max_len, (max(positions), self.max_len)
        self.position_ids = torch.tensor(positions, device=self.device)  # (N,)
        starts = torch.tensor(rows, device=self.device).mul_(self._row_size).add_(self.position_ids)
        self.slots = (starts[:, None] + self._heads).flatten()  # (N · 2 · H,)
        self.factors = None if self._factors is None else tuple(each[self.position_ids] for each in self._factors)
        self.groups = [self._single(num_single)] if num_single else []
        start = num_single
        by_shape = ((row, self.lengths[row], count) for row, count in runs)
        for _, group in groupby(by_shape, lambda run: (run[1:], run[0] if run[1] else None)):
            alike = list(group)
            self.groups.append(self._alike(start, alike[0][0], len(alike), *alike[0][1:]))
            start = self.groups[-1].tokens.stop
        for row in range(num_single):
            self.lengths[row] += 1
        for row, count in runs:
            self.lengths[row] += count

    def _single(self, num_rows: int) -> Group:
        """Rows of any length with one new token each."""
        lengths = [length + 1 for length in self.lengths[:num_rows]]
        longest, mask = max(lengths), None
        if min(lengths) != longest:
            behind = torch.arange(longest, device=self.device) >= torch.tensor(lengths, device=self.device)[:, None]
            mask = torch.zeros(behind.shape, dtype=self.dtype, device=self.device)
            mask = mask.masked_fill_(behind, -math.inf)[:, None, None]  # (G, 1, 1, S)
        return Group(num_rows, slice(0, num_rows), *self._views(0, num_rows, longest), mask, causal=False)

    def _alike(self, start: int, row: int, num_rows: int, past: int, count: int) -> Group:
        """Rows from `row` on that all have `past` tokens and `count` new ones."""
        mask, length = None, past + count
        if past and count > 1:  # SDPA's own causal mask aligns queries with the first keys: for an empty past
            mask = torch.full((count, length), -math.inf, dtype=self.dtype, device=self.device).triu_(past + 1)
        tokens = slice(start, start + num_rows * count)
        return Group(num_rows, tokens, *self._views(row, num_rows, length), mask, causal=past == 0 and count > 1)

    def _views(self, row: int, num_rows: int, length: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        keys, values = self._stored.narrow(2, row, num_rows).narrow(4, 0, length).unbind(1)
        return keys.unbind(), values.unbind()

    def move(self, source: int, target: int) -> None:
        """Put a row in another's place; that one is lost."""
        length = self.lengths[source]
        self._stored[:, :, target, :, :length] = self._stored[:, :, source, :, :length]
        self.lengths[target], self.lengths[source] = length, 0
