"""Cross-entropy of a linear head, without ever holding the logits of all tokens.

With a vocabulary of 50,000 the logits and their copies in other precisions are most of a training step's
memory and, for small models, of its time. Here a chunk of tokens at a time gets its logits, which become
probabilities and then gradients in the same memory, and are multiplied out to the two gradients that are
kept.

Where ranks share the vocabulary, each has the logits of its own part, and what a softmax needs of all parts is
summed between them.

Shapes: N tokens, C tokens of one chunk, D hidden_size, V vocabulary (of this rank).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup, ReduceOp, all_reduce

CHUNK_WIDE, CHUNK_NARROW = 512, 1024
"""Tokens in a chunk: in fp32, and in bf16 or fp16, where each chunk costs another pass over the gradient."""

CPU_ROWS = 32
"""Tokens whose logits are widened to fp32 at once on the CPU: what its last-level cache holds."""

CPU_VOCAB = 2048
"""Rows of the weight whose logits are made and turned into exponentials at once on the CPU in fp32: likewise."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    group: ProcessGroup | None = None,
    each: Tensor | None = None,
) -> Tensor:
    """The sum over tokens of -log softmax(hidden @ weight.T + bias)[label], in nats: an fp32 scalar.

    hidden (N, D), weight (V, D), bias (V,) or None, labels (N,); N may be 0. Products run in autocast's
    precision where it is on, statistics in fp32 or better; the weight's gradient is summed in fp32. Gradients
    are computed in the forward pass and scaled in place in the backward pass, which can therefore run only
    once. Into `each` (N,), where it is given, goes the loss of every token.

    With a `group`, `weight` and `bias` are this rank's rows of equal parts of the vocabulary, in the order of the
    ranks; hidden and labels are the same on all. The loss and hidden's gradient are then of the whole vocabulary.
    """
    return _LinearCrossEntropy.apply(hidden, weight, bias, labels, torch.is_grad_enabled(), group, each)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        grad_enabled: bool,
        group: ProcessGroup | None,
        each: Tensor | None,
    ) -> Tensor:
        needs_hidden, needs_weight, needs_bias = (grad_enabled and n for n in ctx.needs_input_grad[:3])
        device, autocast = hidden.device.type, torch.is_autocast_enabled(hidden.device.type)
        dtype = torch.get_autocast_dtype(device) if autocast else hidden.dtype
        narrow = dtype.itemsize < 4
        chunk = CHUNK_NARROW if narrow else CHUNK_WIDE
        wide_dtype = torch.float32 if narrow else dtype
        num_tokens, vocab = len(hidden), len(weight)
        if group is not None:
            labels = labels - group.rank() * vocab  # outside 0 … V - 1: another rank's

        matrix = weight.to(dtype)  # (V, D)
        loss = hidden.new_zeros((), dtype=wide_dtype)
        buffer = hidden.new_empty(min(chunk, num_tokens) * vocab, dtype=dtype)
        grad_hidden = torch.empty_like(hidden, dtype=dtype) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=wide_dtype) if needs_weight else None
        grad_bias = torch.zeros_like(weight[:, 0], dtype=wide_dtype) if needs_bias else None
        in_blocks = device == "cpu" and not narrow and group is None

        with torch.autocast(device, enabled=False):
            for start in range(0, num_tokens, chunk):
                tokens = hidden[start : start + chunk].to(dtype)  # (C, D)
                targets = labels[start : start + chunk]  # (C,)
                if in_blocks:
                    memory = buffer[: len(tokens) * vocab]
                    into = None if grad_hidden is None else grad_hidden[start : start + chunk]
                    losses = _in_blocks(tokens, matrix, bias, targets, memory, into, grad_weight, grad_bias)
                    loss += losses.sum()
                    if each is not None:
                        each[start : start + chunk] = losses
                    continue
                logits = _logits(tokens, matrix, bias, buffer[: len(tokens) * vocab])  # (C, V)
                rows = CPU_ROWS if narrow and device == "cpu" else chunk
                for first in range(0, len(tokens), rows):
                    part = logits[first : first + rows]
                    losses, gradient = _losses_and_gradient(part.to(wide_dtype), targets[first : first + rows], group)
                    loss += losses.sum()
                    if each is not None:
                        each[start + first : start + first + rows] = losses
                    part.copy_(gradient)
                if grad_hidden is not None:
                    torch.mm(logits, matrix, out=grad_hidden[start : start + chunk])
                if grad_weight is not None and narrow:
                    grad_weight += torch.mm(logits.T, tokens)
                elif grad_weight is not None:
                    grad_weight.addmm_(logits.T, tokens)
                if grad_bias is not None:
                    grad_bias += logits.sum(0, dtype=wide_dtype)
        if group is not None and grad_hidden is not None:
            all_reduce(grad_hidden, group=group)
        ctx.dtypes = hidden.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        # In place, so a second backward pass is refused by autograd's own check, not silently wrong.
        grads = (None if g is None else g.mul_(grad_loss) for g in ctx.saved_tensors)
        return *(None if g is None else g.to(d) for g, d in zip(grads, ctx.dtypes, strict=True)), *(None,) * 4


