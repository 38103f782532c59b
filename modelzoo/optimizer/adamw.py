"""AdamW (Loshchilov and Hutter 2017): decoupled weight decay."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from modelzoo.base_config import FromList, Problem
from modelzoo.optimizer.base import OptimizerConfig
from modelzoo.optimizer.uncompiled import uncompiled

if TYPE_CHECKING:
    from torch.optim import Optimizer

Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamWConfig(OptimizerConfig):
    """torch's AdamW, one fused kernel where the device has it."""

    kind: Literal["adamw"] = "adamw"
    betas: Annotated[tuple[Beta, Beta], FromList] = (0.9, 0.95)
    """Decay rates of the first and the second moment."""
    eps: Annotated[float, Field(gt=0, le=1e-2)] = 1e-8
    """Added to the root of the second moment."""

    def problems(self) -> Iterator[Problem]:
        too_large = "is too large for AdamW, which moves every weight by about lr a step; use "
        if self.lr > 0.1:  # Adam's updates are about lr in size, whatever the gradient's
            yield Problem(("lr",), f"{too_large}0.1 or less")
        for pattern, scale in self.scales.items():
            if self.lr * scale > 0.1 >= self.lr:
                yield Problem(("lr_scale", pattern), f"{too_large}{0.1 / self.lr:.3g} or less with this optimizer.lr")
        beta_1, beta_2 = self.betas
        if beta_1**2 > beta_2:  # Adam then need not converge (Reddi et al. 2018); mostly the two are swapped
            yield Problem(("betas",), f"needs betas[0]² ≤ betas[1]; are they swapped? try [{beta_2}, {beta_1}]")

    @property
    def state_bytes_per_parameter(self) -> int:
        return 8  # two fp32 moments

    def build(self, groups: list[dict[str, Any]], fused: bool) -> "Optimizer":
        from torch.optim import AdamW

        return uncompiled(AdamW)(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=fused)
