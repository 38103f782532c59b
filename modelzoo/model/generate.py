"""Text generation with a key-value cache.

Shapes: B batch, T tokens of the prompt, V vocabulary.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from modelzoo.model.cache import KVCache
from modelzoo.model.gpt import GPT


@torch.inference_mode()
def generate(
    model: GPT,
    input_ids: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_id: int | None = None,
    on_token: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Continue the prompts `input_ids` (B, T), all of one length: (B, T + new tokens).

    temperature 0 takes the likeliest token; otherwise tokens are drawn from the softmax of logits /
    temperature, cut to the `top_k` likeliest and then to the fewest that hold probability `top_p` (nucleus
    sampling, Holtzman et al. 2019). The same `seed` draws the same tokens; None goes on with torch's global
    generator. Ids of padding rows (vocab_size and above) are never drawn. After its `stop_id` a row repeats
    it; generation ends when all rows have. `on_token` is called with each step's tokens (B,).

    Raises ValueError for options that mean nothing, and if T + max_new_tokens exceeds the model's
    max_seq_len.
    """
    _check(model, input_ids, max_new_tokens, temperature, top_k, top_p, stop_id)
    generator = None if seed is None else torch.Generator(input_ids.device).manual_seed(seed)
    cache = KVCache(model.config.num_layers, max_len=input_ids.shape[1] + max_new_tokens)
    stopped = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
    output, step = [input_ids], input_ids
    was_training = model.training
    model.eval()
    try:
        for _ in range(max_new_tokens):
            hidden = model.hidden(step, cache)[:, -1]
            logits = model.logits(hidden)[:, : model.config.vocab_size].float()  # (B, vocab_size)
            token = _choose(logits, temperature, top_k, top_p, generator)  # (B,)
            if stop_id is not None:
                token = token.masked_fill(stopped, stop_id)
                stopped |= token == stop_id
            step = token[:, None]
            output.append(step)
            if on_token is not None:
                on_token(token)
            if stop_id is not None and stopped.all():
                break
    finally:
        model.train(was_training)
    return torch.cat(output, dim=1)


def _choose(
    logits: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
) -> Tensor:
    """One token for each row of logits (B, V): (B,)."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    probabilities = logits.softmax(-1)
    if top_p is not None:
        ordered, ids = probabilities.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # held by likelier tokens: the likeliest always stays
        probabilities = torch.zeros_like(ordered).scatter(-1, ids, ordered.masked_fill(before >= top_p, 0))
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def _check(
    model: GPT,
    input_ids: Tensor,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    stop_id: int | None,
) -> None:
    config, length = model.config, input_ids.shape[1]
    if length == 0:
        raise ValueError("the prompt is empty; give at least one token, for example the end-of-document id")
    if length + max_new_tokens > config.max_seq_len:
        raise ValueError(
            f"a prompt of {length} tokens and max_new_tokens={max_new_tokens} exceed "
            f"max_seq_len={config.max_seq_len}; shorten the prompt, or use at most "
            f"max_new_tokens={max(0, config.max_seq_len - length)}"
        )
    for name, value, ok, expected in (
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 0, "0 or more"),
        ("temperature", temperature, 0 <= temperature < float("inf"), "0 (greedy) or more"),
        ("top_k", top_k, top_k is None or top_k >= 1, "1 or more, or None"),
        ("top_p", top_p, top_p is None or 0 < top_p <= 1, "above 0 and at most 1, or None"),
        (
            "stop_id",
            stop_id,
            stop_id is None or 0 <= stop_id < config.vocab_size,
            f"below {config.vocab_size}",
        ),
    ):
        if not ok:
            raise ValueError(f"{name}={value}: expected {expected}")
    if temperature == 0 and (top_k is not None or top_p is not None):
        raise ValueError("top_k and top_p have no effect at temperature=0 (greedy); set temperature above 0")
