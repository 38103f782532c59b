"""Looks into the model every so many updates: gradients, weights, updates and activations, block by block."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from modelzoo.trainer.callbacks.base import Callback, CallbackConfig

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modelzoo.trainer.trainer import Trainer


class StatisticsConfig(CallbackConfig):
    """Publishes, for each block and each part outside of the blocks: `gradient_norm/blocks.0` (before clipping),
    `non_finite_gradients/…`, `weight_norm/…`, `update_ratio/…` (norm of the update over that of the weights); and of
    the residual stream that leaves a block `activation_rms/blocks.0`, `activation_max/…` and
    `non_finite_activations/…`. An update that is looked at takes the memory of a second copy of the weights; all
    others cost nothing."""

    kind: Literal["statistics"] = "statistics"
    every_steps: Annotated[int, Field(gt=0)]
    """Updates between two that are looked at."""

    def build(self) -> Callback:
        return Statistics(self)


@dataclass
class _Activations:
    """Of one module, over the micro-batches of this rank."""

    squares: float = 0.0
    largest: float = 0.0
    finite: int = 0
    """How many the two are of."""
    non_finite: int = 0

    def add(self, output: "Tensor") -> None:
        squares, non_finite, largest = _summed(output.detach())
        self.squares += squares
        self.largest = max(self.largest, largest)
        self.finite += output.numel() - non_finite
        self.non_finite += non_finite


@dataclass
class _Observed:
    """What is known of an update so far."""

    before: list["Tensor"]
    """This rank's parts of the weights."""
    activations: dict[str, _Activations]
    hooks: ExitStack
    numbers: dict[str, float] = field(default_factory=dict)


class Statistics(Callback):
    every_rank = True

    def __init__(self, config: StatisticsConfig):
        self.config = config
        self.observed: _Observed | None = None

    def on_step_start(self, trainer: "Trainer") -> None:
        self.close()  # of an update that was refused
        if (trainer.step + 1) % self.config.every_steps:
            return
        from modelzoo.trainer.parallel import own_part

        before = [own_part(parameter.detach()).clone() for parameter in trainer.model.parameters()]
        hooks, activations = ExitStack(), dict[str, _Activations]()
        for name, block in _blocks(trainer.model):
            activations[name] = _Activations()
            hooks.enter_context(_watched(block, activations[name]))
        self.observed = _Observed(before, activations, hooks)

    def on_gradients(self, trainer: "Trainer") -> None:
        if self.observed is None:
            return
        self.observed.hooks.close()
        parameters = [(name, p) for name, p in trainer.model.named_parameters() if p.grad is not None]
        sums = _sums_by_group(trainer, parameters, [p.grad for _, p in parameters])
        for group, (squares, non_finite) in sums.items():
            self.observed.numbers[f"gradient_norm/{group}"] = squares**0.5
            self.observed.numbers[f"non_finite_gradients/{group}"] = non_finite

    def on_step_end(self, trainer: "Trainer") -> None:
        if self.observed is None:
            return
        from modelzoo.trainer.parallel import own_part

        seen, self.observed = self.observed, None
        numbers, parameters = seen.numbers, list(trainer.model.named_parameters())
        weights = _sums_by_group(trainer, parameters, seen.before)
        for part, (_, parameter) in zip(seen.before, parameters, strict=True):
            part.sub_(own_part(parameter.detach()))
        updates = _sums_by_group(trainer, parameters, seen.before)
        for group, (squares, _) in weights.items():
            numbers[f"weight_norm/{group}"] = squares**0.5
            numbers[f"update_ratio/{group}"] = (updates[group][0] / squares) ** 0.5 if squares else 0.0
        own = seen.activations.values()
        largest = trainer.parallel.largest([one.largest for one in own])
        sums = trainer.parallel.sum_over_data([n for one in own for n in (one.squares, one.finite, one.non_finite)])
        for index, name in enumerate(seen.activations):
            squares, finite, non_finite = sums[3 * index : 3 * index + 3]
            numbers[f"activation_rms/{name}"] = (squares / max(1.0, finite)) ** 0.5
            numbers[f"activation_max/{name}"] = largest[index]
            numbers[f"non_finite_activations/{name}"] = round(non_finite)
        trainer.publish(**numbers)

    def close(self) -> None:
        if self.observed is not None:
            self.observed.hooks.close()
            self.observed = None


def _blocks(model: "nn.Module") -> Iterator[tuple[str, "nn.Module"]]:
    """The modules that a model keeps in lists, with their names."""
    from torch import nn

    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{index}", block) for index, block in enumerate(child))


def _group_of(parameter: str) -> str:
    """`blocks.3.mlp.fc_in.weight` belongs to `blocks.3`, `lm_head.bias` to `lm_head`."""
    first, second, *_ = [*parameter.split("."), ""]
    return f"{first}.{second}" if second.isdigit() else first


def _sums_by_group(
    trainer: "Trainer", parameters: Sequence[tuple[str, "nn.Parameter"]], values: Sequence[Any]
) -> dict[str, tuple[float, int]]:
    """Of values spread as the parameters are: the sum of the squares of the finite ones, and the number of the others,
    over all ranks, for each group."""
    import torch

    from modelzoo.trainer.parallel import own_part

    rows = [_summed(own_part(value).detach())[:2] for value in values]
    total = trainer.parallel.sum_over_parts(
        torch.tensor(rows, dtype=torch.float64).view(-1, 2), [parameter for _, parameter in parameters]
    )
    groups: dict[str, tuple[float, int]] = {}
    for (name, _), (squares, number) in zip(parameters, total.tolist(), strict=True):
        so_far = groups.get(_group_of(name), (0.0, 0))
        groups[_group_of(name)] = so_far[0] + squares, so_far[1] + round(number)
    return groups


def _summed(values: "Tensor") -> tuple[float, int, float]:
    """The sum of the squares of the finite ones, the number of the others, and the largest magnitude."""
    import torch

    if not values.numel():  # a small tensor, of which this rank has no part
        return 0.0, 0, 0.0
    finite = torch.isfinite(values)
    non_finite = values.numel() - int(finite.sum())
    if non_finite:
        values = torch.where(finite, values, 0)
    exact = torch.float32 if values.device.type == "mps" else torch.float64
    return float(torch.linalg.vector_norm(values, dtype=exact)) ** 2, non_finite, float(values.abs().max())


@contextmanager
def _watched(module: "nn.Module", seen: _Activations) -> Iterator[None]:
    """`seen` hears of what the module gives in training, while the block runs.

    A module that was compiled has compiled its hooks with it and takes no new ones: there its call is wrapped.
    """
    compiled = module._compiled_call_impl
    if compiled is None:
        handle = module.register_forward_hook(lambda _module, _inputs, output: seen.add(output))
        try:
            yield
        finally:
            handle.remove()
        return

    def call(*arguments: Any, **keywords: Any) -> Any:
        output = compiled(*arguments, **keywords)
        seen.add(output)
        return output

    module._compiled_call_impl = call
    try:
        yield
    finally:
        module._compiled_call_impl = compiled
