"""Options that change speed: the loss and the gradients are those of the plain path."""

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from modelzoo import launch, run_config
from modelzoo.base_config import UserError
from modelzoo.cli import train
from modelzoo.compare.timed_arm import TimedArm
from modelzoo.launch import build_model, fuses_projections
from modelzoo.model.config import ModelConfig
from modelzoo.model.fused_projections import fuse_projections
from modelzoo.model.gpt import GPT
from modelzoo.trainer import accelerator as accelerator_module
from modelzoo.trainer.accelerator import Accelerator, choose_accelerator
from modelzoo.trainer.evaluation import batch_to_device, evaluate_loss
from modelzoo.trainer.parallel import Parallel
from modelzoo.trainer.recompute import recompute_activations
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
        (["accelerator.fused_projections=false", "accelerator.precision=bf16", "model.hidden_size=768"], False),
        (["accelerator.precision=bf16", "model.hidden_size=768"], True),
        (["accelerator.precision=bf16"], False),
        (["model.hidden_size=768"], False),
    ],
)
def test_the_option_reaches_the_blocks_and_is_said(tmp_path, overrides: list[str], fused: bool) -> None:
    config = small_config(tmp_path, tmp_path, *overrides)
    accelerator = choose_accelerator(config.accelerator)
    model = build_model(config, accelerator, Parallel(config.accelerator, accelerator.device))
    assert all(("forward" in vars(block)) == fused for block in model.blocks)
    assert accelerator.chosen == (["fused projections"] if fused else [])


@pytest.mark.parametrize("how", ["full", "selective"])
def test_recomputed_blocks_are_compiled_too(how: Literal["full", "selective"]) -> None:
    """torch.compile leaves a block alone whose forward is not a function that it may look into."""
    plain, compiled = model_of(), model_of()
    recompute_activations(compiled.blocks, how)
    counters.clear()
    for block in compiled.blocks:
        block.compile(backend="aot_eager")
    found = loss_and_gradients(compiled, False)
    assert counters["stats"]["unique_graphs"] == 1  # of all blocks
    assert furthest(found, loss_and_gradients(plain, False)) < 1e-5


def test_an_uneven_last_batch_is_filled_up_for_a_compiled_model() -> None:
    seen = list[int]()

    class Watched(GPT):
        def loss(self, input_ids: Tensor, *arguments: Any, **more: Any) -> tuple[Tensor, int]:
            seen.append(len(input_ids))
            return super().loss(input_ids, *arguments, **more)

    def batch(rows: int) -> dict[str, Any]:
        draw = np.random.default_rng(rows)
        ids, labels = draw.integers(0, 53, (2, rows, 16))
        return {"input_ids": ids, "labels": labels, "loss_mask": draw.random((rows, 16)) < 0.7}

    model = Watched(ModelConfig.model_validate(GPT_J | SIZES))
    found, sizes = [], [4, 4, 1, 3]
    for compiled in (True, False):
        accelerator = Accelerator(torch.device("cpu"), "fp32", compile=compiled, fused_optimizer=True)
        found.append(evaluate_loss(model, (batch(rows) for rows in sizes), accelerator))
    assert seen == [4, 4, 4, 4, *sizes]
    for ours, wanted in zip(*found, strict=True):
        assert (ours.num_tokens, ours.row_tokens) == (wanted.num_tokens, wanted.row_tokens)
        assert ours.loss_sum == pytest.approx(wanted.loss_sum, rel=1e-6)
        assert ours.row_sums == pytest.approx(wanted.row_sums, rel=1e-5)


@pytest.mark.parametrize("wanted", [True, False])
def test_freed_memory_is_kept_before_anything_is_built(tmp_path, monkeypatch, wanted: bool) -> None:
    order = list[str]()
    monkeypatch.setattr(accelerator_module, "keep_freed_memory", lambda: not order.append("kept"))

    class Built(Exception):
        pass

    def build(config: Any) -> None:
        order.append("built")
        raise Built

    monkeypatch.setattr(launch, "build_run", build)
    config = small_config(tmp_path, tmp_path, f"accelerator.keep_freed_memory={str(wanted).lower()}")
    monkeypatch.setattr(run_config, "load_run_config", lambda *_: config)
    with pytest.raises(Built):
        train.run("gptj_tiny", [])
    assert order == (["kept", "built"] if wanted else ["built"])


def test_weights_are_narrowed_once_an_update(tmp_path) -> None:
    """Not once for each micro-batch; and the gradient is what it was."""

    class Casts(TorchDispatchMode):
        num_bytes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            if func is torch.ops.aten._to_copy.default and found.dtype == torch.bfloat16 and args[0].shape in shapes:
                self.num_bytes += found.nbytes
            return found

    narrows = list[bool]()
    shapes, seen = set(), dict[int, tuple[int, list[Tensor]]]()
    for micro in (8, 2):
        config = small_config(tmp_path, tmp_path, "accelerator.precision=bf16", f"trainer.micro_batch_size={micro}")
        trainer = TimedArm(config).trainer
        shapes |= {p.shape for name, p in trainer.model.named_parameters() if "blocks" in name and p.dim() == 2}
        gradients = dict[str, Tensor]()
        steps = lambda: gradients.update({n: p.grad.clone() for n, p in trainer.model.named_parameters()})  # noqa: E731, B023
        trainer.optimizer.step = steps
        trainer.model.final_norm.weight.register_hook(lambda _: narrows.append(torch.is_autocast_enabled("cpu")))
        with Casts() as casts:
            trainer.update()
        seen[micro] = casts.num_bytes, [gradients[name] for name in sorted(gradients)]
    blocks = 2 * (3 + 1 + 4 + 4) * 32 * 32 * 2
    assert seen[8][0] == seen[2][0] == blocks
    assert narrows == [False] * 5  # in backward passes operations stay at the precision of what they get
    for whole, parts in zip(seen[8][1], seen[2][1], strict=True):
        assert (whole - parts).norm() < 0.02 * whole.norm()


def test_an_update_waits_for_the_device_twice(tmp_path) -> None:
    """For the loss and the gradient's norm, and not once more for each micro-batch, unless tokens are left out."""

    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            whole = func is torch.ops.aten.index.Tensor and all(i is None or i.dtype == torch.int64 for i in args[1])
            if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags) and not whole:
                found.append(func.__name__)
            return func(*args, **(kwargs or {}))

    trainer = TimedArm(small_config(tmp_path, tmp_path, "trainer.micro_batch_size=2")).trainer
    numbers = ["_local_scalar_dense.default"] * 2
    found = list[str]()
    with Waits():
        trainer.update()
    assert found == numbers
    trainer.data.batch(0)["loss_mask"][3, 5] = False
    found.clear()
    with Waits():
        trainer.update()
    assert found == ["nonzero.default", *numbers]


def test_a_batch_in_which_every_token_counts_has_no_mask() -> None:
    batch = {name: np.ones((3, 4), np.bool_ if name == "loss_mask" else np.int64) for name in ("labels", "loss_mask")}
    assert set(batch_to_device(batch, torch.device("cpu"))) == {"labels"}
    batch["loss_mask"][2, 1] = False
    assert set(batch_to_device(batch, torch.device("cpu"), slice(0, 2))) == {"labels"}
    tensors = batch_to_device(batch, torch.device("cpu"), slice(1, 3))
    assert tensors["loss_mask"].tolist() == [[True] * 4, [True, False, True, True]]
