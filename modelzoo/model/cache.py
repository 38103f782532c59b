"""Keys and values of the tokens seen so far, kept for generation.

The rows of a cache are texts of different lengths. Tokens come without padding: those of all rows one after
the other, as one sequence of N tokens, of which `expect` says whose they are.

Shapes: N new tokens of all rows; G rows of a group, with C new tokens each; D hidden_size, H heads, S positions,
K head_dim.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.model.config import ModelConfig


@dataclass(frozen=True)
class _Group:
    """Rows beside each other that attend in one call."""

    rows: slice
    tokens: slice
    """Where their new tokens lie among the N."""
    length: int
    """Positions of the longest row, the new tokens included."""
    mask: Tensor | None
    """Added to the scores; (C, S) or (G, 1, 1, S)."""
    causal: bool
    """New tokens are the first, and each looks at those before it: needs no mask."""


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
        # Zeros: what lies behind the end of a shorter row is multiplied by a probability of 0, so it must be finite.
        shape = (max_rows, max_len, 2, config.num_heads, config.head_dim)
        self.layers = [
            LayerCache(self, torch.zeros(shape, dtype=dtype, device=device)) for _ in range(config.num_layers)
        ]
        self.lengths = [0] * max_rows
        self.groups: list[_Group] = []
        self._table = config.position.factors(torch.arange(max_len, device=device), config.head_dim)

    def expect(self, num_single: int, runs: list[tuple[int, int]]) -> None:
        """Say whose tokens come next: one of each of the rows 0 … num_single - 1, then `runs` of (row, number of
        its tokens), by rows in ascending order."""
        rows, positions = list(range(num_single)), self.lengths[:num_single]
        for row, count in runs:
            rows += [row] * count
            positions += range(self.lengths[row], self.lengths[row] + count)
        assert max(positions) < self.max_len, (max(positions), self.max_len)
        self.position_ids = torch.tensor(positions, device=self.device)  # (N,)
        self.slots = torch.tensor(rows, device=self.device) * self.max_len + self.position_ids  # (N,)
        self.factors = None if self._table is None else self._table[:, self.position_ids]
        self.groups = [self._single(num_single)] if num_single else []
        start = num_single
        for (_, past, count), alike in groupby(
            ((row, self.lengths[row], count) for row, count in runs), lambda run: (run[0] if run[1] else -1, *run[1:])
        ):
            self.groups.append(self._alike(start, [row for row, _, _ in alike], past, count))
            start = self.groups[-1].tokens.stop
        for row in range(num_single):
            self.lengths[row] += 1
        for row, count in runs:
            self.lengths[row] += count

    def _single(self, num_rows: int) -> _Group:
        """Rows of any length with one new token each."""
        lengths = [length + 1 for length in self.lengths[:num_rows]]
        longest, mask = max(lengths), None
        if min(lengths) != longest:
            behind = torch.arange(longest, device=self.device) >= torch.tensor(lengths, device=self.device)[:, None]
            mask = torch.zeros(behind.shape, dtype=self.dtype, device=self.device)
            mask = mask.masked_fill_(behind, -math.inf)[:, None, None]  # (G, 1, 1, S)
        return _Group(slice(0, num_rows), slice(0, num_rows), longest, mask, causal=False)

    def _alike(self, start: int, rows: list[int], past: int, count: int) -> _Group:
        """Rows that all have `past` tokens and `count` new ones."""
        assert rows == list(range(rows[0], rows[0] + len(rows))), rows
        mask, length = None, past + count
        if past and count > 1:  # SDPA's own causal mask aligns queries with the first keys: for an empty past
            mask = torch.full((count, length), -math.inf, dtype=self.dtype, device=self.device).triu_(past + 1)
        tokens = slice(start, start + len(rows) * count)
        return _Group(slice(rows[0], rows[-1] + 1), tokens, length, mask, causal=past == 0 and count > 1)

    def move(self, source: int, target: int) -> None:
        """Put a row in another's place; that one is lost."""
        length = self.lengths[source]
        for layer in self.layers:
            layer.stored[target, :length] = layer.stored[source, :length]
        self.lengths[target], self.lengths[source] = length, 0


class LayerCache:
    """One block's keys and values, (rows, S, 2, H, K)."""

    def __init__(self, cache: KVCache, stored: Tensor) -> None:
        self.cache, self.stored = cache, stored
        self._flat = stored.flatten(2).flatten(0, 1)  # (rows · S, 2 · D)

    def attend(self, qkv: Tensor, rotate_: Callable[[Tensor, Tensor], None], scale: float) -> Tensor:
        """What the queries of the expected tokens find, (N, D), from their queries, keys and values (N, 3 · D):
        these are turned in place, and the keys and values stored."""
        heads, head_dim = self.stored.shape[3:]
        width = heads * head_dim
        if self.cache.factors is not None:
            rotate_(qkv[:, : 2 * width].unflatten(1, (-1, head_dim)), self.cache.factors)
        self._flat.index_copy_(0, self.cache.slots, qkv[:, width:])
        queries, found = qkv[:, :width], []
        for group in self.cache.groups:
            stored = self.stored[group.rows, : group.length]
            attended = F.scaled_dot_product_attention(
                queries[group.tokens].unflatten(0, (len(stored), -1)).unflatten(2, (heads, head_dim)).transpose(1, 2),
                stored.select(2, 0).transpose(1, 2),  # (G, H, S, K)
                stored.select(2, 1).transpose(1, 2),
                attn_mask=group.mask,
                is_causal=group.causal,
                scale=scale,
            )  # (G, H, C, K)
            found.append(attended.transpose(1, 2).reshape(-1, width))
        return found[0] if len(found) == 1 else torch.cat(found)
