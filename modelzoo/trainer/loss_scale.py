"""The loss scale of fp16, whose gradients vanish below 6e-8 otherwise.

As torch.amp.GradScaler does it, but for who decides: that looks for overflows in the gradients that a rank holds, and
ranks that hold different parts would skip different updates. Here it is the norm of all gradients together.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from modelzoo.dtensors import is_dtensor
from modelzoo.trainer.bad_updates import TrainingError

INITIAL, SMALLEST = 2.0**16, 1.0
GROWTH_STEPS = 2000
"""Updates without an overflow after which the scale is doubled."""


class LossScale:
    """A power of two that the loss is multiplied by: halved where gradients overflow, doubled after long without."""

    def __init__(self, enabled: bool) -> None:
        """Where not `enabled` it is 1, and stays so."""
        self.enabled = enabled
        self.value = INITIAL if enabled else 1.0
        self.num_overflows = 0
        """Updates that were left out because of one."""
        self._steps_since = 0

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to go backward from."""
        return loss * self.value if self.enabled else loss

    def unscale(self, parameters: Iterable[nn.Parameter]) -> None:
        """Divide the gradients by the scale, in place."""
        if not self.enabled:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        parts = [gradient.to_local() if is_dtensor(gradient) else gradient for gradient in gradients]
        torch._foreach_mul_(parts, 1.0 / self.value)

    def update(self, overflow: bool) -> None:
        """After an update, or one that an overflow has prevented. TrainingError where the scale is at its smallest."""
        if not self.enabled:
            return
        if not overflow:
            self._steps_since += 1
            if self._steps_since == GROWTH_STEPS:
                self.value, self._steps_since = 2 * self.value, 0
            return
        self.num_overflows += 1
        self.value, self._steps_since = self.value / 2, 0
        if self.value < SMALLEST:
            raise TrainingError(
                f"the gradients overflow in fp16 even at a loss scale of {2 * self.value:g}, in {self.num_overflows} "
                "updates so far; start the command again with accelerator.precision=bf16 or fp32"
            )

    def state_dict(self) -> dict[str, float]:
        """For a checkpoint, as JSON."""
        if not self.enabled:
            return {}
        return {"scale": self.value, "steps_since": self._steps_since, "num_overflows": self.num_overflows}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Bring back `state_dict`; a run that changes to fp16 has none, and begins anew."""
        if self.enabled and state:
            self.value = state["scale"]
            self._steps_since = int(state.get("steps_since", 0))
            self.num_overflows = int(state.get("num_overflows", 0))
