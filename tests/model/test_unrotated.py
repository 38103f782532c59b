"""Sinusoids on the channels that are not rotated, against their definition written out number by number."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from tests.model.families import redraw

HEADS, HEAD_DIM, TURNED, LENGTH = 2, 10, 4, 12


def build(style: str, unrotated: str = "sinusoidal", dtype: torch.dtype = torch.float64) -> GPT:
    model = GPT(
        ModelConfig.model_validate(
            {
                "num_layers": 2,
                "num_heads": HEADS,
                "hidden_size": HEADS * HEAD_DIM,
                "vocab_size": 23,
                "max_seq_len": LENGTH,
                "parallel_residual": True,
                "tied_norm": True,
                "attention_bias": False,
                "position": {"kind": "rotary", "style": style, "fraction": 0.4, "unrotated": unrotated},
            }
        )
    )
    redraw(model, seed=0)
    return model.to(dtype).eval()


def placed(x: Tensor, position: int, style: str) -> Tensor:
    """A query or key (K,) at its position: a rotation of its first channels, and a vector added to the others."""
    partner = {"interleaved": lambda i: (2 * i, 2 * i + 1), "half": lambda i: (i, i + TURNED // 2)}[style]
    turn, signal = torch.eye(HEAD_DIM, dtype=x.dtype), torch.zeros(HEAD_DIM, dtype=x.dtype)
    for i in range(TURNED // 2):
        (a, b), angle = partner(i), position / 10_000 ** (2 * i / TURNED)
        turn[a, a] = turn[b, b] = math.cos(angle)
        turn[b, a], turn[a, b] = math.sin(angle), -math.sin(angle)
    rest = HEAD_DIM - TURNED
    for i in range(rest // 2):  # PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i + 1) = cos(…)
        angle = position / 10_000 ** (2 * i / rest)
        signal[TURNED + 2 * i], signal[TURNED + 2 * i + 1] = math.sin(angle), math.cos(angle)
    return turn @ x + signal


def independent_logits(model: GPT, ids: Tensor, style: str) -> Tensor:
    """One row's logits (T, V), from the model's parameters alone, a head, a query and a key at a time."""
    p = dict(model.named_parameters())
    x = p["embedding.weight"][ids]
    for layer in range(2):
        own = {name.removeprefix(f"blocks.{layer}."): value for name, value in p.items()}
        normed = F.layer_norm(x, x.shape[-1:], own["norm_1.weight"], own["norm_1.bias"])
        heads = (normed @ own["attention.qkv.weight"].T).reshape(len(ids), HEADS, 3, HEAD_DIM)
        rows = []
        for t in range(len(ids)):
            found = []
            for head in range(HEADS):
                query = placed(heads[t, head, 0], t, style)
                keys = torch.stack([placed(heads[s, head, 1], s, style) for s in range(t + 1)])
                weights = torch.softmax(keys @ query / math.sqrt(HEAD_DIM), 0)
                found.append(weights @ heads[: t + 1, head, 2])
            rows.append(torch.cat(found))
        attended = torch.stack(rows) @ own["attention.out.weight"].T
        inner = F.gelu(normed @ own["mlp.fc_in.weight"].T + own["mlp.fc_in.bias"], approximate="tanh")
        x = x + attended + inner @ own["mlp.fc_out.weight"].T + own["mlp.fc_out.bias"]
    return F.layer_norm(x, x.shape[-1:], p["final_norm.weight"], p["final_norm.bias"]) @ p["embedding.weight"].T


def differences(model: GPT, style: str) -> tuple[float, float]:
    """The largest of the logits' and of the gradients'."""
    ids = torch.randint(0, 23, (LENGTH,), generator=torch.Generator().manual_seed(1))
    logits, gradients = [], []
    for found in (model(ids[None])[0], independent_logits(model, ids, style)):
        model.zero_grad()
        found.square().sum().backward()
        logits.append(found.detach())
        gradients.append([value.grad.clone() for value in model.parameters() if value.grad is not None])
    in_gradients = max((a - b).abs().max().item() for a, b in zip(*gradients, strict=True))
    return (logits[0] - logits[1]).abs().max().item(), in_gradients / max(g.abs().max().item() for g in gradients[1])


@pytest.mark.parametrize("style", ["interleaved", "half"])
def test_logits_and_gradients_are_those_of_the_definition(style: str) -> None:
    in_logits, in_gradients = differences(build(style), style)
    assert in_logits < 1e-5
    assert in_gradients < 1e-6


def swapped(table: Tensor) -> Tensor:
    cos, sin = table
    return torch.stack((cos, sin), dim=-1).flatten(-2)


def in_halves(table: Tensor) -> Tensor:
    cos, sin = table
    return torch.cat((sin, cos), dim=-1)


@pytest.mark.parametrize("mistake", ["none", "swapped", "in_halves", "queries alone"])
def test_a_mistake_shows(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("half", "none" if mistake == "none" else "sinusoidal")
    if mistake in ("swapped", "in_halves"):
        monkeypatch.setattr("modelzoo.model.position.rotary._sinusoids", globals()[mistake])
    elif mistake == "queries alone":
        plain = build("half", "none").config.position.rotate
        for block in model.blocks:
            calls: list[int] = []
            rotate = block.attention.rotate

            def alternating(x: Tensor, table: Tensor, calls: Any = calls, rotate: Any = rotate) -> Tensor:
                calls.append(1)
                return plain(x, table) if len(calls) % 2 == 0 else rotate(x, table)

            block.attention.rotate = alternating
    in_logits, in_gradients = differences(model, "half")
    assert in_logits > 1e-2
    assert in_gradients > 1e-3


def test_a_compiled_block_computes_the_same_in_one_graph() -> None:
    model, ids = build("interleaved", dtype=torch.float32), torch.arange(LENGTH)[None]
    expected = model(ids)
    for block in model.blocks:
        block.compile(backend="eager", fullgraph=True)
    torch.testing.assert_close(model(ids), expected, rtol=0, atol=1e-5)


def test_bf16_keeps_the_angles_in_fp32() -> None:
    position = build("half").config.position
    where = torch.arange(257, 300)
    table = position.table(where, HEAD_DIM)
    assert table is not None
    assert table.dtype == torch.float32
    added = position.rotate(torch.zeros(43, HEAD_DIM, dtype=torch.bfloat16), table)[:, TURNED:]
    angles = where.double()[:, None] / 10_000 ** (torch.arange(0, 6, 2).double() / 6)
    assert (added[:, ::2] - angles.sin()).abs().max() < 2**-8
    assert (added[:, 1::2] - angles.cos()).abs().max() < 2**-8
