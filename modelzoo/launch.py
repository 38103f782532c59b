"""The one place where the parts meet: a RunConfig becomes a Trainer, a checkpoint becomes a model."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from pydantic import ValidationError

from modelzoo.base_config import Config, UserError
from modelzoo.config_errors import Provenance, describe_all
from modelzoo.data.config import SourceConfig
from modelzoo.data.rows import RowDataset
from modelzoo.data.schema import TOKENIZER
from modelzoo.data.sources import open_dataset, open_training
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.model.init import initial_value
from modelzoo.model.tensor_parallel import share_layers
from modelzoo.optimizer.base import parameter_groups
from modelzoo.run_config import RunConfig, diff, dump_yaml
from modelzoo.tokenizer import Tokenizer
from modelzoo.trainer.accelerator import Accelerator, choose_accelerator
from modelzoo.trainer.checkpoint import checkpoints_of, find_checkpoint, latest_checkpoint, read_tensors
from modelzoo.trainer.parallel import Parallel
from modelzoo.trainer.recompute import recompute_activations
from modelzoo.trainer.run_state import restore
from modelzoo.trainer.trainer import Trainer

C = TypeVar("C", bound=Config)

MAY_CHANGE_ON_RESUME = (
    "description",
    "output_dir",
    "accelerator.",
    "callbacks",
    "trainer.max_",
    "trainer.log_",
    "trainer.micro_",
    "data.validation",
    "data.tokenizer",
)
"""Keys that a resumed run may hold other values of; any other would make it another run. And `DATA_PATH`."""
DATA_PATH = re.compile(r"data\.train\.(sources\.[^.]+\.)?path")
"""Where training data lies: the data itself is known by its fingerprint."""


def run_dir_of(config: RunConfig) -> Path:
    """The folder of a run."""
    return Path(config.output_dir) / config.name


def build_run(config: RunConfig) -> Trainer:
    """Everything that a run needs, at step 0. Raises UserError where data, tokenizer and model disagree."""
    accelerator = choose_accelerator(config.accelerator)
    parallel = Parallel(config.accelerator, accelerator.device)
    torch.manual_seed(config.seed + parallel.data_rank)  # of dropout: other rows, other masks
    if config.trainer.global_batch_size % parallel.num_data_ranks:
        raise UserError(
            f"trainer.global_batch_size={config.trainer.global_batch_size} does not divide among "
            f"{parallel.num_data_ranks} ranks (accelerator.replicate × shard); use a multiple of that"
        )
    data = open_training(
        config.data, config.trainer.global_batch_size, config.seed, config.total_steps, config.model.vocab_size
    )
    for dataset in data.datasets:
        _check_data(dataset, config)
    validation = open_split(config.data.validation, config) if config.data.validation else None
    tokenizer = _tokenizer_of(data.datasets, config)
    model = _build_model(config, accelerator, parallel)
    resumed = bool(checkpoints_of(run_dir_of(config)))  # then the base is no longer needed
    if config.continue_from is not None and not resumed:
        _start_from(model, Path(config.continue_from), data.datasets, parallel)
    optimizer_config = config.optimizer
    groups = parameter_groups(
        model.named_parameters(), optimizer_config.lr, optimizer_config.weight_decay, model.lr_multipliers()
    )
    callbacks = {name: callback.build() for name, callback in config.callbacks.items() if callback is not None}
    return Trainer(
        config=config.trainer,
        model=model,
        optimizer=optimizer_config.build(groups, fused=accelerator.fused_optimizer),
        lr_factor=config.lr_factor,
        data=data,
        validation=validation,
        accelerator=accelerator,
        parallel=parallel,
        callbacks={name: own for name, own in callbacks.items() if own.every_rank or parallel.is_main},
        run_dir=run_dir_of(config),
        tokens_per_step=config.tokens_per_step,
        documents={
            "config.yaml": dump_yaml(config),
            "tokenizer.json": tokenizer,
        },
    )


def _build_model(config: RunConfig, accelerator: Accelerator, parallel: Parallel) -> GPT:
    """The model at its first weights, or this rank's part of it."""
    if parallel.mesh is None:
        model = GPT(config.model, seed=config.seed).to(accelerator.device)
    else:
        with torch.device("meta"):
            model = GPT(config.model)
        if parallel.tensor_mesh is not None:
            share_layers(model, parallel.tensor_mesh)
    recompute_activations(model.blocks, config.accelerator.activation_checkpointing)
    if accelerator.compile:
        for block in model.blocks:
            block.compile()
    if parallel.mesh is not None:
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        parallel.shard_data(model, model.blocks)
        model.to_empty(device=accelerator.device)
        parallel.fill(model, lambda name: initial_value(name, shapes[name], config.model, config.seed))
    return model