def _logits(tokens: Tensor, matrix: Tensor, bias: Tensor | None, memory: Tensor) -> Tensor:
    """tokens (C, D) @ matrix.T + bias: (C, V), in the given memory (C·V,)."""
    if tokens.dtype.itemsize < 4:
        logits = torch.mm(tokens, matrix.T, out=memory.view(len(tokens), -1))
    else:  # this way round MKL's fp32 product is 1.4 to 1.6 times as fast (AMD, AVX2)
        logits = torch.mm(matrix, tokens.T, out=memory.view(-1, len(tokens))).T
    return logits if bias is None else logits.add_(bias)


def _in_blocks(
    tokens: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    memory: Tensor,
    grad_tokens: Tensor | None,
    grad_matrix: Tensor | None,
    grad_bias: Tensor | None,
) -> Tensor:
    """The cross-entropies (C,) of tokens (C, D), whose gradients go into or are added to the three given tensors.

    A block of the vocabulary at a time, so that the passes over its logits, (R, C), find them in the cache. Each block
    has a largest logit and a sum of its own; what makes its exponentials probabilities is a factor for each token,
    which multiplies the smaller sides of the products. The label's own part of the gradient, -1, is added by itself.
    """
    logits = memory.view(-1, len(tokens))  # (V, C)
    largest, sums = list[Tensor](), list[Tensor]()
    for rows in _blocks(len(matrix)):
        part = torch.mm(matrix[rows], tokens.T, out=logits[rows])
        if bias is not None:
            part += bias[rows, None]
        largest.append(part.amax(0))
        sums.append(part.sub_(largest[-1]).exp_().sum(0))
    log_sums = torch.stack(largest) + torch.stack(sums).log()  # (blocks, C)
    total = log_sums.logsumexp(0)
    chosen_rows = matrix[targets]  # (C, D)
    chosen = torch.linalg.vecdot(tokens, chosen_rows)
    if bias is not None:
        chosen += bias[targets]
    if grad_tokens is not None:
        torch.neg(chosen_rows, out=grad_tokens)
    for rows, peak in zip(_blocks(len(matrix)), largest, strict=True):
        part, factor = logits[rows], (peak - total).exp()  # (R, C), (C,)
        if grad_tokens is not None:
            grad_tokens.addcmul_(torch.mm(part.T, matrix[rows]), factor[:, None])
        if grad_matrix is not None:
            grad_matrix[rows].addmm_(part, tokens * factor[:, None])
        if grad_bias is not None:
            grad_bias[rows].addmv_(part, factor)
    if grad_matrix is not None:
        grad_matrix.index_add_(0, targets, tokens, alpha=-1)
    if grad_bias is not None:
        grad_bias.index_add_(0, targets, torch.ones_like(total), alpha=-1)
    return total - chosen


def _blocks(vocab: int) -> Iterator[slice]:
    return (slice(start, start + CPU_VOCAB) for start in range(0, vocab, CPU_VOCAB))


def _losses_and_gradient(logits: Tensor, targets: Tensor, group: ProcessGroup | None) -> tuple[Tensor, Tensor]:
    """The cross-entropies (C,) of logits (C, V), which may be overwritten, and the gradient (C, V) of their sum."""
    if group is None:
        targets = targets[:, None]
        apart = (logits.amax(-1, keepdim=True) - logits.gather(-1, targets)).squeeze(1)
        gradient = torch.softmax(logits, -1)  # one pass, where its steps one by one are five
        losses = apart - gradient.amax(-1).log()  # the label's own probability may have underflowed
        return losses, gradient.scatter_add_(-1, targets, -torch.ones_like(targets, dtype=gradient.dtype))
    largest = logits.amax(-1, keepdim=True)
    all_reduce(largest, ReduceOp.MAX, group)
    logits.sub_(largest)
    mine = ((targets >= 0) & (targets < logits.shape[1])).to(logits.dtype)[:, None]  # (C, 1)
    targets = targets.clamp(0, logits.shape[1] - 1)[:, None]
    chosen = logits.gather(-1, targets) * mine
    sums = torch.cat((logits.exp_().sum(-1, keepdim=True), chosen), dim=1)  # (C, 2)
    all_reduce(sums, group=group)
    total, chosen = sums.split(1, dim=1)
    logits.mul_(total.reciprocal())
    return (total.log() - chosen).squeeze(1), logits.scatter_add_(-1, targets, -mine)
