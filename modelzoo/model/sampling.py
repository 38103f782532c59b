"""How the next token is chosen from the logits.

Shapes: V vocab_size.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.001, 100.0
"""Outside of them drawing is greedy, or takes any token."""
MIN_PENALTY, MAX_PENALTY = 0.01, 100.0
"""Beyond them penalized logits leave the range of fp32 sooner or later."""


@dataclass(frozen=True)
class Sampling:
    """Options of one row. Filters apply in this order, each to what the one before left, as transformers
    defines them: repetition_penalty, temperature, top_k, top_p, min_p.

    Raises ValueError for a value that means nothing, and for a filter that greedy decoding would ignore.
    """

    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token (greedy)."""
    top_k: int | None = None
    """Keep the k likeliest tokens, and those as likely as the last of them."""
    top_p: float | None = None
    """Keep the fewest tokens that together hold this probability (nucleus sampling, Holtzman et al. 2019)."""
    min_p: float | None = None
    """Keep tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024)."""
    repetition_penalty: float = 1.0
    """Divides the positive logits, multiplies the negative ones, of tokens that the prompt or the text so far
    holds (Keskar et al. 2019); above 1 discourages, below 1 encourages."""
    seed: int | None = None
    """Equal seeds draw equal tokens; None takes a seed from torch's global generator."""

    def __post_init__(self) -> None:
        for name, ok, expected in (
            (
                "temperature",
                self.temperature == 0 or MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE,
                f"0 (greedy), or {MIN_TEMPERATURE:g} … {MAX_TEMPERATURE:g}",
            ),
            ("top_k", self.top_k is None or self.top_k >= 1, "1 or more, or None"),
            ("top_p", self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1, or None"),
            ("min_p", self.min_p is None or 0 <= self.min_p <= 1, "from 0 to 1, or None"),
            (
                "repetition_penalty",
                MIN_PENALTY <= self.repetition_penalty <= MAX_PENALTY,
                f"{MIN_PENALTY:g} … {MAX_PENALTY:g}; 1 is none",
            ),
            ("seed", self.seed is None or -(2**63) <= self.seed < 2**64, "an integer of 64 bits, or None"),
        ):
            if not ok:
                raise ValueError(f"{name}={getattr(self, name)}: expected {expected}")
        ignored = [name for name in ("top_k", "top_p", "min_p") if getattr(self, name) is not None]
        if self.temperature == 0 and ignored:
            raise ValueError(f"{' and '.join(ignored)}: no effect at temperature=0 (greedy); set temperature above 0")

    def for_row(self, index: int) -> "Sampling":
        """The options of the row of this index in a batch: seed + index."""
        return self if self.seed is None else replace(self, seed=self.seed + index)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def penalize(logits: Tensor, penalty: float, seen: Tensor) -> Tensor:
    """Logits (V,) with the repetition penalty worked in where `seen` (V,) is True: (V,), finite."""
    limit = torch.finfo(logits.dtype).max
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits).clamp(-limit, limit)


def filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Logits (V,), cut and tempered for drawing: 0 for the likeliest, -inf where a token is not to be drawn.
    Not for greedy."""
    logits = (logits - logits.max()) / sampling.temperature  # of the likeliest 0: no overflow makes it inf or nan
    if sampling.top_k is not None and sampling.top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(sampling.top_k).values[-1], -math.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, ids = logits.sort()
        cut = ordered.softmax(0).cumsum(0) <= 1 - sampling.top_p
        cut[-1] = False  # the likeliest stays
        logits = logits.masked_fill(torch.empty_like(cut).scatter_(0, ids, cut), -math.inf)
    if sampling.min_p is not None:
        probabilities = logits.softmax(0)
        logits = logits.masked_fill(probabilities < sampling.min_p * probabilities.max(), -math.inf)
    return logits


class Chooser:
    """Chooses the tokens of one row: its options, its own generator, and the tokens it has seen."""

    def __init__(self, sampling: Sampling, input_ids: Tensor, vocab_size: int) -> None:
        """`input_ids` (T,) is the prompt; its device is that of the logits."""
        self.sampling = sampling
        self.plain = sampling.greedy and sampling.repetition_penalty == 1
        self._generator: torch.Generator | None = None
        self._seen: Tensor | None = None
        if not sampling.greedy:
            seed = int(torch.randint(2**63 - 1, ())) if sampling.seed is None else sampling.seed
            self._generator = torch.Generator(input_ids.device).manual_seed(seed)
        if sampling.repetition_penalty != 1:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=input_ids.device)
            self._seen[input_ids] = True

    def choose(self, logits: Tensor) -> Tensor:
        """The next token, a scalar, from logits (V,) in fp32."""
        if self._seen is not None:
            logits = penalize(logits, self.sampling.repetition_penalty, self._seen)
        if self.sampling.greedy:
            token = logits.argmax()
        else:
            probabilities = filtered(logits, self.sampling).softmax(0)
            token = torch.multinomial(probabilities, 1, generator=self._generator).squeeze()
        if self._seen is not None:
            self._seen[token] = True
        return token
