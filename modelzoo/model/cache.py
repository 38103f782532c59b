"""Keys and values of the tokens seen so far, kept for generation.

The rows of a cache are texts of different lengths. Tokens come without padding: those of all rows one after
the other, as one sequence of N tokens, of which `expect` says where each row's begin.

Shapes: N new tokens of all rows, R rows that each have one of them, H heads, S positions, K head_dim.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.model.config import ModelConfig


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
        self.max_rows, self.max_len, self.dtype, self.device = max_rows, max_len, dtype, torch.device(device)
        shape = (max_rows, max_len, 2, config.num_heads, config.head_dim)
        # Zeros: what lies behind the end of a shorter row is multiplied by a probability of 0, so it must be finite.
        self.layers = [
            LayerCache(self, torch.zeros(shape, dtype=dtype, device=device)) for _ in range(config.num_layers)
        ]
        self.lengths = [0] * max_rows
        self._table = config.position.table(torch.arange(max_len, device=device), config.head_dim)

    def expect(self, num_single: int, runs: list[tuple[int, int]]) -> None:
        """Say whose tokens come next: one of each of the rows 0 … num_single - 1, then `runs` of (row, number of
        tokens)."""
        self.num_single, self.runs = num_single, [(row, self.lengths[row], count) for row, count in runs]
        rows, positions = list(range(num_single)), self.lengths[:num_single]
        for row, start, count in self.runs:
            rows += [row] * count
            positions += range(start, start + count)
        assert max(positions) < self.max_len, (max(positions), self.max_len)
        self.position_ids = torch.tensor(positions, device=self.device)  # (N,)
        self.slots = torch.tensor(rows, device=self.device) * self.max_len + self.position_ids  # (N,)
        for row, count in [(row, 1) for row in range(num_single)] + runs:
            self.lengths[row] += count
        self.longest = max(self.lengths[:num_single], default=0)
        self.mask: Tensor | None = None
        if any(length != self.longest for length in self.lengths[:num_single]):
            lengths = torch.tensor(self.lengths[:num_single], device=self.device)
            late = torch.arange(self.longest, device=self.device) >= lengths[:, None]  # (R, S)
            self.mask = torch.zeros(late.shape, dtype=self.dtype, device=self.device)
            self.mask = self.mask.masked_fill_(late, -math.inf)[:, None, None]

    def table(self) -> Tensor | None:
        """What the position kind needs for the expected tokens: (2, N, …)."""
        return None if self._table is None else self._table[:, self.position_ids]

    def move(self, source: int, target: int) -> None:
        """Put a row in another's place; that one is lost."""
        length = self.lengths[source]
        for layer in self.layers:
            layer.stored[target, :length] = layer.stored[source, :length]
        self.lengths[target], self.lengths[source] = length, 0


class LayerCache:
    """One block's keys and values, (rows, S, 2, H, K)."""

    def __init__(self, cache: KVCache, stored: Tensor) -> None:
        self._cache, self.stored = cache, stored
        self._flat = stored.flatten(0, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Store keys and values of the expected tokens, each (1, H, N, K); what the queries find: (1, H, N, K)."""
        cache = self._cache
        self._flat[cache.slots] = torch.stack((k[0], v[0])).permute(2, 0, 1, 3)  # (N, 2, H, K)
        parts, start = [], cache.num_single
        if start:
            keys, values = self.stored[:start, : cache.longest].permute(2, 0, 3, 1, 4)  # (R, H, S, K)
            single = q[0, :, :start].transpose(0, 1).unsqueeze(2)  # (R, H, 1, K)
            attended = F.scaled_dot_product_attention(single, keys, values, attn_mask=cache.mask, scale=scale)
            parts.append(attended.squeeze(2).transpose(0, 1))
        for row, past, count in cache.runs:
            keys, values = self.stored[row, : past + count].permute(1, 2, 0, 3).unsqueeze(1)  # (1, H, S, K)
            mask = None  # `is_causal` aligns queries with the first keys: for an empty past only
            if past:
                mask = torch.ones(count, past + count, dtype=torch.bool, device=q.device).tril(past)
            queries = q[:, :, start : start + count]
            parts.append(
                F.scaled_dot_product_attention(
                    queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=scale
                )[0]
            )
            start += count
        return torch.cat(parts, dim=1).unsqueeze(0)
