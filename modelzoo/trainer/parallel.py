"""One run on several ranks: who holds what of the model, who reads which rows, and the sums between them.

Ranks form a mesh (replicate, shard, tensor). All ranks of one `tensor` row compute the same rows of a batch, each its
part of every layer; along `shard` they keep a part of all parameters, gradients and optimizer state (FSDP2,
`fully_shard`), along `replicate` whole copies. One process is the mesh (1, 1, 1), and needs none of this, unless it
keeps its parameters elsewhere than it computes: torch's parts for that take a second to import, and are imported where
they are used.
"""

import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from modelzoo.base_config import UserError
from modelzoo.dtensors import is_dtensor
from modelzoo.trainer.config import AcceleratorConfig

T = TypeVar("T")

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl", "xpu": "cpu:gloo,xpu:xccl"}
"""By the device that computes; offloaded parameters are gathered on the CPU."""
TIMEOUT = timedelta(minutes=10)
"""After which a rank that waits for another gives up."""


def num_ranks_here() -> int:
    """Ranks of this launch, by what torchrun sets; 1 for a process of its own."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Parallel:
    """This rank's place in the mesh."""

    def __init__(self, config: AcceleratorConfig, device: torch.device, cpu_offload: bool = False) -> None:
        """Join the other ranks, where the environment says that there are some.

        Raises UserError where the mesh that the config asks for has another size.
        """
        self.cpu_offload = cpu_offload
        world = num_ranks_here()
        self.sizes = config.mesh(world)
        self.mesh: DeviceMesh | None = None
        self.rank, self.data_rank, self.num_data_ranks = 0, 0, self.sizes[0] * self.sizes[1]
        if world == 1 and not cpu_offload:
            return
        if device.type not in BACKENDS:
            raise UserError(f"accelerator: several ranks need one of {', '.join(BACKENDS)}, not {device.type}")
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)  # "suboptimal", at saves
        if world == 1:  # no torchrun said where to meet
            alone = distributed.HashStore()
            distributed.init_process_group(BACKENDS[device.type], store=alone, rank=0, world_size=1)
        else:
            distributed.init_process_group(BACKENDS[device.type], timeout=TIMEOUT)
        self.mesh = init_device_mesh(device.type, self.sizes, mesh_dim_names=("replicate", "shard", "tensor"))
        self.rank = distributed.get_rank()
        self.data_rank = self.rank // self.sizes[2]

    @property
    def is_main(self) -> bool:
        """The rank that writes and speaks."""
        return self.rank == 0

    @property
    def num_ranks(self) -> int:
        """Of the whole mesh."""
        return math.prod(self.sizes)

    @property
    def described(self) -> str:
        """For the line that a run begins with."""
        if self.mesh is None:
            return ""
        replicate, shard, tensor = self.sizes
        return f"{math.prod(self.sizes)} ranks (replicate {replicate} × shard {shard} × tensor {tensor}) of "

    @property
    def tensor_mesh(self) -> DeviceMesh | None:
        """The ranks that share layers with this one; None where it has them to itself."""
        return None if self.mesh is None or self.sizes[2] == 1 else self.mesh["tensor"]

    def close(self) -> None:
        """Leave the other ranks."""
        if self.mesh is not None:
            distributed.destroy_process_group()

    # the model

    def shard_data(self, model: nn.Module, parts: Iterable[nn.Module], dtype: torch.dtype | None) -> None:
        """Spread parameters over the ranks that read other rows; each of `parts` is gathered when it computes.

        Parts are gathered as `dtype`, which halves what is sent in bf16; what stands outside of them (embedding,
        final norm, head), the sums of gradients and the stream from part to part stay as they are stored.
        """
        if self.mesh is None:
            return
        from torch.distributed import fsdp

        mesh = self.mesh["replicate", "shard"]
        narrow = fsdp.MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        place = fsdp.CPUOffloadPolicy(torch.accelerator.is_available()) if self.cpu_offload else fsdp.OffloadPolicy()
        for module in [*parts, model]:
            own = fsdp.MixedPrecisionPolicy() if module is model or dtype is None else narrow
            sharded = fsdp.fully_shard(module, mesh=mesh, mp_policy=own, offload_policy=place)
            # Sums, which gloo has too: the loss is divided by the tokens of all ranks before
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)
        fsdp.register_fsdp_forward_method(model, "loss")

    def fill(self, model: nn.Module, value: Callable[[str], Tensor]) -> None:
        """Give each parameter its value, whole, by name; this rank keeps its part."""
        _fill(model.named_parameters(), value)

    def load(self, model: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
        """`fill` from a checkpoint's weights. Raises UserError where they do not fit the model."""
        stored = model.state_dict().keys()  # of a LoRA run the adapters alone
        parameters = {name: parameter for name, parameter in model.named_parameters() if name in stored}
        problems = [f"{name} is missing" for name in parameters.keys() - weights.keys()]
        problems += [f"{name} belongs to another model" for name in weights.keys() - parameters.keys()]
        for name in parameters.keys() & weights.keys():
            if parameters[name].shape != weights[name].shape:
                shapes = f"{tuple(weights[name].shape)}, in the model {tuple(parameters[name].shape)}"
                problems.append(f"{name} has the shape {shapes}")
        if problems:
            raise UserError(f"{source}: its weights do not fit the model: {'; '.join(sorted(problems)[:10])}")
        _fill(parameters.items(), weights.__getitem__)

    def forget_gathered(self, model: nn.Module) -> None:
        """Drop the whole weights that a forward pass without a backward pass leaves in the model's place of parts:
        they take memory, and would be used again after the parts have changed."""
        if self.mesh is None:
            return
        from torch.distributed.fsdp import FSDPModule

        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def last_micro_batch(self, model: nn.Module, is_last: bool) -> None:
        """Say whether gradients are to be summed over the ranks in the next backward pass."""
        if self.mesh is None:
            return
        from torch.distributed.fsdp import FSDPModule

        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(is_last)

    # numbers

    def rows(self, size: int) -> slice:
        """This rank's rows of a global batch."""
        share = size // self.num_data_ranks
        return slice(self.data_rank * share, (self.data_rank + 1) * share)

    def sum_over_data(self, values: Sequence[float]) -> list[float]:
        """The sums over the ranks that read other rows, in fp64: the same on every rank."""
        if self.mesh is None:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.mesh.device_type)
        distributed.all_reduce(total)
        return [float(value) / self.sizes[2] for value in total]

    def sum_over_parts(self, values: Tensor, like: Sequence[Tensor]) -> Tensor:
        """The sums over all ranks of `values` (N, …), fp64, whose entry i each rank took of its own part of tensor
        `like[i]`; a part that several ranks hold counts once. The same on every rank, on the CPU."""
        if self.mesh is None:
            return values.cpu()
        copies = [math.prod(self.sizes) // _num_parts(tensor) for tensor in like]
        weights = torch.tensor(copies, dtype=values.dtype, device=values.device).view(-1, *[1] * (values.dim() - 1))
        total = (values / weights).to(self.mesh.device_type)
        distributed.all_reduce(total)
        return total.cpu()

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of the ranks' values, one by one: the same on every rank."""
        if self.mesh is None or not values:
            return list(values)
        largest = torch.tensor(values, dtype=torch.float64, device=self.mesh.device_type)
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return [float(value) for value in largest]

    def clip_gradients(self, parameters: Iterable[nn.Parameter], max_norm: float) -> float:
        """Scale the gradients to an L2 norm of at most `max_norm` together; the norm before."""
        if self.mesh is None:
            parameters = list(parameters)
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            total = float(norm)
            if total > max_norm:  # else a pass over all gradients would multiply them by 1
                nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
            return total
        gradients = [p.grad for p in parameters if p.grad is not None]
        squares = torch.zeros((), dtype=torch.float64, device=self.mesh.device_type)
        world = math.prod(self.sizes)
        parts = [gradient.to_local() if is_dtensor(gradient) else gradient for gradient in gradients]
        for gradient, norm in zip(gradients, torch._foreach_norm(parts), strict=True):
            squares += norm.double().to(squares.device) ** 2 / (world // _num_parts(gradient))
        distributed.all_reduce(squares)
        total = float(squares.sqrt())
        if total > max_norm:
            torch._foreach_mul_(parts, max_norm / (total + 1e-6))
        return total

    def any(self, flag: int) -> int:
        """The largest of the ranks' flags, on every rank."""
        if self.mesh is None:
            return flag
        flags = torch.tensor(flag, device=self.mesh.device_type)
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return int(flags)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.mesh is not None:
            distributed.barrier()

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` gives on the main rank, on every rank; and its UserError. It may take longer than `TIMEOUT`."""
        if self.mesh is None:
            return make()
        with ThreadPoolExecutor(1) as beside:
            making = beside.submit(make) if self.is_main else None
            while self.any(int(making is not None and not making.done())):
                if making is not None:
                    wait([making], timeout=1)
        found: list[Any] = [None, None]
        if making is not None:
            try:
                found = [making.result(), None]
            except UserError as error:
                found = [None, str(error)]
        distributed.broadcast_object_list(found)
        if found[1] is not None:
            raise UserError(found[1])
        result: T = found[0]
        return result

    def of_all(self, value: T) -> list[T]:
        """Every rank's value, on every rank."""
        if self.mesh is None:
            return [value]
        found = [value] * self.num_ranks
        distributed.all_gather_object(found, value)
        return found

    def whole(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """Tensors, gathered one after the other on the CPU of the main rank; empty on the others."""
        gathered = {}
        for name, tensor in tensors:
            full = tensor.full_tensor() if is_dtensor(tensor) else tensor
            if self.is_main:
                gathered[name] = full.detach().cpu()
        return gathered

    def of_each_rank(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Small tensors that differ from rank to rank, all of them on every rank: `<name>`, `<name>.rank1`, …"""
        every = self.of_all(dict(tensors))
        return {_of_rank(name, rank): tensor for rank, own in enumerate(every) for name, tensor in own.items()}

    def of_this_rank(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """This rank's own of what `of_each_rank` gave; None where there were fewer ranks."""
        names = {name.partition(".rank")[0] for name in tensors}
        own = {name: tensors[_of_rank(name, self.rank)] for name in names if _of_rank(name, self.rank) in tensors}
        return own or None


@torch.no_grad()
def _fill(parameters: Iterable[tuple[str, nn.Parameter]], value: Callable[[str], Tensor]) -> None:
    for name, parameter in parameters:
        parameter.copy_(part_of(value(name), parameter))


def _of_rank(name: str, rank: int) -> str:
    return f"{name}.rank{rank}" if rank else name


def own_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, sharing its memory."""
    return tensor.to_local() if is_dtensor(tensor) else tensor


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """What a rank keeps of a tensor that it has in whole, if it is spread as `like` is."""
    whole = whole.to(like.device)
    if not is_dtensor(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def _num_parts(tensor: Tensor) -> int:
    """Into how many parts a tensor is cut."""
    if not is_dtensor(tensor):
        return 1
    from torch.distributed.tensor import Replicate

    sizes = tensor.device_mesh.shape
    return math.prod(
        size for size, placement in zip(sizes, tensor.placements, strict=True) if not isinstance(placement, Replicate)
    )
