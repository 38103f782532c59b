"""The one place where the parts meet: a RunConfig becomes a Trainer, a checkpoint becomes a model."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from modelzoo.base_config import UserError
from modelzoo.continuing import base_losses, check_base, find_base, require_fit, start_from
from modelzoo.convert.adapters import BASE, base_of, base_text, holds_adapters
from modelzoo.data.config import SourceConfig
from modelzoo.data.rows import RowDataset
from modelzoo.data.schema import TOKENIZER
from modelzoo.data.sources import open_dataset, open_training, require_one_tokenizer
from modelzoo.model.fused_projections import fuse_projections
from modelzoo.model.gpt import GPT
from modelzoo.model.init import initial_value
from modelzoo.model.lora import add_lora, initial_adapters, store_adapters_only
from modelzoo.model.parameters import depth_of
from modelzoo.run_config import RunConfig, diff, dump_yaml, obstacles_to_fusing
from modelzoo.run_length import with_total_steps
from modelzoo.saved_models import load_model as load_model  # for users: the other half of build_run
from modelzoo.saved_models import load_saved_config
from modelzoo.text_samples import TextSampler
from modelzoo.tokenizer import Tokenizer
from modelzoo.trainer.accelerator import Accelerator, choose_accelerator, compile_cache
from modelzoo.trainer.checkpoint import checkpoints_of, latest_checkpoint
from modelzoo.trainer.parallel import Parallel
from modelzoo.trainer.recompute import recompute_activations
from modelzoo.trainer.remote_copy import RemoteCopy, newest_checkpoint
from modelzoo.trainer.run_state import restore
from modelzoo.trainer.trainer import Trainer
from modelzoo.trainer.utilization import Utilization

MAY_CHANGE_ON_RESUME = (
    "description",
    "output_dir",
    "accelerator.",
    "callbacks",
    "trainer.max_",
    "trainer.log_",
    "trainer.micro_",
    "trainer.bad_updates",
    "trainer.skip_batches",  # those that are still to come, as the trainer's state checks
    "data.validation",
    "data.tokenizer",
)
"""Keys that a resumed run may hold other values of; any other would make it another run. And `DATA_PATH`."""
DATA_PATH = re.compile(r"data\.train\.(sources\..+\.)?path")
"""Where training data lies: the data itself is known by its fingerprint."""


def run_dir_of(config: RunConfig) -> Path:
    """The folder of a run."""
    return Path(config.output_dir) / config.name


def build_run(config: RunConfig) -> Trainer:
    """Everything that a run needs, at step 0. Raises UserError where data, tokenizer and model disagree."""
    saved, config = dump_yaml(config), with_total_steps(config)
    accelerator = choose_accelerator(config.accelerator)
    parallel = Parallel(config.accelerator, accelerator.device, accelerator.cpu_offload)
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
    validation = {name: open_split(source, config) for name, source in config.data.validation_sources().items()}
    datasets = [*data.datasets, *validation.values()]
    require_one_tokenizer({dataset.path: dataset.tokenizer_sha256 for dataset in datasets})
    documents = {"config.yaml": saved}
    goes_on = parallel.from_main(lambda: _has_checkpoint(config))
    base: Path | None = None
    if config.lora is not None:  # whose checkpoints hold the adapters alone
        base = _base_of_adapters(config, parallel, accelerator.notes.append)
        documents[BASE] = base_text(base)
    elif config.continue_from is not None and not goes_on:
        base = find_base(config, run_dir_of(config), parallel, accelerator.notes.append)
    theirs: dict[str, float] = {}
    if base is not None:
        require_fit(base, config, datasets)
        if not goes_on:
            theirs = base_losses(base, config, data, validation, accelerator, parallel)
    documents[TOKENIZER] = tokenizer = _tokenizer_of(data.datasets, config, base)
    model = build_model(config, accelerator, parallel)
    if base is not None:
        start_from(model, base, config, parallel, initial_adapters(model, config.seed) if config.lora else {})
    if config.lora is not None:
        store_adapters_only(model)
    depths = {name: depth_of(name, config.model.num_layers) for name, _ in model.named_parameters()}
    groups = config.optimizer.groups(model.named_parameters(), model.lr_multipliers(), depths)
    callbacks = {name: callback.build() for name, callback in config.callbacks.items() if callback is not None}
    trainer = Trainer(
        config=config.trainer,
        model=model,
        optimizer=config.optimizer.build(groups, fused=accelerator.fused_optimizer),
        lr_factor=config.lr_factor,
        data=data,
        validation=validation,
        generator=TextSampler(model, tokenizer, accelerator),
        accelerator=accelerator,
        parallel=parallel,
        callbacks={name: own for name, own in callbacks.items() if own.every_rank or parallel.is_main},
        run_dir=run_dir_of(config),
        tokens_per_step=config.tokens_per_step,
        documents=documents,
        utilization=_utilization(config, accelerator, parallel),
    )
    if base is not None and not goes_on:
        trainer.accelerator.notes.append(check_base(trainer, base, theirs, config))
    return trainer


def _utilization(config: RunConfig, accelerator: Accelerator, parallel: Parallel) -> Utilization:
    """The model's FLOPs beside the peak of all ranks' devices, which are taken to be alike."""
    seq_len, peak = config.data.seq_len, accelerator.peak_flops
    flops = config.model.flops_per_token(seq_len)
    again = config.model.recomputed_flops_per_token(seq_len, config.accelerator.activation_checkpointing)
    return Utilization(flops, flops + again, None if peak is None else peak * math.prod(parallel.sizes))


def build_model(config: RunConfig, accelerator: Accelerator, parallel: Parallel) -> GPT:
    """The model at its first weights, or this rank's part of it; one with adapters has its shapes alone."""
    drawn_here = parallel.mesh is None and config.lora is None
    if drawn_here:
        model = GPT(config.model, seed=config.seed).to(accelerator.device)
    else:
        with torch.device("meta"):
            model = GPT(config.model)
        if config.lora is not None:
            half = config.lora.base_dtype == accelerator.precision == "bf16"  # else the device lacks it
            add_lora(model, config.lora, torch.bfloat16 if half else torch.float32)
        if parallel.tensor_mesh is not None:
            from modelzoo.model.tensor_parallel import share_layers  # a slow import

            share_layers(model, parallel.tensor_mesh)
    for name, parameter in model.named_parameters():
        if config.optimizer.is_frozen(name):  # before the ranks divide it: none then keeps a gradient of it
            parameter.requires_grad_(False)
    if fuses_projections(config, accelerator):
        fuse_projections(model.blocks)
        accelerator.chosen.append("fused projections")
    recompute_activations(model.blocks, config.accelerator.activation_checkpointing)
    if accelerator.compile:
        accelerator.chosen.append(f"compiled blocks (kept in {compile_cache()})")
        for block in model.blocks:
            block.compile()
    if not drawn_here:
        shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        parallel.shard_data(model, model.blocks, accelerator.gathered_dtype)
        model.to_empty(device="cpu" if accelerator.cpu_offload else accelerator.device)
        if config.lora is None:  # else all of it comes from the base
            parallel.fill(model, lambda name: initial_value(name, shapes[name], config.model, config.seed))
    return model


