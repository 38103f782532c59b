"""Whether what `continue_from` names fits a run, as far as its files tell: the model, and the tokenizer. No torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from modelzoo.base_config import UserError
from modelzoo.config_errors import Provenance, describe_all
from modelzoo.convert.source import config_of, has_tokenizer, on_hub
from modelzoo.data.schema import TOKENIZER
from modelzoo.model.config import ModelConfig
from modelzoo.run_config import RunConfig, diff
from modelzoo.tokenizer import Tokenizer
from modelzoo.trainer.checkpoint_folders import MANIFEST, checkpoints_of


def notes_of_base(config: RunConfig, datasets: Sequence[Path]) -> list[str]:
    """What a run still needs of its base. What lies on this machine is compared with the model, and with the
    tokenizers of `datasets`, directories that are there.

    Raises:
        UserError: it is there, and does not fit.
    """
    source = config.continue_from
    if source is None or checkpoints_of(Path(config.output_dir) / config.name):  # which goes on without it
        return []
    if not Path(source).is_dir():
        if on_hub(source):
            return [f"not here: {source} (continue_from; the run will ask the Hugging Face hub for it)"]
        return [f"not there yet: {source} (continue_from; written by: modelzoo train, or modelzoo import)"]
    try:
        folder = (
            Path(source) if (Path(source) / MANIFEST).is_file() else next(reversed(checkpoints_of(Path(source))), None)
        )
        if folder is None and not (Path(source) / "config.json").is_file():
            raise UserError(no_base(source))
        require_model(model_of(folder) if folder else config_of(Path(source)), config.model, source)
        if folder is None and not has_tokenizer(Path(source)):
            raise UserError(no_tokenizer(source))
        theirs = Tokenizer.load(Path(source) if folder is None else folder / TOKENIZER, backend="tokenizers")
        for dataset in datasets:
            require_tokenizer(theirs, dataset)
    except UserError as error:
        raise UserError(f"continue_from={error}") from None
    return []


def model_of(checkpoint: Path) -> ModelConfig:
    """The model of one of our checkpoints. UserError: it is damaged, or another version wrote it."""
    file = checkpoint / "config.yaml"
    if not file.is_file():
        raise UserError(
            f"{checkpoint}: holds no config.yaml, so it is damaged; modelzoo verify says what else is missing"
        )
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    section = data.get("model") if isinstance(data, dict) else None
    try:
        return ModelConfig.model_validate(section)
    except ValidationError as error:
        lines = "\n".join(describe_all(error, ModelConfig, section, Provenance(str(file))))
        raise UserError(f"{lines}\n{file} was written by another version of modelzoo") from None


def no_base(source: str) -> str:
    """What to say of a folder that holds neither of the two."""
    return (
        f"{source}: holds neither a checkpoint nor a config.json with weights; give a run's folder, one of its "
        "checkpoints, or a Hugging Face folder"
    )


def no_tokenizer(source: str) -> str:
    """What to say of a Hugging Face folder that has none."""
    return (
        f"{source}: holds no tokenizer, which the data has to be checked against; put its tokenizer.json there, or "
        f"import it with one, and continue from that: modelzoo import {source} OUT --tokenizer PATH"
    )


def require_model(base: ModelConfig, ours: ModelConfig, source: str) -> None:
    """Raises UserError where weights of the one do not make the other."""
    if differences := other_model(base, ours):
        lines = "; ".join(f"model.{key} is {old} there and {new} here" for key, old, new in differences)
        raise UserError(f"{source}: its weights do not fit this model: {lines}; use the values there")


def other_model(base: ModelConfig, ours: ModelConfig) -> list[tuple[str, Any, Any]]:
    """The options that make another model of the same weights, or need others. How weights are first drawn and what
    dropout they train with may change; so may the context of a model without a vector per position, and how many of
    the rows of the vocabulary are padding."""
    free = {"init", "dropout"}
    if ours.position.num_parameters(1, 1) == 0:
        free.add("max_seq_len")
    both = [
        config.model_copy(
            update={"vocab_size": 1, "ffn_size": config.ffn_width, "padded_vocab_size": config.num_embeddings}
        )
        for config in (base, ours)
    ]
    return [change for change in diff(*both) if change[0].split(".")[0] not in free]


def require_tokenizer(theirs: Tokenizer, dataset: Path) -> None:
    """Raises UserError where a dataset's ids are not those that the base's tokenizer gives its text. Files of other
    programs, which hold no tokenizer, pass."""
    if not (dataset / TOKENIZER).is_file():
        return
    own = Tokenizer.load(dataset / TOKENIZER, backend="tokenizers")
    if own.sha256 != theirs.sha256 and not theirs.covers(own):
        raise UserError(
            f"{theirs.path}: is another tokenizer than the one that {dataset} was written with; preprocess the text "
            f"again with tokenizer={theirs.path}, or give the weights the data's: modelzoo vocab"
        )
