"""The loss of a model on held-out batches, exact over uneven masks, batches and ranks."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from modelzoo.trainer.accelerator import Accelerator
from modelzoo.trainer.parallel import Parallel
from modelzoo.trainer.protocols import Batch


def batch_to_device(batch: Batch, device: torch.device, rows: slice = slice(None)) -> dict[str, Tensor]:
    """Rows of a numpy batch as tensors on the device, without a `loss_mask` in which every token counts: that a device
    computes without waiting for it is what lets the program run ahead of it."""
    tensors = {name: torch.from_numpy(values[rows]) for name, values in batch.items()}
    if batch["loss_mask"][rows].all():
        del tensors["loss_mask"]
    if device.type == "cuda":  # from memory that may be paged out, a copy too waits for all that is queued
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}


def share_of(batch: Batch, parallel: Parallel) -> Batch:
    """This rank's rows of a batch of any size; one that counts nothing where there are too few for all ranks."""
    ranks, size = parallel.num_data_ranks, len(batch["input_ids"])
    if ranks == 1:
        return batch
    mine = {key: value[parallel.data_rank :: ranks] for key, value in batch.items()}
    if parallel.data_rank >= size:  # every rank takes part in every forward pass
        mine = {key: value[:1] for key, value in batch.items()}
        mine["loss_mask"] = np.zeros_like(mine["loss_mask"])
    return mine


def with_rows(batch: Batch, num_rows: int) -> Batch:
    """A batch with further rows, up to so many, of which nothing counts."""
    missing = num_rows - len(batch["input_ids"])
    if not missing:
        return batch
    more = {key: np.repeat(value[-1:], missing, axis=0) for key, value in batch.items()}
    more["loss_mask"] = np.zeros_like(more["loss_mask"])
    return {key: np.concatenate((value, more[key])) for key, value in batch.items()}


class BatchLoss(NamedTuple):
    """The loss of one batch, or of this rank's rows of it."""

    loss_sum: float
    """Nats, over the unmasked tokens."""
    num_tokens: int
    """Unmasked ones."""
    row_sums: list[float]
    """Of each row by itself: in fp32, so that they sum to `loss_sum` up to rounding."""
    row_tokens: list[int]


@torch.no_grad()
def evaluate_loss(
    model: nn.Module, batches: Iterator[Batch], accelerator: Accelerator, stop: Callable[[], bool] = lambda: False
) -> list[BatchLoss] | None:
    """The loss of each batch. Leaves the model in evaluation mode. None where `stop()` became true."""
    model.eval()
    found, largest = [], 0
    for batch in batches:
        if stop():
            return None
        num_rows = len(batch["input_ids"])
        largest = max(largest, num_rows)
        if accelerator.compile:  # a last batch of fewer rows would be compiled anew
            batch = with_rows(batch, largest)
        row_sums = torch.zeros(len(batch["input_ids"]), device=accelerator.device)  # (B,)
        with accelerator.autocast():
            tensors = batch_to_device(batch, accelerator.device)
            loss_sum, tokens = model.loss(**tensors, row_sums=row_sums)  # type: ignore[operator]
        row_tokens = batch["loss_mask"].sum(1).tolist()
        found.append(BatchLoss(loss_sum.item(), int(tokens), row_sums.tolist()[:num_rows], row_tokens[:num_rows]))
    return found


class Evaluation(NamedTuple):
    """What an evaluation found, over all ranks."""

    loss: float
    """Nats a token: of the sums over batches, which are more exact than those over rows."""
    row_sums: list[float]
    """Nats, of each row in the order of the data."""
    row_tokens: list[int]
    """Unmasked ones."""
    bytes_per_token: float | None
    """Of UTF-8 text; None where the loss is that of a part of the text."""

    def metrics(self) -> dict[str, float]:
        """Loss in nats a token, perplexity, and bits per byte of text (independent of the vocabulary), where known."""
        metrics = {"loss": self.loss, "perplexity": math.exp(min(self.loss, 700.0))}
        if self.bytes_per_token is not None:
            metrics["bits_per_byte"] = self.loss / math.log(2) / self.bytes_per_token
        return metrics


def over_ranks(
    found: Sequence[BatchLoss], sizes: Sequence[int], bytes_per_token: float | None, parallel: Parallel
) -> Evaluation:
    """What all ranks have found of batches of these sizes, each of the rows that `share_of` gave it."""
    starts = np.cumsum([0, *sizes])
    sums, tokens = np.zeros(starts[-1]), np.zeros(starts[-1])
    for batch, start, end in zip(found, starts[:-1], starts[1:], strict=True):
        mine = slice(start + parallel.data_rank, end, parallel.num_data_ranks)
        own = len(sums[mine])  # none, where there are fewer rows than ranks
        sums[mine], tokens[mine] = batch.row_sums[:own], batch.row_tokens[:own]
    loss_sums = parallel.sum_over_data([batch.loss_sum for batch in found])
    num_tokens = parallel.sum_over_data([batch.num_tokens for batch in found])
    row_sums, row_tokens = parallel.sum_over_data(sums.tolist()), parallel.sum_over_data(tokens.tolist())
    loss = sum(loss_sums) / max(1, sum(num_tokens))
    return Evaluation(loss, row_sums, [round(number) for number in row_tokens], bytes_per_token)
