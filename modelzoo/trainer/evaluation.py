"""The loss of a model on held-out batches, exact over uneven masks, batches and ranks."""

import math
from collections.abc import Callable, Iterator

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
    model: nn.Module,
    batches: Iterator[Batch],
    accelerator: Accelerator,
    stop: Callable[[], bool] = lambda: False,
    on_batch: Callable[[int], None] = lambda tokens: None,
) -> tuple[float, int] | None:
    """Sum of nats over all unmasked tokens, and their number. Leaves the model in evaluation mode.

    None where `stop()` became true; `on_batch` hears how many tokens each batch held.
    """
    model.eval()
    loss_sum, num_tokens = 0.0, 0
    for batch in batches:
        if stop():
            return None
        with accelerator.autocast():
            part_sum, part_tokens = model.loss(**batch_to_device(batch, accelerator.device))  # type: ignore[operator]
        loss_sum += part_sum.item()
        num_tokens += int(part_tokens)
        on_batch(int(part_tokens))
    return loss_sum, num_tokens


def loss_metrics(loss_sum: float, num_tokens: int, bytes_per_token: float | None) -> dict[str, float]:
    """Loss in nats a token, perplexity, and bits per byte of UTF-8 text (independent of the vocabulary).

    No bits per byte where `bytes_per_token` is None: the loss is then that of a part of the text.
    """
    loss = loss_sum / max(1, num_tokens)
    metrics = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
    if bytes_per_token is not None:
        metrics["bits_per_byte"] = loss / math.log(2) / bytes_per_token
    return metrics
