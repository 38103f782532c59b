"""What `generate` and `serve` load."""

from pathlib import Path
from typing import TYPE_CHECKING

from modelzoo.base_config import UserError
from modelzoo.cli.arguments import accelerator_from, say

if TYPE_CHECKING:
    from modelzoo.batching import Batcher
    from modelzoo.tokenizer import Tokenizer

PRECISIONS = ("fp32", "bf16", "int8")
COPIED_BYTES = 2**32
"""On the CPU weights get packed copies up to this size in all: one, or two for several rows: of fp32, or of int8
and fp16."""


def check_precision(precision: str) -> None:
    """Raise UserError for one that decoding does not know."""
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}")


def load_batcher(
    folder: Path,
    tokenizer: "Tokenizer",
    device: str,
    precision: str,
    max_rows: int,
    max_len: int | None,
    weights: str = "model",
) -> "Batcher":
    """What decodes with a checkpoint on a device, its weights held in `precision`: `max_rows` texts at a time.
    `weights` are those of `load_model`.

    Raises UserError for a precision that the device lacks, and where its memory does not hold model and cache.
    """
    import torch

    from modelzoo.batching import Batcher
    from modelzoo.model.decoder import Decoder
    from modelzoo.model.weights import Form, multiplies_bf16
    from modelzoo.saved_models import load_model
    from modelzoo.trainer.accelerator import DTYPES

    check_precision(precision)
    accelerator = accelerator_from(device=device, precision="fp32" if precision == "int8" else precision)
    if precision == "int8" and accelerator.device.type != "cpu":
        raise UserError(
            f"--precision int8: is for the CPU, and this is {accelerator.device}; use bf16, or --device cpu"
        )
    try:
        model = load_model(folder, str(accelerator.device), DTYPES[accelerator.precision], weights)
        form: Form = "model"
        if accelerator.device.type == "cpu":
            several = max_rows > 1
            copied = {"fp32": 2.0 if several else 1.0, "int8": 0.75}.get(precision, 1.0)  # of the model's bytes
            fits = copied * sum(p.nbytes for p in model.parameters()) <= COPIED_BYTES
            if precision == "int8":  # a second copy costs as much time as it saves in 2,000 tokens of prompts
                form = "mixed" if fits and several else "int8"
            else:
                form = "packed" if fits else "model"
            if precision == "bf16" and not multiplies_bf16():
                way = (
                    "copies of the weights in fp16, or fp32 where that lacks their range, with sums in fp32"
                    if fits
                    else "emulation, which is slow; int8 is faster"
                )
                say(f"note: this CPU has no instructions for bf16: its products are made by {way}")
        return Batcher(Decoder(model, max_rows, max_len, weights=form, keep_model=False), tokenizer)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"{folder}: {accelerator.device} has not enough memory for the model and {max_rows} rows of its cache; "
            "use a smaller batch, fewer tokens, or --precision bf16"
        ) from None
