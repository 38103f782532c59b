"""One model on several ranks that share its heads, its MLP and its vocabulary (Shoeybi et al. 2019, arXiv:1909.08053).

Each rank has every layer, with a part of the heads and of the MLP's width: qkv and fc_in by rows, out and fc_out by
columns, so that the sum of what the ranks give is the block's. A block that computes attention and MLP side by side
sums once in the forward pass, one that computes them in turn, twice; in the backward pass once for each LayerNorm.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup, all_reduce
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from modelzoo.model.gpt import GPT


def share_layers(model: GPT, mesh: DeviceMesh) -> None:
    """Turn the parameters of `model` into this rank's parts (DTensors) over a mesh of one dimension.

    Heads, the MLP's width and the vocabulary's rows must divide by the ranks, which RunConfig checks.
    """
    group = mesh.get_group()
    for block in model.blocks:
        plan = {
            "attention.qkv": ColwiseParallel(),
            "attention.out": RowwiseParallel(output_layouts=Partial()),
            "mlp.fc_in": ColwiseParallel(),
            "mlp.fc_out": RowwiseParallel(output_layouts=Partial()),
        }
        parallelize_module(block, mesh, plan)
        block.reduce = SumOverRanks(group)
        block.share = Shared(mesh)
    parallelize_module(model, mesh, {"embedding": RowwiseParallel(input_layouts=Replicate())})
    if model.lm_head is not None:
        for name, parameter in list(model.lm_head.named_parameters()):
            part = distribute(parameter, mesh)
            model.lm_head.register_parameter(name, nn.Parameter(part))
    model.vocabulary_group = group


def distribute(tensor: Tensor, mesh: DeviceMesh) -> DTensor:
    """This rank's rows of a tensor that all ranks have."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.detach(), mesh, [Shard(0)], src_data_rank=None)


class Shared(nn.Module):
    """What all ranks have, as what each takes a part of the work on: its gradient is the sum of theirs, taken once
    for all that use it."""

    def __init__(self, mesh: DeviceMesh) -> None:
        super().__init__()
        self.mesh = mesh

    def forward(self, x: Tensor) -> Tensor:
        return DTensor.from_local(x, self.mesh, [Replicate()], run_check=False)


class SumOverRanks(nn.Module):
    """The sum of the ranks' inputs, on each of them. Its gradient is the output's: every rank has the whole of it."""

    def __init__(self, group: ProcessGroup) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        return _Sum.apply(x, self.group)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        x = x.clone()
        all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
