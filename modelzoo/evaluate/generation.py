"""Greedy or sampled continuations of many prompts: the one place of this package that generates."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from modelzoo.evaluate.scoring import Scorer
from modelzoo.model.generate import generate


class _AllEnded(Exception):
    """Every text of a batch has reached its end."""


def continue_prompts(
    scorer: Scorer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop_id: int,
    has_ended: Callable[[list[int]], bool],
    **sampling: Any,
) -> list[list[int]]:
    """The new tokens of each prompt, up to `max_new_tokens`, up to `stop_id`, or until `has_ended` (which is given
    all new tokens so far) says so. `sampling` as `generate` takes it."""
    of_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        of_length[len(prompt)].append(index)
    texts: list[list[int]] = [[] for _ in prompts]
    for indices in of_length.values():
        for first in range(0, len(indices), scorer.batch_size):
            _continue(scorer, prompts, indices[first : first + scorer.batch_size], texts, max_new_tokens, stop_id,
                      has_ended, sampling)  # fmt: skip
    return texts


def _continue(
    scorer: Scorer,
    prompts: Sequence[Sequence[int]],
    batch: list[int],
    texts: list[list[int]],
    max_new_tokens: int,
    stop_id: int,
    has_ended: Callable[[list[int]], bool],
    sampling: dict[str, Any],
) -> None:
    """A batch of prompts of one length; their new tokens are added to `texts`."""
    at_work = set(batch)

    def on_token(tokens: Tensor) -> None:
        for index, token in zip(batch, tokens.tolist(), strict=True):
            if index in at_work:
                texts[index].append(token)
                if token == stop_id or has_ended(texts[index]):
                    at_work.discard(index)
        if not at_work:
            raise _AllEnded

    input_ids = torch.tensor([list(prompts[index]) for index in batch], device=scorer.accelerator.device)
    try:
        with scorer.accelerator.autocast():
            generate(scorer.model, input_ids, max_new_tokens, stop_id=stop_id, on_token=on_token, **sampling)
    except _AllEnded:
        pass
