"""The sizes of a model's activations after a few steps of training: what Yang's coordinate check looks at.

Under muP each of them moves as far in a wide model as in a narrow one (Yang et al. 2022, arXiv:2203.03466,
appendix D.1). Shapes: B batch, T positions, D hidden_size, H heads, K head_dim.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from modelzoo.model.block import Block
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.mup.widths import Settings
from modelzoo.optimizer.base import OptimizerConfig, parameter_groups

EMBEDDING, ATTENTION_LOGITS, HEAD, LOGITS = "embedding", "attention logits", "head", "logits"

NUM_SUCCESSORS = 4
"""Tokens that may follow a token in the synthetic text."""


@dataclass(frozen=True)
class Size:
    """Root mean squares of one part's output, over positions and coordinates, on text that is not trained on."""

    initial: float
    """Before training."""
    trained: float
    """After it."""
    change: float
    """Of the difference between the two."""


def measure(
    config: ModelConfig, optimizer: OptimizerConfig, width: int, seed: int, settings: Settings
) -> dict[str, Size]:
    """Train `config` at `width` for a few steps: the sizes by part, in the order of the forward pass.

    `seed` gives the weights and the text. Of `optimizer` all counts but the learning rate, and
    what it says of single parameters or layers.

    Raises:
        UserError: the width does not fit the config.
    """
    model = GPT(settings.model(config, width), seed=seed)
    batches = markov_text(seed, settings)
    probe, _ = next(batches)
    before, hidden = activations(model, probe)
    groups = parameter_groups(model.named_parameters(), settings.lr, optimizer.weight_decay, model.lr_multipliers())
    optim = optimizer.build(groups, fused=True)
    for _ in range(settings.steps):
        loss, num_tokens = model.loss(*next(batches))
        (loss / num_tokens).backward()
        optim.step()
        optim.zero_grad()
    after, _ = activations(model, probe)
    before[HEAD], after[HEAD] = before[LOGITS], model.logits(hidden).detach()
    return {
        part: Size(_rms(before[part]), _rms(after[part]), _rms(after[part] - before[part]))
        for part in parts(settings.num_layers)
    }


def parts(num_layers: int) -> list[str]:
    """The names in the report, in the order of the forward pass.

    "head" are the logits that the trained head gives to what the blocks put out before training: what the head's
    own updates do.
    """
    of_block = (ATTENTION_LOGITS, "attention", "MLP", "output")
    return [EMBEDDING, *(f"block {i} {name}" for i in range(num_layers) for name in of_block), HEAD, LOGITS]


def markov_text(seed: int, settings: Settings) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches (input_ids, labels), (B, T) each, of text in which the last token says what may follow.

    Each of its few successors is half as likely as the one before: there is something to learn, without a file.
    """
    rng = np.random.default_rng(seed)
    successors = rng.integers(0, settings.vocab_size, (settings.vocab_size, NUM_SUCCESSORS))
    weights = 0.5 ** np.arange(NUM_SUCCESSORS)
    while True:
        tokens = [rng.integers(0, settings.vocab_size, settings.batch_size)]
        for _ in range(settings.seq_len):
            choices = rng.choice(NUM_SUCCESSORS, settings.batch_size, p=weights / weights.sum())
            tokens.append(successors[tokens[-1], choices])
        rows = torch.from_numpy(np.stack(tokens, axis=1))  # (B, T + 1)
        yield rows[:, :-1], rows[:, 1:]


@torch.no_grad()
def activations(model: GPT, input_ids: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What each part of the model puts out for `input_ids` (B, T), by name, and the head's input (B, T, D)."""
    seen: dict[str, Tensor] = {}
    handles = [model.blocks[0].register_forward_pre_hook(lambda _module, args: _keep(seen, EMBEDDING, args[0]))]
    for number, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        for name, module in (("attention", block.attention), ("MLP", block.mlp), ("output", block)):
            part = f"block {number} {name}"
            handles.append(
                module.register_forward_hook(lambda _module, _args, output, part=part: _keep(seen, part, output))
            )
    try:
        with _AttentionLogits(seen):
            hidden = model.hidden(input_ids)
            _keep(seen, LOGITS, model.logits(hidden))
    finally:
        for handle in handles:
            handle.remove()
    return seen, hidden


class _AttentionLogits(TorchFunctionMode):
    """Keeps what each fused attention takes the softmax of: it exists nowhere else."""

    def __init__(self, seen: dict[str, Tensor]) -> None:
        super().__init__()
        self.seen, self.block = seen, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            q, k = args[:2]  # (B, H, T, K) each
            logits = q @ k.mT * kwargs["scale"]  # (B, H, T, T)
            past = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
            _keep(self.seen, f"block {self.block} {ATTENTION_LOGITS}", logits[..., past])
            self.block += 1
        return func(*args, **kwargs)


def _keep(seen: dict[str, Tensor], part: str, value: Tensor) -> None:
    assert part not in seen, part
    seen[part] = value


def _rms(value: Tensor) -> float:
    return value.double().square().mean().sqrt().item()
