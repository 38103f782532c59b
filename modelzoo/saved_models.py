"""What a checkpoint holds besides a run's state: the model, its tokenizer, the config it was trained with."""

from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from pydantic import ValidationError

from modelzoo.base_config import Config, UserError
from modelzoo.config_errors import Provenance, describe_all
from modelzoo.convert.adapters import read_weights
from modelzoo.data.schema import TOKENIZER
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.run_config import RunConfig
from modelzoo.tokenizer import Tokenizer
from modelzoo.trainer.checkpoint import find_checkpoint, weights_file

C = TypeVar("C", bound=Config)


def load_saved_config(checkpoint: Path) -> RunConfig:
    """The config that a checkpoint was trained with. UserError: it holds a model alone, such as an imported one."""
    run = find_saved_config(checkpoint)
    if run is None:
        raise UserError(
            f"{checkpoint}: holds a model alone, and no run that could go on or say what data it had; start one from "
            f"it with continue_from={checkpoint}, and name data where it is needed"
        )
    return run


def find_saved_config(checkpoint: Path) -> RunConfig | None:
    """`load_saved_config`; None where the checkpoint holds a model alone."""
    data = _read_config(checkpoint)
    return None if set(data) == {"model"} else _validated(RunConfig, data, checkpoint)


def load_model_config(checkpoint: Path) -> ModelConfig:
    """What a checkpoint's model is: a run's or an imported one."""
    return _validated(ModelConfig, _read_config(checkpoint).get("model"), checkpoint)


def load_model(
    path: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32, weights: str = "model"
) -> GPT:
    """The model of a checkpoint, or of a run's newest checkpoint, in evaluation mode, its weights as `dtype`.

    `weights` is "model", or the name of an `ema` callback, for its average. Calling the model maps `input_ids`
    (B, T) to `logits` (B, T, V). Raises UserError where nothing whole lies there, or no such average.
    """
    folder = find_checkpoint(Path(path))
    with torch.device("meta"):
        model = GPT(load_model_config(folder))
    tensors = read_weights(folder, file=weights_file(folder, weights))
    model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in tensors.items()}, assign=True)
    return model.to(device).eval()


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer that travels with a checkpoint."""
    return tokenizer_in(find_checkpoint(Path(path)))


def tokenizer_in(folder: Path) -> Tokenizer:
    """`load_tokenizer` of a checkpoint that was found to be whole."""
    if not (folder / TOKENIZER).is_file():
        raise UserError(f"{folder}: was imported without a tokenizer; import it again with --tokenizer PATH")
    return Tokenizer.load(folder / TOKENIZER)


def _read_config(checkpoint: Path) -> dict[str, Any]:
    data = yaml.safe_load((checkpoint / "config.yaml").read_text(encoding="utf-8"))
    return data if isinstance(data, dict) else {}


def _validated(schema: type[C], data: Any, checkpoint: Path) -> C:
    file = checkpoint / "config.yaml"
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        lines = "\n".join(describe_all(error, schema, data, Provenance(str(file))))
        raise UserError(f"{lines}\n{file} was written by another version of modelzoo") from None
