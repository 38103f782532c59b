"""Greedy or sampled continuations of many prompts: the one place of this package that generates."""

from collections.abc import Callable, Sequence

from modelzoo.evaluate.scoring import Scorer
from modelzoo.model.decoder import Token
from modelzoo.model.generate import generate
from modelzoo.model.sampling import Sampling


def continue_prompts(
    scorer: Scorer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_id: int,
    has_ended: Callable[[list[int]], bool],
    sampling: Sampling = Sampling(),
) -> list[list[int]]:
    """The new tokens of each prompt, up to `max_new_tokens`, up to `stop_id`, or until `has_ended` (which is given
    all new tokens so far) says so."""
    texts: list[list[int]] = [[] for _ in prompts]

    def on_token(index: int, token: Token) -> bool:
        texts[index].append(token.token_id)
        return has_ended(texts[index])

    with scorer.accelerator.autocast():
        generate(
            scorer.model,
            prompts,
            max_new_tokens,
            sampling,
            stop_ids=[stop_id],
            on_token=on_token,
            max_rows=scorer.batch_size,
        )
    return texts
