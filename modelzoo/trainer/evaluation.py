"""The loss of a model on held-out batches, exact over uneven masks, batches and ranks."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from modelzoo.trainer.accelerator import Accelerator
from modelzoo.trainer.parallel import Parallel
from modelzoo.trainer.protocols import Batch


def batch_to_device(batch: Batch, device: torch.device, rows: slice = slice(None)) -> dict[str, Tensor]:
    """Rows of a numpy batch as tensors on the device."""
    return {key: torch.from_numpy(value[rows]).to(device, non_blocking=True) for key, value in batch.items()}


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


@torch.no_grad()
def evaluate_loss(
    model: nn.Module, batches: Iterator[Batch], accelerator: Accelerator, stop: Callable[[], bool] = lambda: False
) -> tuple[list[float], list[int]] | None:
    """For each batch the sum of nats over its unmasked tokens, and their number. Leaves the model in evaluation mode.

    None where `stop()` became true.
    """
    model.eval()
    loss_sums, num_tokens = list[float](), list[int]()
    for batch in batches:
        if stop():
            return None
        with accelerator.autocast():
            loss_sum, tokens = model.loss(**batch_to_device(batch, accelerator.device))  # type: ignore[operator]
        loss_sums.append(loss_sum.item())
        num_tokens.append(int(tokens))
    return loss_sums, num_tokens


class Evaluation(NamedTuple):
    """What an evaluation found, over all ranks, for each batch."""

    loss_sums: list[float]
    """Nats."""
    num_tokens: list[int]
    """Unmasked ones."""
    bytes_per_token: float | None
    """Of UTF-8 text; None where the loss is that of a part of the text."""

    def metrics(self) -> dict[str, float]:
        """Loss in nats a token, perplexity, and bits per byte of text (independent of the vocabulary), where known."""
        loss = sum(self.loss_sums) / max(1, sum(self.num_tokens))
        metrics = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if self.bytes_per_token is not None:
            metrics["bits_per_byte"] = loss / math.log(2) / self.bytes_per_token
        return metrics