FUSED_FROM = 768
"""Hidden size at which one product for attention and MLP was 2 to 17 % faster than two, in bf16 on a CPU that has such
products; at 256, and in fp32, it was not."""


def fuses_projections(config: RunConfig, accelerator: Accelerator) -> bool:
    """Whether `accelerator.fused_projections` does so here; RunConfig has refused true where it cannot."""
    wanted = config.accelerator.fused_projections
    if wanted != "auto":
        return wanted
    can = next(obstacles_to_fusing(config.model, config.accelerator, config.lora), None) is None
    narrow = accelerator.device.type == "cpu" and accelerator.precision != "fp32"
    return can and narrow and config.model.hidden_size >= FUSED_FROM


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
    folder, notes = trainer.parallel.from_main(lambda: newest_checkpoint(trainer.run_dir, copies_of(config)))
    if folder is None:
        if notes:
            raise UserError(
                "\n".join(notes) + f"\n{trainer.run_dir}: every checkpoint of this run is damaged; restore one, or "
                "start anew under another name (name=…)"
            )
        return None, notes
    changes = diff(load_saved_config(folder), config)
    moved = "continue_from" if config.lora is not None else None  # the base of adapters is known by its fingerprint
    forbidden = [change for change in changes if change[0] != moved and not _may_change(change[0])]
    if forbidden:
        lines = "\n".join(f"    {key}: {old} → {new}" for key, old, new in forbidden)
        raise UserError(
            f"{trainer.run_dir}: this run was started with other settings (saved → now):\n{lines}\n"
            f"start another run with name=…, or put these back to resume from {folder.name}"
        )
    notes += [f"resuming with {key}: {old} → {new}" for key, old, new in changes]
    restore(trainer, folder)
    return folder, notes


