"""Documents packed into a row give what each gives alone: logits, loss and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.test_gpt import FAMILIES, build

LENGTHS = [[5, 1, 9], [15], [3, 4, 2]]
LENGTH = 16  # so that rows end in padding


def packed() -> tuple[dict[str, Tensor], list[tuple[int, slice]]]:
    """A batch of three rows, and where each document stands in it."""
    generator = torch.Generator().manual_seed(0)
    batch = {
        "input_ids": torch.randint(0, 53, (3, LENGTH), generator=generator),
        "labels": torch.randint(0, 53, (3, LENGTH), generator=generator),
        "loss_mask": torch.zeros(3, LENGTH, dtype=torch.bool),
        "position_ids": torch.zeros(3, LENGTH, dtype=torch.int32),
        "segment_ids": torch.zeros(3, LENGTH, dtype=torch.int32),
    }
    places = []
    for row, lengths in enumerate(LENGTHS):
        start = 0
        for number, length in enumerate(lengths, start=1):
            where = slice(start, start + length)
            places.append((row, where))
            batch["loss_mask"][row, where] = True
            batch["position_ids"][row, where] = torch.arange(length, dtype=torch.int32)
            batch["segment_ids"][row, where] = number
            start += length
    return batch, places


def gradients(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("without", [None, "segment_ids", "position_ids"])
def test_packed_equals_separate(family: str, without: str | None) -> None:
    """Without the segments, or where positions are absolute without the positions, the comparison fails: so it can."""
    model, (batch, places) = build(**FAMILIES[family]), packed()
    given: dict[str, Any] = {name: batch[name] for name in ("position_ids", "segment_ids") if name != without}
    hidden = model.hidden(batch["input_ids"], **given)
    logits = model.logits(hidden)
    alone = [model(batch["input_ids"][row : row + 1, where])[0] for row, where in places]
    in_logits = max(
        (logits[row, where] - each).abs().max().item() for (row, where), each in zip(places, alone, strict=True)
    )

    loss, count = model.loss(batch["input_ids"], batch["labels"], batch["loss_mask"], **given)
    together = gradients(model, loss / count)
    separate = [model.loss(batch["input_ids"][r : r + 1, w], batch["labels"][r : r + 1, w])[0] for r, w in places]
    apart = gradients(model, torch.stack(separate).sum() / count)
    in_gradients = max((together[name] - apart[name]).abs().max().item() for name in apart)

    relative = family not in ("gpt2", "sinusoids")  # what only knows distances, or no positions, needs no new start
    if without is None or (without == "position_ids" and relative):
        assert in_logits < 2e-5 if without else in_logits < 1e-5
        assert in_gradients < 2e-5 if without else in_gradients < 1e-5
        assert abs(loss.item() - sum(each.item() for each in separate)) < 1e-3
    else:
        assert in_logits > 1e-2
        assert in_gradients > 1e-3


def test_no_gradient_crosses_documents() -> None:
    model, (batch, places) = build(), packed()
    embedded: list[Tensor] = []
    model.embedding.register_forward_hook(lambda *args: embedded.append(args[2].requires_grad_()) or embedded[-1])
    hidden = model.hidden(batch["input_ids"], batch["position_ids"], batch["segment_ids"])
    for row, where in places:
        (gradient,) = torch.autograd.grad(hidden[row, where].square().sum(), embedded[-1], retain_graph=True)
        touched = torch.zeros(3, LENGTH, dtype=torch.bool)
        touched[row, where] = True
        assert torch.equal(gradient.abs().amax(-1) > 0, touched)
