"""Generation step by step, for rows that come and go (continuous batching).

decoder = Decoder(model, max_rows=8)
row = decoder.add(prompt_ids, Sampling(temperature=0.8, seed=1), max_new_tokens=100, stop_ids=[0])
while decoder.num_rows:
    for token in decoder.step():
        print(token.row, token.token_id, token.finished)
"""

import math
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from modelzoo.model.cache import KVCache
from modelzoo.model.gpt import GPT
from modelzoo.model.inference import Inference
from modelzoo.model.sampling import Chooser, Sampling
from modelzoo.model.weights import Form

Finished = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class Token:
    """A new token of a row."""

    row: int
    """What `add` returned."""
    token_id: int
    """-1 where choosing it failed."""
    logprob: float | None
    """Natural logarithm of its probability under the model, before penalty, temperature and filters; None
    unless asked for."""
    top_logprobs: tuple[tuple[int, float], ...]
    """The likeliest tokens and their logprobs, likeliest first; as many as asked for."""
    finished: Finished | None
    """stop: this is one of the row's `stop_ids`. length: this was the last of `max_new_tokens`. error: there is
    no token, see `error`. The row is gone then."""
    error: Exception | None = None
    """Why no token could be chosen: ValueError where the model's logits are not finite."""


@dataclass(slots=True)
class _Row:
    handle: int
    pending: list[int]
    """Tokens whose keys and values are not stored yet: what is left of the prompt, or the newest token."""
    chooser: Chooser
    remaining: int
    stop_ids: frozenset[int]
    num_logprobs: int | None
    reading: bool = True
    """Its prompt is not stored in whole yet."""