def copies_of(config: RunConfig) -> RemoteCopy | None:
    """Where the run's checkpoints are copied to."""
    urls = (getattr(callback, "copy_to", None) for callback in config.callbacks.values())
    return next((RemoteCopy(url, config.name) for url in urls if url is not None), None)


def _has_checkpoint(config: RunConfig) -> bool:
    """Whether the run goes on, and its base is no longer needed."""
    copies = copies_of(config)
    return bool(checkpoints_of(run_dir_of(config))) or (copies is not None and bool(copies.steps()))


def _base_of_adapters(config: RunConfig, parallel: Parallel, on_note: Callable[[str], None]) -> Path:
    """The checkpoint that a LoRA run adapts; on resume the very one that it began with, though it may have moved."""
    assert config.continue_from is not None  # RunConfig refuses lora without it
    given = Path(config.continue_from)

    def known() -> Path | None:
        saved, _ = latest_checkpoint(run_dir_of(config))
        return base_of(saved, given) if saved is not None and holds_adapters(saved) else None

    found = parallel.from_main(known)
    return find_base(config, run_dir_of(config), parallel, on_note) if found is None else found


def _may_change(key: str) -> bool:
    return key.startswith(MAY_CHANGE_ON_RESUME) or DATA_PATH.fullmatch(key) is not None


def _check_data(dataset: RowDataset, config: RunConfig) -> None:
    tokenizer = Tokenizer.load(config.data.tokenizer) if config.data.tokenizer else None
    dataset.check_against(tokenizer, config.model.vocab_size)


def _tokenizer_of(datasets: Sequence[RowDataset], config: RunConfig, base: Path | None) -> str:
    """The tokenizer.json that goes into every checkpoint: the data's own, else the run's. Where that of the base covers
    it, the base's, so that the next run may have data of either; a run that goes on has it from its checkpoints."""
    own = next((dataset.path / TOKENIZER for dataset in datasets if dataset.tokenizer_sha256 is not None), None)
    path = own or config.data.tokenizer
    assert path is not None  # open_training refuses data without any
    ours = Tokenizer.load(path, backend="tokenizers")
    for folder in _continued_from(config, base):
        try:
            theirs = Tokenizer.load(folder / TOKENIZER, backend="tokenizers")
        except UserError:  # a damaged checkpoint, of which `resume` speaks
            continue
        has_rows = theirs.vocab_size <= config.model.vocab_size
        if theirs.sha256 != ours.sha256 and theirs.covers(ours) and has_rows:
            return (folder / TOKENIZER).read_text(encoding="utf-8")
        break
    return ours.backend.to_str() if own is None else own.read_text(encoding="utf-8")


def _continued_from(config: RunConfig, base: Path | None) -> list[Path]:
    if config.continue_from is None:
        return []
    return checkpoints_of(run_dir_of(config))[::-1] if base is None else [base]
