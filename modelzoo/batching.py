"""Completions in a batch that changes while it runs: each begins when a row is free and leaves when it is done."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

from modelzoo.model.decoder import Decoder, Token
from modelzoo.model.sampling import Sampling
from modelzoo.text_stream import TextStream
from modelzoo.tokenizer import Tokenizer

FinishReason = Literal["stop", "length", "end_of_document", "error"]
"""A stop string was met; max_new_tokens were made; the model ended the document; the computation failed."""


@dataclass(frozen=True)
class ShownToken:
    """A token of a completion's text."""

    token: Token
    offset: int
    """Characters of the completion's text before it."""


@dataclass(frozen=True)
class Piece:
    """What one step added to a completion."""

    text: str
    """May be shown: whole characters, nothing of a stop string. Often empty."""
    tokens: tuple[ShownToken, ...]
    """Those that this text begins in; the end-of-document token and those of a stop string never appear."""
    finish_reason: FinishReason | None


FAILED = Piece("", (), "error")
"""The last piece of a completion whose computation failed."""


@dataclass(eq=False)
class Completion:
    """One continuation: what is asked for, and how far it has come."""

    prompt_ids: Sequence[int]
    sampling: Sampling
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    num_logprobs: int | None = None
    on_piece: Callable[[Piece], None] = lambda piece: None
    """Called in the thread that steps."""
    text: str = ""
    num_tokens: int = 0
    """Tokens made so far, with those that do not show in the text."""
    finish_reason: FinishReason | None = None
    error: Exception | None = None
    """What failed, where that is known to be of this completion alone."""
    seconds: float = 0.0
    """From its beginning in the batch to its last token."""
    _began: float = 0.0
    _held: list[ShownToken] = field(default_factory=list)
    """Tokens whose text is held back."""


class Batcher:
    """The completions that a decoder is working on. One thread at a time may use it."""

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer) -> None:
        self.decoder = decoder
        self.tokenizer = tokenizer
        self._rows: dict[int, tuple[Completion, TextStream]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_free(self) -> int:
        """Completions that `add` still takes."""
        return self.decoder.num_free

    def check(self, completion: Completion) -> None:
        """Raise the ValueError that `add` would. Any thread may call this."""
        self.decoder.check(completion.prompt_ids, completion.max_new_tokens, (), completion.num_logprobs)

    def add(self, completion: Completion) -> None:
        """Start a completion; a row must be free. Raises ValueError for what the decoder cannot do."""
        row = self.decoder.add(
            completion.prompt_ids,
            completion.sampling,
            completion.max_new_tokens,
            stop_ids=[self.tokenizer.end_of_document_id],
            num_logprobs=completion.num_logprobs,
        )
        completion._began = time.monotonic()
        self._rows[row] = completion, TextStream(self.tokenizer.decode_bytes, completion.stop)

    def remove(self, completion: Completion) -> None:
        """Give a completion up; nothing happens if it is done, or never began."""
        for row, (held, _) in list(self._rows.items()):
            if held is completion:
                self._drop(row)

    def clear(self) -> list[Completion]:
        """Give all completions up, and return them."""
        rows, self._rows = self._rows, {}
        for row in rows:
            with suppress(KeyError):  # a step that failed may have dropped it
                self.decoder.remove(row)
        return [completion for completion, _ in rows.values()]

    def step(self) -> None:
        """One more token for every completion that has read its prompt. What fails for one completion alone ends
        that one; raises what fails for all."""
        for token in self.decoder.step():
            completion, stream = self._rows[token.row]
            try:
                if token.error is not None:
                    raise token.error
                piece = _take(completion, stream, token)
            except Exception as error:
                completion.finish_reason, completion.error, piece = "error", error, FAILED
            if piece.finish_reason is not None:
                completion.seconds = time.monotonic() - completion._began
            if token.finished:
                del self._rows[token.row]
            elif piece.finish_reason is not None:
                self._drop(token.row)
            completion.on_piece(piece)

    def run(self, completions: Iterable[Completion]) -> Iterator[Completion]:
        """Work through completions, as many at a time as there are rows; each as it is done, in any order.

        Raises what any of them fails with.
        """
        waiting, active = iter(completions), list[Completion]()
        while True:
            for completion in islice(waiting, self.num_free):
                self.add(completion)
                active.append(completion)
            if not active:
                return
            self.step()
            done = [completion for completion in active if completion.finish_reason is not None]
            active = [completion for completion in active if completion.finish_reason is None]
            for completion in done:
                if completion.error is not None:
                    raise completion.error
                yield completion

    def _drop(self, row: int) -> None:
        del self._rows[row]
        self.decoder.remove(row)


def _take(completion: Completion, stream: TextStream, token: Token) -> Piece:
    """Work a new token into its completion."""
    completion.num_tokens += 1
    text, reason = "", _REASONS.get(token.finished)
    if token.finished != "stop":
        completion._held.append(ShownToken(token, stream.num_decoded))
        text = stream.push(token.token_id)
        if stream.stopped:
            reason = "stop"
    if reason is not None:
        text += stream.finish()
    shown = [held for held in completion._held if held.offset < stream.num_released]
    completion._held = completion._held[len(shown) :]
    completion.text += text
    completion.finish_reason = reason
    return Piece(text, tuple(shown), reason)


_REASONS: dict[str | None, FinishReason] = {"stop": "end_of_document", "length": "length"}