class Decoder:
    """Rows of tokens that grow by one token a step each; they may differ in length and join and leave between
    steps.

    A row's tokens depend on its prompt, its options and its seed alone, not on its company: it has a generator
    of its own. Rounding does depend on it (a product of eight rows may add in another order than one of a single
    row), and tells where two tokens are level to the last bits: next to never in fp32, now and then in bf16, fp16
    and int8.
    """

    def __init__(
        self,
        model: GPT,
        max_rows: int = 8,
        max_len: int | None = None,
        *,
        max_prefill_tokens: int = 512,
        weights: Form = "model",
        keep_model: bool = True,
    ) -> None:
        """Takes the memory for `max_rows` rows of up to `max_len` tokens, prompt included (max_seq_len). A step
        reads at most `max_prefill_tokens` of the prompts that wait, so that none holds up the others for long.
        `weights` chooses another form of the weights, for speed: see `weights.py`;
        without `keep_model` the model loses its blocks as they are copied, and no moment has both in memory.

        Raises ValueError where max_len exceeds the model's max_seq_len.
        """
        config = model.config
        self.max_len = config.max_seq_len if max_len is None else max_len
        for name, value, limit in (
            ("max_rows", max_rows, None),
            ("max_len", self.max_len, config.max_seq_len),
            ("max_prefill_tokens", max_prefill_tokens, None),
        ):
            if value < 1 or (limit is not None and value > limit):
                raise ValueError(f"{name}={value}: expected at least 1" + (f", at most {limit}" if limit else ""))
        self.config, self.max_rows, self.max_prefill_tokens = config, max_rows, max_prefill_tokens
        self._inference = Inference(model, weights, max_rows, keep_model)
        weight = model.embedding.weight
        self._device = weight.device
        self._cache = KVCache(config, max_rows, self.max_len, dtype=weight.dtype, device=weight.device)
        self._rows: list[_Row] = []
        """By slot of the cache. All but the last have read their prompt; the last may be at it."""
        self._waiting: deque[_Row] = deque()
        self._next_handle = 0

    @property
    def num_rows(self) -> int:
        """Rows that are not finished, those that wait for their first step included."""
        return len(self._rows) + len(self._waiting)

    @property
    def num_free(self) -> int:
        """Rows that `add` still takes."""
        return self.max_rows - self.num_rows

    def add(
        self,
        input_ids: Sequence[int],
        sampling: Sampling = Sampling(),
        max_new_tokens: int = 100,
        *,
        stop_ids: Collection[int] = (),
        num_logprobs: int | None = None,
    ) -> int:
        """A row that continues `input_ids`; its handle. The prompt is read in the next steps.

        `num_logprobs` asks for the logprob of each token and of that many of the likeliest. Raises ValueError
        for an empty prompt, ids outside the vocabulary, and a row longer than max_len; RuntimeError without a
        free row.
        """
        self.check(input_ids, max_new_tokens, stop_ids, num_logprobs)
        if not self.num_free:
            raise RuntimeError(f"all {self.max_rows} rows are taken")
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        ids = list(input_ids)
        prompt = torch.tensor(ids, device=self._device)
        chooser = Chooser(sampling, prompt, self.config.vocab_size)
        self._waiting.append(_Row(handle, ids, chooser, max_new_tokens, frozenset(stop_ids), num_logprobs))
        return handle

    def check(
        self,
        input_ids: Sequence[int],
        max_new_tokens: int,
        stop_ids: Collection[int] = (),
        num_logprobs: int | None = None,
    ) -> None:
        """Raise the ValueError that `add` would."""
        length, vocab_size = len(input_ids), self.config.vocab_size
        if length == 0:
            raise ValueError("the prompt is empty; give at least one token, for example the end-of-document id")
        for name, ids in (("the prompt", input_ids), ("stop_ids", stop_ids)):
            if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
                wrong = next(token for token in ids if not 0 <= token < vocab_size)
                raise ValueError(f"{name}: token id {wrong}: expected 0 … {vocab_size - 1}")
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={max_new_tokens}: expected 1 or more")
        if num_logprobs is not None and not 0 <= num_logprobs <= vocab_size:
            raise ValueError(f"num_logprobs={num_logprobs}: expected 0 … {vocab_size}, or None")
        if length + max_new_tokens > self.max_len:
            whose = "max_seq_len" if self.max_len == self.config.max_seq_len else "max_len"
            raise ValueError(
                f"a prompt of {length} tokens and max_new_tokens={max_new_tokens} exceed {whose}={self.max_len}; "
                f"shorten the prompt, or use at most max_new_tokens={max(0, self.max_len - length)}"
            )

    def remove(self, row: int) -> None:
        """Drop a row before it finishes. Raises KeyError for a row that is gone."""
        for waiting in self._waiting:
            if waiting.handle == row:
                self._waiting.remove(waiting)
                return
        for slot, active in enumerate(self._rows):
            if active.handle == row:
                self._release(slot)
                return
        raise KeyError(row)

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """One new token of each row that has read its prompt; none (an empty list) of a row still at it.

        Rows whose prompt ends in this step get their first token in it. A row whose token cannot be chosen ends
        with an error, and the others go on.
        """
        runs = self._take_prompts()
        rows = self._rows
        if not rows:
            return []
        single = len(rows) - len(runs)
        counts = [1] * single + [count for _, count in runs]
        self._cache.expect(single, runs)
        input_ids = [token for row, count in zip(rows, counts, strict=True) for token in row.pending[:count]]
        hidden = self._inference.hidden(torch.tensor(input_ids, device=self._device), self._cache)  # (N, D)
        for row, count in zip(rows, counts, strict=True):
            del row.pending[:count]
        ready = [slot for slot, row in enumerate(rows) if not row.pending]
        if runs:
            ends = [end - 1 for end in accumulate(counts)]
            hidden = hidden[[ends[slot] for slot in ready]]
        tokens = self._choose(self._inference.logits(hidden), [rows[slot] for slot in ready])
        for slot, token in reversed(list(zip(ready, tokens, strict=True))):
            if token.finished:
                self._release(slot)
        return tokens

    def _take_prompts(self) -> list[tuple[int, int]]:
        """Give waiting rows a slot; (slot, number of prompt tokens to read) of each row that reads in this step.

        Rows are read in turn, so only the last row can be left with a part of its prompt unread.
        """
        runs, room = list[tuple[int, int]](), self.max_prefill_tokens
        slot = len(self._rows) - 1 if self._rows and self._rows[-1].reading else len(self._rows)
        while room and (slot < len(self._rows) or self._waiting):
            if slot == len(self._rows):
                self._rows.append(self._waiting.popleft())
                self._cache.lengths[slot] = 0
            runs.append((slot, min(len(self._rows[slot].pending), room)))
            room -= runs[-1][1]
            slot += 1
        return runs

    def _choose(self, logits: Tensor, rows: list[_Row]) -> list[Token]:
        """The next token of each row, from logits (rows, V)."""
        best, chosen = logits.max(-1)
        errors = dict[int, Exception]()
        for index, (row, value) in enumerate(zip(rows, best.tolist(), strict=True)):
            try:
                if not math.isfinite(value):
                    raise ValueError(
                        "the model's logits are not finite; its weights may be damaged, or fp16 too narrow"
                    )
                if not row.chooser.plain:
                    chosen[index] = row.chooser.choose(logits[index])
            except Exception as error:  # of this row alone
                errors[index] = error
        tokens = []
        for index, (row, token_id) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            if index in errors:
                row.reading = False
                tokens.append(Token(row.handle, -1, None, (), "error", errors[index]))
                continue
            row.pending, row.reading, row.remaining = [token_id], False, row.remaining - 1
            finished: Finished | None = None
            if token_id in row.stop_ids:
                finished = "stop"
            elif row.remaining == 0:
                finished = "length"
            logprob, top = None, list[tuple[int, float]]()
            if row.num_logprobs is not None:
                logprobs = logits[index].log_softmax(0)
                logprob = float(logprobs[token_id])
                values, ids = logprobs.topk(row.num_logprobs)
                top = list(zip(ids.tolist(), values.tolist(), strict=True))
            tokens.append(Token(row.handle, token_id, logprob, tuple(top), finished))
        return tokens

    def _release(self, slot: int) -> None:
        """Drop a slot's row. Rows that decode stay without a gap, and one that reads stays the last."""
        last = len(self._rows) - 1
        if self._rows[last].reading and slot < last - 1:
            self._move(last - 1, slot)
            slot = last - 1
        if slot < last:
            self._move(last, slot)
        self._rows.pop()

    def _move(self, source: int, target: int) -> None:
        self._cache.move(source, target)
        self._rows[target] = self._rows[source]
