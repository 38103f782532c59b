"""Slow and plain: the loss of a document token by token, through transformers alone."""

from typing import Any

import torch
from torch import Tensor

from modelzoo.evaluate.scoring import Scorer
from modelzoo.model.gpt import GPT
from modelzoo.trainer.accelerator import Accelerator


def scorer(model: GPT, batch_size: int = 4) -> Scorer:
    return Scorer(model, Accelerator(torch.device("cpu"), "fp32", compile=False, fused_optimizer=True), batch_size)


@torch.no_grad()
def log_likelihood(theirs: Any, context: list[int], token: int) -> float:
    """Of one token after a context, by a forward pass of its own."""
    logits: Tensor = theirs(torch.tensor([context]), use_cache=False).logits[0, -1]
    return float(logits.double().log_softmax(-1)[token])


def document_losses(theirs: Any, ids: list[int], end: int, seq_len: int, stride: int) -> list[float]:
    """The loss of every token of a document and of its closing end-of-document: position p is read in the first
    window that reaches it, windows starting at 0, stride, 2 stride, …"""
    stream = [end, *ids, end]
    losses = []
    for place in range(1, len(stream)):
        start = 0
        while start + seq_len < place:
            start += stride
        losses.append(-log_likelihood(theirs, stream[start:place], stream[place]))
    return losses
