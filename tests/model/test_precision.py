"""Under bf16 and fp16 the products alone are narrow: rotary angles, softmax and loss are computed in fp32.

Each result is compared with fp64 on the same narrow inputs, and so is a planted narrow one, which has to be far worse.
"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.model import attention
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.model.loss import linear_cross_entropy
from modelzoo.model.position.rotary import RotaryPosition

NARROW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
LAST = 2048
"""Positions up to here: bf16 has 8 of them between 1,024 and 2,048."""


def error(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()).item()


def exact_rotation(x: Tensor, position_ids: Tensor, rotary: RotaryPosition) -> Tensor:
    """Of the first `fraction` of x (H, T, K) in neighbouring pairs, in fp64."""
    width = rotary.rotary_dim(x.shape[-1])
    angles = position_ids.double()[:, None] / rotary.theta ** (torch.arange(0, width, 2).double() / width)
    pairs = torch.view_as_complex(x[..., :width].double().unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
    return torch.cat((turned, x[..., width:].double()), dim=-1)


@NARROW
def test_rotary_tables_and_rotations_are_of_fp32(dtype: torch.dtype) -> None:
    rotary, position_ids = RotaryPosition(style="interleaved", fraction=0.5), torch.arange(LAST - 256, LAST)
    x = torch.randn(2, 256, 64).to(dtype)
    exact = exact_rotation(x, position_ids, rotary)
    with torch.autocast("cpu", dtype):
        table = rotary.table(position_ids, 64)
        found = rotary.rotate(x, table)
        of_narrow_positions = rotary.rotate(x, rotary.table(position_ids.to(dtype), 64))
    assert table.dtype == torch.float32
    assert found.dtype == dtype
    rounded = error(exact.to(dtype), exact)  # what no computation can be better than
    assert error(found, exact) < 1.1 * rounded
    assert error(rotary.rotate(x, table.to(dtype)), exact) > 1.2 * rounded
    if dtype == torch.bfloat16:
        assert error(of_narrow_positions, exact) > 100 * rounded


@NARROW
@pytest.mark.parametrize("dropout", [0.0, 1e-9], ids=["", "dropout"])  # the latter takes another path, and drops none
@pytest.mark.parametrize("isolated", [False, True])
def test_attention_sums_its_softmax_in_fp32(
    dtype: torch.dtype, dropout: float, isolated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ModelConfig(vocab_size=32, max_seq_len=512, num_layers=1, hidden_size=32, num_heads=2, dropout=dropout)
    model, calls = GPT(config), []
    with torch.no_grad():
        model.blocks[0].attention.qkv.weight *= 60  # scores of ±20, whose rounding shows
    kernel = F.scaled_dot_product_attention

    def noted(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
        out = kernel(q, k, v, **options)  # type: ignore[arg-type]
        calls.append((q, k, v, options, out))
        return out

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", noted)
    segment_ids = (torch.arange(512) // 400).expand(2, -1) if isolated else None
    with torch.autocast("cpu", dtype):
        model.hidden(torch.randint(32, (2, 512)), segment_ids=segment_ids)
    ((q, k, v, options, out),) = calls
    assert {q.dtype, k.dtype, v.dtype, out.dtype} == {dtype}
    hidden = ~torch.ones(512, 512, dtype=torch.bool).tril()
    if segment_ids is not None:
        hidden = ~attention.within_segments(segment_ids)

    def weights(scores: Tensor) -> Tensor:
        return (scores * options["scale"]).masked_fill(hidden, -torch.inf).softmax(-1)

    exact = weights(q.double() @ k.double().mT) @ v.double()
    assert weights(q.double() @ k.double().mT).amax() > 0.9
    narrow = weights(q @ k.mT) @ v
    assert error(out, exact) < 0.4 * error(narrow, exact)


@NARROW
def test_the_loss_is_of_fp32(dtype: torch.dtype) -> None:
    hidden, weight, labels = torch.randn(300, 16), torch.randn(5000, 16), torch.randint(5000, (300,))
    logits = torch.mm(hidden.to(dtype), weight.to(dtype).T)
    exact = F.cross_entropy(logits.double(), labels, reduction="sum")
    with torch.autocast("cpu", dtype):
        found = linear_cross_entropy(hidden, weight, None, labels)
    assert found.dtype == torch.float32
    assert abs(found.item() / exact.item() - 1) < 1e-5
    narrow = -logits.log_softmax(-1).gather(-1, labels[:, None]).sum()
    assert abs(narrow.item() / exact.item() - 1) > 1e-4
