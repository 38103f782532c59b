"""A decoder without a model: each row gets the tokens that its prompt is assigned to, when the gate is open."""

import threading
from collections.abc import Collection, Mapping, Sequence

from modelzoo.model.decoder import Token
from modelzoo.model.sampling import Sampling
from modelzoo.tokenizer import Tokenizer


class ScriptedDecoder:
    """Answers `prompt` with the tokens of `answers[prompt]` and the end of the document; other prompts for ever."""

    def __init__(
        self, tokenizer: Tokenizer, answers: Mapping[str, str] = {}, max_rows: int = 4, max_len: int = 100
    ) -> None:
        self.tokenizer, self.answers, self.max_rows, self.max_len = tokenizer, dict(answers), max_rows, max_len
        self.gate = threading.Event()
        self.gate.set()
        self.fails = False
        self.ill_prompt: str | None = None
        self.most_rows = self.num_begun = self.num_steps = 0
        self.samplings: list[Sampling] = []
        self.rows: dict[int, tuple[list[int], int]] = {}
        self.prompts: dict[int, str] = {}

    @property
    def num_free(self) -> int:
        return self.max_rows - len(self.rows)

    def check(
        self, ids: Sequence[int], max_new_tokens: int, stop_ids: Collection[int] = (), num_logprobs: int | None = None
    ) -> None:
        if not 0 <= min(ids) <= max(ids) < self.tokenizer.vocab_size:
            raise ValueError("the prompt: token id outside the vocabulary")

    def add(
        self,
        input_ids: Sequence[int],
        sampling: Sampling,
        max_new_tokens: int,
        *,
        stop_ids: Collection[int] = (),
        num_logprobs: int | None = None,
    ) -> int:
        assert self.num_free
        end = self.tokenizer.end_of_document_id
        assert set(stop_ids) == {end}
        prompt = self.tokenizer.decode(input_ids)
        answer = self.answers.get(prompt)
        ids = self.tokenizer.encode("x" * 1000) if answer is None else [*self.tokenizer.encode(answer), end]
        self.num_begun += 1
        self.samplings.append(sampling)
        self.rows[self.num_begun] = ids, max_new_tokens
        self.prompts[self.num_begun] = prompt
        self.most_rows = max(self.most_rows, len(self.rows))
        return self.num_begun

    def remove(self, row: int) -> None:
        del self.rows[row]

    def step(self) -> list[Token]:
        if not self.gate.wait(20):  # a test that fails does not hang
            self.gate.set()
        self.num_steps += 1
        if self.fails:
            raise ValueError("planted failure")
        tokens = []
        for row, (ids, remaining) in list(self.rows.items()):
            if self.prompts[row] == self.ill_prompt:
                tokens.append(Token(row, -1, None, (), "error", ValueError("planted failure of one row")))
                del self.rows[row]
                continue
            last = "stop" if ids[0] == self.tokenizer.end_of_document_id else "length" if remaining == 1 else None
            tokens.append(Token(row, ids[0], -float(ids[0]), ((ids[0], -float(ids[0])), (5, -50.0)), last))
            self.rows[row] = ids[1:], remaining - 1
            if last:
                del self.rows[row]
        return tokens
