"""A run that starts from another model's weights: where they lie, whether they fit, whether they still say the same.

Weights alone are taken: the step, the optimizer's state and the order of the data are the new run's. That is another
thing than resuming, which needs no word in the config.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from modelzoo.base_config import UserError
from modelzoo.base_fit import model_of, no_base, no_tokenizer, require_model, require_tokenizer
from modelzoo.convert.adapters import holds_adapters, read_weights
from modelzoo.convert.importing import import_model
from modelzoo.convert.source import config_of, find_source, has_tokenizer
from modelzoo.data.config import MixtureConfig
from modelzoo.data.rows import RowDataset
from modelzoo.files import write_text
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.run_config import RunConfig
from modelzoo.saved_models import find_saved_config, load_model, tokenizer_in
from modelzoo.trainer.accelerator import Accelerator
from modelzoo.trainer.checkpoint import MANIFEST, StoredTensors, checkpoints_of, find_checkpoint, read_state
from modelzoo.trainer.evaluation import evaluate_loss, share_of
from modelzoo.trainer.parallel import Parallel
from modelzoo.trainer.protocols import Batch, TrainingData, ValidationData
from modelzoo.trainer.trainer import Trainer

IMPORTED = "base"
"""The folder of a run that holds a base which came in another format."""
FILE_BYTES = 5 * 2**30
RECORD = "base_check.json"
ROWS_PER_SET, ROWS_AT_ONCE = 16, 4
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3}
"""Nats a token between a model and itself, by the precision that the weights are gathered in: in fp32 rounding is 1e-6,
the least of mistakes (one GELU for the other) 2e-4."""


def find_base(config: RunConfig, run_dir: Path, parallel: Parallel, on_note: Callable[[str], None]) -> Path:
    """The checkpoint that `continue_from` means: one of ours, or a Hugging Face folder or hub name, which is
    imported below `run_dir`, once, with the check of its logits.

    Raises UserError: nothing there, or nothing that can be read.
    """
    try:
        return parallel.from_main(lambda: _find_base(str(config.continue_from), config.model, run_dir, on_note))
    except UserError as error:
        raise UserError(f"continue_from={error}") from None


def _find_base(source: str, ours: ModelConfig, run_dir: Path, on_note: Callable[[str], None]) -> Path:
    path, imported, stamp_file = Path(source), run_dir / IMPORTED, run_dir / f"{IMPORTED}_source.json"
    if (path / MANIFEST).is_file() or checkpoints_of(path):
        return find_checkpoint(path)
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(no_base(source))
    if imported.is_dir():
        came_from = read_state(find_checkpoint(imported))["imported"]["from"]
        if came_from != source:
            found = f"holds {came_from}, which an earlier start of this run imported"
        elif json.loads(stamp_file.read_text(encoding="utf-8")) != _stamp(path):
            found = "was imported from it before its files changed"
        else:
            return imported
        raise UserError(f"{source}: {imported} {found}; remove {imported}, or choose another name for this run")
    folder = find_source(source, on_note)
    require_model(config_of(folder), ours, source)
    if not has_tokenizer(folder):
        raise UserError(no_tokenizer(source))
    on_note(f"{source} is imported into {imported}, once")
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(stamp_file, json.dumps(_stamp(path)) + "\n")
    import_model(folder, imported, name=source, max_file_bytes=FILE_BYTES, on_note=on_note)
    return imported


def _stamp(folder: Path) -> dict[str, list[int]]:
    """Size and time of change of each file, which tell whether a folder is still what it was."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []  # a name of the hub: its revisions do not change
    return {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()}


def require_fit(base: Path, config: RunConfig, datasets: Sequence[RowDataset]) -> None:
    """Raises UserError where the base's model is not the run's, or its tokenizer not that of the data."""
    theirs = tokenizer_in(base)
    for data in datasets:
        data.check_against(theirs if data.tokenizer_sha256 is None else None, config.model.vocab_size)
        try:
            require_tokenizer(theirs, data.path)
        except UserError as error:
            raise UserError(f"continue_from={config.continue_from}: {error}") from None
    require_model(model_of(base), config.model, f"continue_from={config.continue_from}")


