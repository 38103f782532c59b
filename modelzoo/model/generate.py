"""Text generation: prompts in, continuations out."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from modelzoo.model.decoder import Decoder, Finished, Token
from modelzoo.model.gpt import GPT
from modelzoo.model.sampling import Sampling
from modelzoo.model.weights import Form


@dataclass
class Completion:
    """What continues one prompt."""

    token_ids: list[int] = field(default_factory=list)
    """Without the prompt; the stop id, where one ended it, is the last."""
    logprobs: list[float] = field(default_factory=list)
    """Of each token, where they were asked for."""
    finished: Finished | None = None
    """stop: by a stop id or by `on_token`. length: max_new_tokens are reached."""


def generate(
    model: GPT,
    prompts: Sequence[Sequence[int]] | Tensor,
    max_new_tokens: int,
    sampling: Sampling | Sequence[Sampling] = Sampling(),
    *,
    stop_ids: Collection[int] = (),
    num_logprobs: int | None = None,
    on_token: Callable[[int, Token], bool | None] | None = None,
    max_rows: int = 16,
    weights: Form = "model",
) -> list[Completion]:
    """Continue every prompt, a list of token ids each (or a tensor (B, T)), by up to `max_new_tokens`.

    With one `sampling` for all, prompt i draws with its seed + i, so equal prompts continue differently; a
    list gives each prompt its own. `max_rows` prompts are at work at a time, and the next takes the place of one
    that ends. `on_token(i, token)` is called with each new token of prompt i, and ends its text by returning
    True. `weights` chooses another form of the weights, for speed (`weights.py`): each call makes it anew, where a
    `Decoder` that is kept makes it once. Prompts that share a batch do not change each other's tokens; see `Decoder`
    for the limits of that.

    Raises ValueError for options that mean nothing, and where a prompt with max_new_tokens exceeds the model's
    max_seq_len: before anything is generated. ValueError, later, where the model's logits are not finite.
    """
    ids = [prompt.tolist() for prompt in prompts] if isinstance(prompts, Tensor) else [list(p) for p in prompts]
    if isinstance(sampling, Sampling):
        options = [sampling.for_row(index) for index in range(len(ids))]
    elif len(sampling) == len(ids):
        options = list(sampling)
    else:
        raise ValueError(f"{len(sampling)} samplings for {len(ids)} prompts: expected one of each, or one for all")
    if max_rows < 1:
        raise ValueError(f"max_rows={max_rows}: expected 1 or more")
    completions = [Completion() for _ in ids]
    longest = max((len(prompt) for prompt in ids), default=0) + max_new_tokens
    max_len = max(1, min(longest, model.config.max_seq_len))
    decoder = Decoder(model, max(1, min(max_rows, len(ids))), max_len, weights=weights)
    for prompt in ids:
        decoder.check(prompt, max_new_tokens, stop_ids, num_logprobs)
    waiting, at_work = list(enumerate(ids))[::-1], dict[int, int]()  # at_work: handle to index
    while waiting or at_work:
        while waiting and decoder.num_free:
            index, prompt = waiting.pop()
            handle = decoder.add(prompt, options[index], max_new_tokens, stop_ids=stop_ids, num_logprobs=num_logprobs)
            at_work[handle] = index
        for token in decoder.step():
            if token.error is not None:
                raise token.error
            index = at_work[token.row]
            completion = completions[index]
            completion.token_ids.append(token.token_id)
            if token.logprob is not None:
                completion.logprobs.append(token.logprob)
            completion.finished = token.finished
            if on_token is not None and on_token(index, token) and token.finished is None:
                decoder.remove(token.row)
                completion.finished = "stop"
            if completion.finished is not None:
                del at_work[token.row]
    return completions
