"""Keys and values of the tokens seen so far, kept for generation.

Shapes: B batch, H heads, S positions, K head_dim.
"""

from torch import Tensor


class LayerCache:
    """One block's keys and values. Memory for all positions is taken at the first call, and never again."""

    def __init__(self, max_len: int) -> None:
        self.max_len = max_len
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store those of new positions (B, H, T, K) and return those of all positions (B, H, S, K)."""
        if self._keys is None or self._values is None:
            batch, heads, _, head_dim = keys.shape
            self._keys = keys.new_empty(batch, heads, self.max_len, head_dim)
            self._values = values.new_empty(batch, heads, self.max_len, head_dim)
        start, self.length = self.length, self.length + keys.shape[2]
        assert self.length <= self.max_len, (self.length, self.max_len)
        self._keys[:, :, start : self.length] = keys
        self._values[:, :, start : self.length] = values
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]


class KVCache:
    """The caches of all blocks, for up to `max_len` positions."""

    def __init__(self, num_layers: int, max_len: int) -> None:
        self.layers = [LayerCache(max_len) for _ in range(num_layers)]

    @property
    def length(self) -> int:
        """Positions stored."""
        return self.layers[0].length
