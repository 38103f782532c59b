"""Cross-entropy of a linear head, without ever holding the logits of all tokens.

With a vocabulary of 50,000 the logits and their copies in other precisions are most of a training step's
memory and, for small models, of its time. Here a chunk of tokens at a time gets its logits, which become
probabilities and then gradients in the same memory, and are multiplied out to the two gradients that are
kept.

Where ranks share the vocabulary, each has the logits of its own part, and what a softmax needs of all parts is
summed between them.

Shapes: N tokens, C tokens of one chunk, D hidden_size, V vocabulary (of this rank), W the columns of the logits'
memory: V and what aligns its rows.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup, ReduceOp, all_reduce

CHUNK = 1024
"""Tokens in a chunk; each costs another pass over the weight's gradient."""

LARGEST_CHUNK = 8192
CHUNK_MEMORY = 1 / 64
"""Share of a GPU's memory that the logits of a larger chunk may take, with their copies."""

ALIGNED = 16
"""The logits' rows begin at multiples of so many numbers: with an odd vocabulary's as they come, fp32 products take up
to 1.4 times as long (MKL, AVX2)."""

CPU_ROWS = 4
"""Tokens of each thread whose logits are widened to fp32 at once on the CPU: what its cache holds."""


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
        wide_dtype = torch.float32 if narrow else dtype
        num_tokens, vocab = len(hidden), len(weight)
        columns = vocab + _padding(vocab, device, narrow)
        chunk = CHUNK
        if device == "cuda":
            chunk = gpu_chunk(torch.cuda.get_device_properties(hidden.device).total_memory, columns, dtype.itemsize)
        if group is not None:
            labels = labels - group.rank() * vocab  # outside 0 … V - 1: another rank's

        matrix = weight.to(dtype)  # (V, D)
        loss = hidden.new_zeros((), dtype=wide_dtype)
        buffer = hidden.new_empty(min(chunk, num_tokens), columns, dtype=dtype)
        row_bias = None if bias is None else bias.to(dtype)
        grad_hidden = torch.empty_like(hidden, dtype=dtype) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=wide_dtype) if needs_weight else None
        grad_bias = torch.zeros_like(weight[:, 0], dtype=wide_dtype) if needs_bias else None

        with torch.autocast(device, enabled=False):
            for start in range(0, num_tokens, chunk):
                tokens = hidden[start : start + chunk].to(dtype)  # (C, D)
                targets = labels[start : start + chunk]  # (C,)
                padded = buffer[: len(tokens)]  # (C, W)
                padded[:, vocab:] = -torch.inf  # of no probability, and of no gradient
                logits = padded[:, :vocab]  # (C, V)
                if row_bias is None:
                    torch.mm(tokens, matrix.T, out=logits)
                else:
                    torch.addmm(row_bias, tokens, matrix.T, out=logits)
                rows = CPU_ROWS * torch.get_num_threads() if narrow and device == "cpu" else chunk
                for first in range(0, len(tokens), rows):
                    part = padded[first : first + rows]
                    wide = part.to(wide_dtype) if narrow else part
                    losses, gradient = _losses_and_gradient(wide, targets[first : first + rows], vocab, group)
                    loss += losses.sum()
                    if each is not None:
                        each[start + first : start + first + rows] = losses
                    part.copy_(gradient)  # nothing, where it is the same memory
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


def gpu_chunk(memory_bytes: int, columns: int, itemsize: int) -> int:
    """Tokens in a chunk on a GPU of so much memory. There a pass over the weight's gradient takes a good part of the
    time of 1,024 tokens' products (768 wide in bf16: a third, by bandwidth and peak; not measured). By the memory there
    is, not by what is free, so that a run that goes on sums in the same order."""
    tokens = int(memory_bytes * CHUNK_MEMORY) // (columns * (itemsize + 8))  # and fp32 logits, and their softmax
    return min(max(tokens // CHUNK * CHUNK, CHUNK), LARGEST_CHUNK)


def _padding(vocab: int, device: str, narrow: bool) -> int:
    """How many columns the logits' memory has besides the vocabulary's."""
    if device == "cuda" or (device == "cpu" and not narrow):  # narrow matrices with a stride oneDNN copies first
        return -vocab % ALIGNED
    return 0


def _losses_and_gradient(
    logits: Tensor, targets: Tensor, vocab: int, group: ProcessGroup | None
) -> tuple[Tensor, Tensor]:
    """The cross-entropies (C,) of logits (C, W), and the gradient (C, W) of their sum, where it can be in place."""
    if group is None:
        apart = (logits.amax(-1, keepdim=True) - logits.gather(-1, targets[:, None])).squeeze(1)
        gradient = torch.softmax(logits, -1, out=logits if logits.device.type == "cpu" else None)
        losses = apart - gradient.amax(-1).log()  # the label's own probability may have underflowed
        gradient[torch.arange(len(targets), device=logits.device), targets] -= 1
        return losses, gradient
    largest = logits.amax(-1, keepdim=True)
    all_reduce(largest, ReduceOp.MAX, group)
    logits.sub_(largest)
    mine = ((targets >= 0) & (targets < vocab)).to(logits.dtype)[:, None]  # (C, 1)
    targets = targets.clamp(0, vocab - 1)[:, None]
    chosen = logits.gather(-1, targets) * mine
    sums = torch.cat((logits.exp_().sum(-1, keepdim=True), chosen), dim=1)  # (C, 2)
    all_reduce(sums, group=group)
    total, chosen = sums.split(1, dim=1)
    logits.mul_(total.reciprocal())
    logits.scatter_add_(-1, targets, -mine)
    return (total.log() - chosen).squeeze(1), logits
