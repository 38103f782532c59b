"""What `generate` and `serve` load."""

from pathlib import Path
from typing import TYPE_CHECKING

from modelzoo.base_config import UserError
from modelzoo.cli.arguments import accelerator_from

if TYPE_CHECKING:
    from modelzoo.batching import Batcher
    from modelzoo.tokenizer import Tokenizer

PRECISIONS = ("fp32", "bf16")


def check_precision(precision: str) -> None:
    """Raise UserError for one that decoding does not know."""
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}")


def load_batcher(
    folder: Path, tokenizer: "Tokenizer", device: str, precision: str, max_rows: int, max_len: int | None
) -> "Batcher":
    """What decodes with a checkpoint on a device, its weights held in `precision`: `max_rows` texts at a time.

    Raises UserError where the device's memory does not hold the model and the cache.
    """
    import torch

    from modelzoo.batching import Batcher
    from modelzoo.launch import load_model
    from modelzoo.model.decoder import Decoder
    from modelzoo.trainer.accelerator import DTYPES

    accelerator = accelerator_from(device=device, precision=precision)
    try:
        model = load_model(folder, str(accelerator.device)).to(DTYPES[accelerator.precision])
        return Batcher(Decoder(model, max_rows, max_len), tokenizer)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"{folder}: {accelerator.device} has not enough memory for the model and {max_rows} rows of its cache; "
            "use a smaller batch, fewer tokens, or --precision bf16"
        ) from None