def open_split(source: SourceConfig, config: RunConfig) -> RowDataset:
    """One source of a run, checked against the run's tokenizer and vocabulary."""
    dataset = open_dataset(source, config.data.seq_len, config.data.isolate_documents, config.model.vocab_size)
    _check_data(dataset, config)
    return dataset


def resume(trainer: Trainer, config: RunConfig) -> tuple[Path | None, list[str]]:
    """Bring a new trainer to the newest whole checkpoint of its run; (None, …) where there is none.

    Returns the checkpoint and what the user should know: damaged checkpoints, changed settings. Raises
    UserError where the config now describes another run.
    """
    folder, notes = latest_checkpoint(trainer.run_dir)
    if folder is None:
        if notes:
            raise UserError(
                "\n".join(notes) + f"\n{trainer.run_dir}: every checkpoint of this run is damaged; restore one, or "
                "start anew under another name (name=…)"
            )
        return None, notes
    changes = diff(load_saved_config(folder), config)
    forbidden = [change for change in changes if not _may_change(change[0])]
    if forbidden:
        lines = "\n".join(f"    {key}: {old} → {new}" for key, old, new in forbidden)
        raise UserError(
            f"{trainer.run_dir}: this run was started with other settings (saved → now):\n{lines}\n"
            f"start another run with name=…, or put these back to resume from {folder.name}"
        )
    notes += [f"resuming with {key}: {old} → {new}" for key, old, new in changes]
    restore(trainer, folder)
    return folder, notes


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


def load_model(path: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> GPT:
    """The model of a checkpoint, or of a run's newest checkpoint, in evaluation mode, its weights as `dtype`.

    Calling it maps `input_ids` (B, T) to `logits` (B, T, V). Raises UserError where nothing whole lies there.
    """
    folder = find_checkpoint(Path(path))
    with torch.device("meta"):
        model = GPT(load_model_config(folder))
    weights = {name: tensor.to(device, dtype) for name, tensor in read_tensors(folder, "model").items()}
    model.load_state_dict(weights, assign=True)
    return model.to(device).eval()


def load_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer that travels with a checkpoint."""
    folder = find_checkpoint(Path(path))
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


def _may_change(key: str) -> bool:
    return key.startswith(MAY_CHANGE_ON_RESUME) or DATA_PATH.fullmatch(key) is not None


def _check_data(dataset: RowDataset, config: RunConfig) -> None:
    tokenizer = Tokenizer.load(config.data.tokenizer) if config.data.tokenizer else None
    dataset.check_against(tokenizer, config.model.vocab_size)


def _tokenizer_of(datasets: Sequence[RowDataset], config: RunConfig) -> str:
    """The tokenizer.json that goes into every checkpoint: the data's own, else the run's."""
    own = next((dataset.path / TOKENIZER for dataset in datasets if dataset.tokenizer_sha256 is not None), None)
    if own is not None:
        return own.read_text(encoding="utf-8")
    assert config.data.tokenizer is not None  # open_training refuses data without any
    return Tokenizer.load(config.data.tokenizer).backend.to_str()


def _start_from(model: GPT, path: Path, datasets: Sequence[RowDataset], parallel: Parallel) -> None:
    folder = find_checkpoint(path)
    theirs = load_tokenizer(folder)
    for data in datasets:
        data.check_against(theirs, model.config.vocab_size)
    if differences := _other_model(load_model_config(folder), model.config):
        lines = "; ".join(f"model.{key} is {old} there and {new} here" for key, old, new in differences)
        raise UserError(f"continue_from={path}: its weights do not fit this model: {lines}; use the values there")
    parallel.load(model, read_tensors(folder, "model"), f"continue_from={path}")


def _other_model(base: ModelConfig, ours: ModelConfig) -> list[tuple[str, Any, Any]]:
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