def base_losses(
    base: Path,
    config: RunConfig,
    data: TrainingData,
    validation: Mapping[str, ValidationData],
    accelerator: Accelerator,
    parallel: Parallel,
) -> dict[str, float]:
    """What `check_base` compares with: nats a token of the base by itself, by set; empty on all ranks but the main.

    To be taken while nothing else is on the device: a base that is trained in parts, or in bf16, may fill it. It is
    held in the precision that the run's weights are gathered in.
    """
    if not parallel.is_main:
        return {}
    narrow = _is_narrow(config, accelerator, parallel)
    dtype = accelerator.gathered_dtype if narrow else None  # none on a device that had to fall back to fp32, too
    model = load_model(base, str(accelerator.device), dtype or torch.float32)
    on = accelerator if narrow else dataclasses.replace(accelerator, precision="fp32")
    return {name: _loss(model, batches, on) for name, batches in _looked_at(data, validation).items()}


def start_from(
    model: GPT,
    base: Path,
    config: RunConfig,
    parallel: Parallel,
    adapters: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Give the model the base's weights, and beside them the `adapters` of a LoRA run."""
    weights: Mapping[str, Tensor] = read_weights(base) if holds_adapters(base) else StoredTensors(base, "model")
    weights = {**weights, **adapters} if adapters else weights  # read one by one, where there is a choice
    parallel.load(model, weights, f"continue_from={config.continue_from}")


def check_base(trainer: Trainer, base: Path, theirs: Mapping[str, float], config: RunConfig) -> str:
    """That the run's model, before its first update, has the loss that the base has by itself; in a sentence.

    Both look at the first rows of every validation set (of the training data, where there is none): the base, whose
    losses are `theirs`, on one device, with the config it was saved with; the run's model with what the run has of
    ranks, compilation and recomputation. Both in fp32, unless the run's weights are there in another precision
    alone: ranks gather them so. Writes `base_check.json`.

    Raises UserError where the losses differ.
    """
    parallel = trainer.parallel
    narrow = _is_narrow(config, trainer.accelerator, parallel)
    on = trainer.accelerator if narrow else dataclasses.replace(trainer.accelerator, precision="fp32")
    sets = _looked_at(trainer.data, trainer.validation)
    ours = {name: _loss(trainer.model, batches, on, parallel) for name, batches in sets.items()}
    trainer.model.train()
    parallel.forget_gathered(trainer.model)
    precision = trainer.accelerator.precision if narrow else "fp32"
    tolerance = TOLERANCE[precision]
    differ = [name for name, loss in theirs.items() if not abs(ours[name] - loss) <= tolerance]
    if parallel.any(bool(differ)):
        if not parallel.is_main:
            raise UserError(f"continue_from={config.continue_from}: the loss is not the base's own")
        losses = "; ".join(f"{ours[name]:.6f} instead of {theirs[name]:.6f}{_on(name)}" for name in differ)
        raise UserError(
            f"continue_from={config.continue_from}: before the first update the loss is {losses} (nats a token; "
            f"rounding explains {tolerance:g}), so this is not the model that it starts from. What may differ is "
            f"{_suspects(config)}"
        )
    largest = max((abs(ours[name] - loss) for name, loss in theirs.items()), default=0.0)
    if parallel.is_main:
        record = {
            "base": str(config.continue_from),
            "base_manifest_sha256": hashlib.sha256((base / MANIFEST).read_bytes()).hexdigest(),
            "trained_on": _trained_on(base),
            "sources": _fingerprints(trainer.data.state(0)),
            "had_another_tokenizer": read_state(base).get("vocabulary_changed", {}).get("from"),
            "rows_per_set": ROWS_PER_SET,
            "sets": {name: {"base_loss": loss, "loss": ours[name]} for name, loss in theirs.items()},
            "tolerance": tolerance,
        }
        trainer.run_dir.mkdir(parents=True, exist_ok=True)
        write_text(trainer.run_dir / RECORD, json.dumps(record, indent=1) + "\n")
    losses = ", ".join(f"{loss:.4f}{_on(name)}" for name, loss in ours.items())
    return f"starts from {config.continue_from} with its loss: {losses} (within {largest:.1g} of the base by itself)"


def _trained_on(base: Path) -> list[dict[str, str | None]]:
    """The datasets that taught a base, and the bases of that: `path` as its config names it, and the `fingerprint` that
    it had then, null where that is not known. Of imported models none."""
    run = find_saved_config(base)
    if run is None:
        return []
    train, known = run.data.train, _fingerprints(read_state(base).get("loader", {}))
    sources = train.used_sources() if isinstance(train, MixtureConfig) else {"": train}
    found = [{"path": source.path, "fingerprint": known.get(name)} for name, source in sources.items()]
    record = base.parent.parent / RECORD
    before = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    for one in before.get("trained_on", []):
        found.append({"path": one, "fingerprint": None} if isinstance(one, str) else one)  # older versions: a path
    return [one for number, one in enumerate(found) if one not in found[:number]]


def _fingerprints(loader: Mapping[str, Any]) -> dict[str, str]:
    """Those of the training data, by source, from the state of a loader; a single one under an empty name."""
    sources = loader.get("sources", {"": loader})
    return {name: own["manifest_sha256"] for name, own in sources.items() if "manifest_sha256" in own}


def _is_narrow(config: RunConfig, accelerator: Accelerator, parallel: Parallel) -> bool:
    """Whether the run has its weights in less than fp32 alone, which autocast alone can use."""
    gathered = parallel.mesh is not None and accelerator.gathered_dtype is not None
    return gathered or (config.lora is not None and config.lora.base_dtype == "bf16")


def _looked_at(data: TrainingData, validation: Mapping[str, ValidationData]) -> dict[str, list[Batch]]:
    """The first rows of every validation set; of the training data, where there is none."""
    return {
        name: list(own.evaluation_batches(ROWS_AT_ONCE, ROWS_PER_SET // ROWS_AT_ONCE))
        for name, own in validation.items()
    } or {"": [data.batch(0)]}


def _on(name: str) -> str:
    return f" on {name}" if name else ""


def _suspects(config: RunConfig) -> str:
    """What stands between the weights and the loss, and how to take it away one by one."""
    accelerator = config.accelerator
    found = [f"accelerator.precision={accelerator.precision}"] if accelerator.precision != "fp32" else []
    found += ["accelerator.compile=true"] if accelerator.compile else []
    found += [
        f"accelerator.{name}={getattr(accelerator, name)}"
        for name in ("replicate", "shard", "tensor")
        if getattr(accelerator, name) not in (1, "auto")
    ]
    found += ["data.isolate_documents=true"] if config.data.isolate_documents else []
    return ", ".join(found) + ": take them away one by one" if found else "a fault of this program: please report it"


def _loss(
    model: torch.nn.Module, batches: Sequence[Batch], accelerator: Accelerator, parallel: Parallel | None = None
) -> float:
    """Nats a token; of a model that ranks share with `parallel`."""
    mine = batches if parallel is None else [share_of(batch, parallel) for batch in batches]
    found = evaluate_loss(model, iter(mine), accelerator)
    assert found is not None  # nothing stops it
    total = [sum(batch.loss_sum for batch in found), sum(batch.num_tokens for batch in found)]
    loss_sum, num_tokens = total if parallel is None else parallel.sum_over_data(total)
    return loss_sum / max(1, num_tokens)
