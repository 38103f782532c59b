"""Whether what `continue_from` names fits a run, as far as its files tell: the model, and the tokenizer. No torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from modelzoo.base_config import UserError
from modelzoo.config_errors import Provenance, describe_all
from modelzoo.convert.source import PICKLED, SAFETENSORS, config_of, has_tokenizer, on_hub, read_json
from modelzoo.data.schema import TOKENIZER
from modelzoo.model.config import ModelConfig
from modelzoo.run_config import RunConfig, diff
from modelzoo.tokenizer import Tokenizer
from modelzoo.trainer.checkpoint_folders import MANIFEST, checkpoints_of

BASE = "base.json"
"""What stands beside the adapters of a LoRA run, as `convert.adapters` writes it."""
ADAPTERS = "holds the adapters of a LoRA run, and needs their base"
PUT_BACK = "put the base back there, or give its place with: modelzoo merge --base PATH"


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
        folder = find_whole(Path(source))
        if folder is None and not (Path(source) / "config.json").is_file():
            raise UserError(no_base(source))
        require_model(model_of(folder) if folder else config_of(Path(source)), config.model, source)
        if folder is None and (missing := missing_weights(Path(source))):
            raise UserError(missing)
        if folder is None and not has_tokenizer(Path(source)):
            raise UserError(no_tokenizer(source))
        if folder is not None and not (folder / TOKENIZER).is_file():
            raise UserError(f"{folder}: was imported without a tokenizer; import it again with --tokenizer PATH")
        theirs = Tokenizer.load(Path(source) if folder is None else folder / TOKENIZER, backend="tokenizers")
        for dataset in datasets:
            require_tokenizer(theirs, dataset)
    except UserError as error:
        raise UserError(f"continue_from={error}") from None
    return []


def find_whole(source: Path) -> Path | None:
    """The checkpoint that a run will begin with, as far as names and sizes of files tell; None where `source` is no
    folder of ours. A run takes the newest whole one, and hashes it.

    Raises:
        UserError: none is whole, or it holds adapters whose base is gone.
    """
    folders = [source] if (source / MANIFEST).is_file() else list(reversed(checkpoints_of(source)))
    damages = [damage_of(folder) for folder in folders]
    folder = next((folder for folder, damage in zip(folders, damages, strict=True) if not damage), None)
    if folders and folder is None:
        raise UserError(f"{folders[0]}: the checkpoint is damaged: {damages[0]}; use another one")
    if folder is not None and (folder / BASE).is_file():
        base = Path(read_json(folder / BASE)["path"])
        try:
            found = find_whole(base)
        except UserError as error:
            raise UserError(f"{folder}: {ADAPTERS}: {error}; {PUT_BACK}") from None
        if found is None:
            raise UserError(f"{folder}: {ADAPTERS}: {base}: no checkpoint to be used; {PUT_BACK}")
    return folder


def damage_of(checkpoint: Path) -> str:
    """What the sizes of a checkpoint's files tell to be wrong with it; "" for nothing."""
    try:
        files = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))["files"]
        sizes = {name: known["bytes"] for name, known in files.items()}
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is not readable"
    for name, size in sizes.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} bytes, and {MANIFEST} says {size:,}"
    return ""


def missing_weights(source: Path) -> str:
    """What a Hugging Face folder lacks of its weights, by the names of files; "" for nothing."""
    for weights in (SAFETENSORS, PICKLED):
        if (source / weights).is_file():
            return ""
        index = source / f"{weights}.index.json"
        if index.is_file():
            places = read_json(index).get("weight_map")
            if not isinstance(places, dict):
                return f"{index}: has no weight_map of tensor names to files beside it; copy it again"
            missing = sorted({str(name) for name in places.values() if not (source / str(name)).is_file()})
            return f"{source}: {', '.join(missing)}: no such file, and {index.name} names it" if missing else ""
    return (
        f"{source}: no weights in this directory; expected {SAFETENSORS} or {PICKLED}, whole or in parts with "
        f"{SAFETENSORS}.index.json beside"
    )


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
