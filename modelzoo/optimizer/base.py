"""What every optimizer's config is, and the parameter groups that account for every parameter."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from modelzoo.base_config import Config

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


class OptimizerConfig(Config):
    """Peak learning rate and weight decay; the schedule multiplies the former at every step."""

    lr: Annotated[float, Field(gt=0, le=1)]
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Decoupled weight decay of matrices and embeddings; biases and norms have none. Where muP divides the rate of a
    matrix by m, its decay is multiplied by m."""

    @property
    def state_bytes_per_parameter(self) -> int:
        """Bytes of optimizer state for each trained parameter."""
        raise NotImplementedError

    def build(self, groups: list[dict[str, Any]], fused: bool) -> "Optimizer":
        """The optimizer over `parameter_groups(...)`; `fused` where the device has such a kernel."""
        raise NotImplementedError


def parameter_groups(
    named_parameters: Iterable[tuple[str, "nn.Parameter"]],
    lr: float,
    weight_decay: float,
    lr_multipliers: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Groups with equal learning rate and weight decay; each trainable parameter is in exactly one.

    Vectors (biases, norm gains) are not decayed; matrices and embeddings are. `lr_multipliers` maps every
    parameter's name to the factor its parametrisation wants (muP; 1 otherwise). Where it is not 1 the decay is
    divided by it: decoupled decay takes lr · weight_decay of a weight at each step, and that share is to be the
    same at every width, as in Yang's `mup` package (and Wang and Aitchison 2024, arXiv:2405.13698). A group
    holds `params`, `names` in the same order, `lr`, `weight_decay`, and `peak_lr`, which the schedule scales.
    """
    groups: dict[tuple[float, float, int], dict[str, Any]] = {}
    seen: set[int] = set()
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        assert id(parameter) not in seen, f"{name} is listed twice"
        seen.add(id(parameter))
        multiplier = lr_multipliers[name]
        peak, decay = lr * multiplier, weight_decay / multiplier if parameter.ndim >= 2 else 0.0
        spread = getattr(parameter, "device_mesh", None)  # a kernel takes parameters of one mesh of ranks at a time
        group = groups.setdefault(
            (peak, decay, 0 if spread is None else spread.ndim),
            {"params": [], "names": [], "lr": peak, "peak_lr": peak, "weight_decay": decay},
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())
