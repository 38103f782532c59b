"""The model as lm-evaluation-harness (EleutherAI) asks for it. Needs the extra `lm_eval`.

Requests become tokens, and numbers come back, as from the harness's own model `hf` (lm_eval/models/huggingface.py)
on the same weights: the context in front of a continuation is cut from the left, an empty one is the end-of-document,
the softmax is over all rows of the embedding.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows
from tokenizers import Tokenizer as Backend

from modelzoo.base_config import UserError
from modelzoo.evaluate.generation import continue_prompts
from modelzoo.evaluate.scoring import Scorer
from modelzoo.evaluate.windows import Row
from modelzoo.model.sampling import Sampling
from modelzoo.tokenizer import Tokenizer

MAX_NEW_TOKENS = 256
"""Where a task says nothing; `hf`'s number."""
SAMPLING = ("temperature", "top_k", "top_p")


class HarnessModel(TemplateLM):
    """A model of ours, at a fixed batch size."""

    def __init__(
        self,
        scorer: Scorer,
        tokenizer: Tokenizer,
        max_length: int | None = None,
        seed: int = 0,
        on_requests: Callable[[int], None] = lambda number: None,
    ) -> None:
        """`max_length` tokens are read at once (the model's max_seq_len); `on_requests` hears how many are done."""
        super().__init__()
        self._scorer = scorer
        self._end_id = tokenizer.end_of_document_id
        self._end_text = tokenizer.end_of_document_token
        # The harness has special tokens read as such where a text spells them out, as transformers does; documents
        # of ours never are, so the tokenizer that came with the model is left as it is.
        self._backend = Backend.from_str(tokenizer.backend.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        self._tokenizer_sha256 = tokenizer.sha256
        self._seed = seed
        self._on_requests = on_requests
        self.max_length = max_length or scorer.model.config.max_seq_len
        self.batch_size = scorer.batch_size
        self._device = scorer.accelerator.device

    @property
    def eot_token_id(self) -> int:
        """Also what stands for an empty context: the families have no other token for a beginning."""
        return self._end_id

    @property
    def tokenizer_name(self) -> str:
        """For the harness's caches."""
        return self._tokenizer_sha256

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """The ids of a text, special tokens among them; what the file's own template adds as well, unless told not
        to, or where the text begins with the end-of-document already."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self._end_text)
        return list(self._backend.encode(string, add_special_tokens=add_special_tokens).ids)

    def loglikelihood(self, requests: Sequence[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Of continuations after contexts; without the harness's bar."""
        return list(super().loglikelihood(list(requests), disable_tqdm=True))

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Of (key, context, continuation): the continuation's log-likelihood, and whether greedy decoding gives it."""
        rows = [self._row(*request) for request in requests]
        scores = self._scorer.score(rows, lambda done: self._on_requests(len(done)))
        answers = [(float(score.log_likelihoods.sum(dtype=np.float64)), score.is_greedy) for score in scores]
        for (key, _, _), answer in zip(requests, answers, strict=True):
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, answer)
        return answers

    def _row(self, key: Any, context: list[int], continuation: list[int]) -> Row:
        if not 0 < len(continuation) <= self.max_length:
            raise UserError(
                f"a continuation of {len(continuation)} tokens is asked for ({key!r:.80}), and the model reads "
                f"{self.max_length}; expected at least 1 and at most so many"
            )
        tokens = np.array(context + continuation, dtype=np.uint32)[-(self.max_length + 1) :]
        return Row(tokens[:-1], tokens[-len(continuation) :])

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in the harness's windows: disjoint ones, but for the last."""
        rows: list[Row] = []
        ends = [0]
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            rows += [Row(np.array(a, dtype=np.uint32), np.array(b, dtype=np.uint32)) for a, b in windows]
            ends.append(len(rows))
        scores = self._scorer.score(rows)
        sums = [float(score.log_likelihoods.sum(dtype=np.float64)) for score in scores]
        answers = [sum(sums[begin:end]) for begin, end in pairwise(ends)]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        self._on_requests(len(requests))
        return answers

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """The text after each context, up to a stop string, to the end of the document, or for so many tokens."""
        answers = [""] * len(requests)
        of_options: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            of_options.setdefault(repr(request.args[1]), []).append(index)
        for indices in of_options.values():
            contexts = [requests[index].args[0] for index in indices]
            for index, text in zip(indices, self._texts(contexts, requests[indices[0]].args[1]), strict=True):
                answers[index] = text
                self.cache_hook.add_partial("generate_until", requests[index].args, text)
        self._on_requests(len(requests))
        return answers

    def _texts(self, contexts: list[str], options: dict[str, Any]) -> list[str]:
        options = dict(normalize_gen_kwargs(options, MAX_NEW_TOKENS))
        until = handle_stop_sequences(options.pop("until", None), eos=self._end_text)
        max_new_tokens = options.pop("max_gen_toks")
        room = self.max_length - max_new_tokens
        if room < 1:
            raise UserError(
                f"generation_kwargs: max_gen_toks={max_new_tokens} leaves no room for a context: the model reads "
                f"{self.max_length} tokens; use less in the task"
            )
        sampling = {"temperature": 0.0, **{name: options.pop(name) for name in SAMPLING if name in options}}
        if options.pop("do_sample", None) is False or sampling["temperature"] == 0:
            sampling = {"temperature": 0.0}
        else:
            sampling["seed"] = self._seed
        if options:
            raise UserError(
                f"generation_kwargs: {', '.join(sorted(options))}: not supported; expected some of until, "
                f"max_gen_toks, do_sample, {', '.join(SAMPLING)}"
            )
        try:
            chosen = Sampling(**sampling)
        except ValueError as error:
            raise UserError(f"generation_kwargs: {error}") from None
        prompts = [(self.tok_encode(context) or [self.prefix_token_id])[-room:] for context in contexts]

        def has_ended(tokens: list[int]) -> bool:
            text = self._decode(tokens)
            return any(term in text for term in until if term)

        texts = continue_prompts(self._scorer, prompts, max_new_tokens, self._end_id, has_ended, chosen)
        return [postprocess_generated_text(self._decode(tokens), until, None) for tokens in texts]

    def _decode(self, tokens: list[int]) -> str:
        return str(self._backend.decode(tokens, skip_special_tokens=True))
