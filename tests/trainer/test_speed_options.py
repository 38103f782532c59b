"""Options that change speed: the loss and the gradients are those of the plain path."""

from typing import Any

import pytest
import torch
from torch import Tensor

from modelzoo.base_config import UserError
from modelzoo.launch import build_model, fuses_projections
from modelzoo.model.config import ModelConfig
from modelzoo.model.fused_projections import fuse_projections
from modelzoo.model.gpt import GPT
from modelzoo.trainer.accelerator import choose_accelerator
from modelzoo.trainer.parallel import Parallel
from tests.model.families import redraw
from tests.runs import small_config

GPT_J: dict[str, Any] = {"parallel_residual": True, "tied_norm": True, "tie_embeddings": False, "vocab_size": 53}
SIZES: dict[str, Any] = {"num_layers": 2, "num_heads": 2, "hidden_size": 24, "max_seq_len": 16}


def model_of(**changes: Any) -> GPT:
    model = GPT(ModelConfig.model_validate(GPT_J | SIZES | changes))
    redraw(model, seed=3)
    return model.train()


def loss_and_gradients(model: GPT, isolated: bool, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    ids, labels = torch.randint(0, 53, (2, 3, 16), generator=draw)
    more = {}
    if isolated:
        more = {
            "segment_ids": (torch.arange(16) // 6).expand(3, -1),
            "position_ids": torch.arange(16).expand(3, -1) % 6,
        }
    torch.manual_seed(5)  # of dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss, _ = model.loss(ids, labels, **more)
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def furthest(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The largest difference, relative to the largest value of its tensor."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize(
    "changes", [{"attention_bias": False, "lm_head_bias": True}, {"attention_bias": True, "dropout": 0.2}]
)
def test_fused_projections_change_nothing(changes: dict[str, Any], isolated: bool) -> None:
    fused = model_of(**changes)
    fuse_projections(fused.blocks)
    found = loss_and_gradients(fused, isolated)
    assert furthest(found, loss_and_gradients(model_of(**changes), isolated)) < 1e-5

    with torch.no_grad():  # a mistake of 1 % in one bias of the MLP is seen
        fused.blocks[1].mlp.fc_in.bias *= 1.01
    fused.zero_grad()
    assert furthest(loss_and_gradients(fused, isolated), found) > 1e-4


def test_fused_projections_in_bf16() -> None:
    fused = model_of(attention_bias=False)
    fuse_projections(fused.blocks)
    found = loss_and_gradients(fused, False, torch.bfloat16)
    wanted = loss_and_gradients(model_of(attention_bias=False), False, torch.bfloat16)
    assert {each.dtype for each in found} == {torch.float32}
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() < 0.02 * b.norm()


@pytest.mark.parametrize(
    ("override", "base", "named"),
    [
        ("accelerator.strict=false", "gpt_neox_tiny", "tied_norm=false"),
        ("accelerator.tensor=2", "gptj_tiny", "accelerator.tensor=2"),
    ],
)
def test_projections_that_cannot_be_fused_are_refused(tmp_path, override, base, named) -> None:
    overrides = [override, "model.padded_vocab_size=276"]
    with pytest.raises(UserError, match=rf"(?s)fused_projections.*true does not go with .*{named}"):
        small_config(tmp_path, tmp_path, *overrides, "accelerator.fused_projections=true", base=base)
    config = small_config(tmp_path, tmp_path, *overrides, base=base)
    assert not fuses_projections(config, choose_accelerator(config.accelerator))


@pytest.mark.parametrize(
    ("overrides", "fused"),
    [
        (["accelerator.fused_projections=true"], True),
        (["accelerator.fused_projections=false", "accelerator.precision=bf16", "model.hidden_size=512"], False),
        (["accelerator.precision=bf16", "model.hidden_size=512"], True),
        (["accelerator.precision=bf16"], False),
        (["model.hidden_size=512"], False),
    ],
)
def test_the_option_reaches_the_blocks_and_is_said(tmp_path, overrides: list[str], fused: bool) -> None:
    config = small_config(tmp_path, tmp_path, *overrides)
    accelerator = choose_accelerator(config.accelerator)
    model = build_model(config, accelerator, Parallel(config.accelerator, accelerator.device))
    assert all(("forward" in vars(block)) == fused for block in model.blocks)
    assert accelerator.chosen == (["fused projections"] if fused else [])
