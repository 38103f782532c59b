"""Our arms of `benchmarks.training`: the trainer's own update.

Weights travel between all arms by the names of Hugging Face's checkpoints, into which ours are converted.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from benchmarks.training_case import Case, Step
from modelzoo.compare.timed_arm import TimedArm
from modelzoo.convert import hf
from modelzoo.model.gpt import GPT
from modelzoo.trainer.protocols import Batch


def weights_of(case: Case) -> dict[str, Tensor]:
    """Random ones, by the names of Hugging Face's files. None is 0 or 1, behind which a mistake could hide."""
    model = GPT(case.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.01
    return hf.weights_to_hf(model.state_dict(), case.model)


def build(name: str, case: Case, data: Sequence[Batch], weights: Mapping[str, Tensor] | None) -> Step:
    """An update of the trainer, with all that it does besides: the batch's hash, the gradient's norm, the clock."""
    rows, seq_len = case.shape
    arm = TimedArm(case.run(case.ours[name]), data, lambda step: 1.0)
    if weights is not None:
        layout = hf.config_to_hf(case.model)
        with torch.no_grad():
            for name, value in hf.weights_from_hf(weights, layout, case.model).items():
                arm.trainer.model.get_parameter(name).copy_(value)

    def step(index: int) -> float:
        arm.trainer.step = index
        arm.trainer.since_record["loss_sum"] = 0.0
        arm.update()
        return arm.trainer.since_record["loss_sum"] / (rows * seq_len)

    return step
