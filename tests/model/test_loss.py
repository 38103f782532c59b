"""The chunked head against cross-entropy of whole logits."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.model import loss as loss_module
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.model.loss import linear_cross_entropy


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that 23 tokens are several chunks and a rest."""
    monkeypatch.setattr(loss_module, "CHUNK", 8)
    monkeypatch.setattr(loss_module, "CPU_ROWS", 4)


def inputs(num_tokens: int, bias: bool, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    torch.manual_seed(0)
    hidden = torch.randn(num_tokens, 12, dtype=dtype, requires_grad=True)
    weight = torch.randn(61, 12, dtype=dtype, requires_grad=True)
    head_bias = torch.randn(61, dtype=dtype, requires_grad=True) if bias else None
    return hidden, weight, head_bias, torch.randint(0, 61, (num_tokens,))


def reference(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight, bias).float(), labels, reduction="sum")


def gradients(loss: Tensor, *tensors: Tensor | None) -> list[Tensor]:
    return list(torch.autograd.grad(0.37 * loss, [t for t in tensors if t is not None]))


@pytest.mark.parametrize("num_tokens", [1, 8, 23])
@pytest.mark.parametrize("bias", [False, True])
def test_fp32(num_tokens: int, bias: bool) -> None:
    *tensors, labels = inputs(num_tokens, bias)
    loss, expected = linear_cross_entropy(*tensors, labels), reference(*tensors, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for found, wanted in zip(gradients(loss, *tensors), gradients(expected, *tensors), strict=True):
        assert (found - wanted).abs().max() < 1e-6 * wanted.abs().max()


@pytest.mark.parametrize("bias", [False, True])
def test_bf16_autocast(bias: bool) -> None:
    *tensors, labels = inputs(23, bias)
    expected = reference(*tensors, labels)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(*tensors, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0)
    for found, wanted in zip(gradients(loss, *tensors), gradients(expected, *tensors), strict=True):
        assert found.dtype == torch.float32
        assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_bf16_weights() -> None:
    *tensors, labels = inputs(23, True, torch.bfloat16)
    loss = linear_cross_entropy(*tensors, labels)
    assert loss.dtype == torch.float32
    expected = reference(*(t.float() for t in tensors), labels)
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0)
    assert {g.dtype for g in gradients(loss, *tensors)} == {torch.bfloat16}


class _Replayed(torch.autograd.Function):
    """gradcheck runs backward twice on one graph; this runs forward and backward once and replays the
    result."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        *tensors, labels = args
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in tensors]
            loss = linear_cross_entropy(*leaves, labels)
            ctx.save_for_backward(*torch.autograd.grad(loss, leaves))
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return *(grad * g for g in ctx.saved_tensors), None


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(_Replayed.apply, inputs(23, True, torch.float64))


def test_a_second_backward_is_refused() -> None:
    *tensors, labels = inputs(5, False)
    loss = linear_cross_entropy(*tensors, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_huge_logits() -> None:
    *tensors, labels = inputs(9, False)
    loss = linear_cross_entropy(tensors[0] * 1e4, *tensors[1:], labels)
    torch.testing.assert_close(loss, reference(tensors[0] * 1e4, *tensors[1:], labels))
    assert all(g.isfinite().all() for g in gradients(loss, *tensors))


def test_only_the_gradients_that_are_needed() -> None:
    hidden, weight, bias, labels = inputs(23, True)
    expected = gradients(reference(hidden, weight, bias, labels), hidden)[0]
    loss = linear_cross_entropy(hidden, weight.detach(), bias.detach(), labels)
    torch.testing.assert_close(gradients(loss, hidden)[0], expected)
    with torch.no_grad():
        assert linear_cross_entropy(hidden, weight, bias, labels).item() == loss.item()


CONFIG = ModelConfig(num_layers=1, num_heads=2, hidden_size=12, vocab_size=61, max_seq_len=16)


def test_mask_skips_tokens() -> None:
    model, (ids, labels) = GPT(CONFIG), torch.randint(0, 61, (2, 3, 16))
    mask = torch.rand(3, 16) < 0.6
    loss, num_tokens = model.loss(ids, labels, mask.to(torch.uint8))
    assert num_tokens == mask.sum()
    each = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten(), reduction="none").view(3, 16)
    torch.testing.assert_close(loss, each[mask].sum())

    found = torch.autograd.grad(loss, list(model.parameters()))
    wanted = torch.autograd.grad(each[mask].sum(), list(model.parameters()))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    whole, all_tokens = model.loss(ids, labels, torch.ones(3, 16))
    assert (whole.item(), all_tokens) == (model.loss(ids, labels)[0].item(), 48)


def test_no_token_left() -> None:
    model, ids = GPT(CONFIG), torch.zeros(2, 5, dtype=torch.long)
    loss, num_tokens = model.loss(ids, ids, torch.zeros(2, 5))
    loss.backward()
    assert (loss.item(), num_tokens) == (0.0, 0)
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_memory_holds_no_whole_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor made on the way is the weight's gradient or one chunk's logits."""
    sizes: list[int] = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            sizes.extend(t.untyped_storage().nbytes() for t in [result] if isinstance(t, Tensor))
            return result

    *tensors, labels = inputs(500, False)
    with Record():
        linear_cross_entropy(*tensors, labels).backward()
    assert max(sizes) == 500 * 12 * 4  # the hidden states themselves; whole logits would be 500 * 61 * 4


def test_a_gpu_takes_a_chunk_by_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK", 1024)
    sizes = {gib: loss_module.gpu_chunk(gib * 2**30, 50_272, 2) for gib in (8, 24, 80, 140, 1000)}
    assert sizes == {8: 1024, 24: 1024, 80: 2048, 140: 4096, 1000: 8192}
    assert loss_module.gpu_chunk(140 * 2**30, 4 * 50_272, 2) == 1024
