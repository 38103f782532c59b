"""What `generate` and `serve` load."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelzoo.base_config import UserError
from modelzoo.cli.arguments import accelerator_from

if TYPE_CHECKING:
    from modelzoo.model.gpt import GPT

PRECISIONS = ("fp32", "bf16")


def check_precision(precision: str) -> None:
    """Raise UserError for one that decoding does not know."""
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}")


def load_for_decoding(folder: Path, device: str, precision: str) -> "GPT":
    """The model of a checkpoint on a device, its weights held in `precision`."""
    from modelzoo.launch import load_model
    from modelzoo.trainer.accelerator import DTYPES

    check_precision(precision)
    accelerator: Any = accelerator_from(device=device, precision=precision)
    return load_model(folder, str(accelerator.device)).to(DTYPES[accelerator.precision])
