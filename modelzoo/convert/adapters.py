"""Checkpoints that hold the adapters of a LoRA run: the base they belong to, and both put together.

    base.json    {"path": "checkpoints/gptj_6B", "sha256": {"model.safetensors": …}}

stands in such a checkpoint beside `model.safetensors`, which has A and B alone. The base is known by the sha256 of its
files: it may be moved, but not be another one.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from modelzoo.base_config import UserError
from modelzoo.convert.family import our_shapes
from modelzoo.convert.importing import HF_CONFIG, Progress, model_yaml, no_progress
from modelzoo.convert.output import new_folder, require_new
from modelzoo.convert.source import CARRIED
from modelzoo.convert.tensor_files import Planned, TensorFiles, write_tensors
from modelzoo.model.config import ModelConfig
from modelzoo.model.lora import merged
from modelzoo.model.lora_config import LoraConfig
from modelzoo.trainer.checkpoint import MANIFEST, find_checkpoint, read_tensors, tensor_files, write_manifest

BASE = "base.json"


def holds_adapters(checkpoint: Path) -> bool:
    """Whether a checkpoint is that of a LoRA run, and no whole model."""
    return (checkpoint / BASE).is_file()


def base_text(base: Path) -> str:
    """The content of base.json, for a base that was verified."""
    return json.dumps({"path": str(base), "sha256": _fingerprint(base)}, indent=1) + "\n"


def base_of(checkpoint: Path, instead: Path | None = None) -> Path:
    """The verified checkpoint that a LoRA checkpoint's adapters belong to; `instead` is looked for where it has gone.

    Raises UserError: it is not there, damaged, or another one.
    """
    saved = json.loads((checkpoint / BASE).read_text(encoding="utf-8"))
    path = Path(saved["path"])
    if instead is not None and not path.is_dir():
        path = instead
    try:
        base = find_checkpoint(path)
    except UserError as error:
        raise UserError(
            f"{checkpoint}: holds the adapters of a LoRA run, and needs their base: {error}; put the base back there, "
            "or give its place with: modelzoo merge --base PATH"
        ) from None
    if (found := _fingerprint(base)) != saved["sha256"]:
        changed = ", ".join(
            sorted(k for k in found.keys() | saved["sha256"].keys() if found.get(k) != saved["sha256"].get(k))
        )
        raise UserError(
            f"{checkpoint}: its adapters belong to another base than {base}: the sha256 of {changed} differs from that "
            f"in {BASE}; use the base that the run began with"
        )
    return base


def lora_of(checkpoint: Path) -> LoraConfig:
    """The `lora` section that a LoRA checkpoint was trained with."""
    data = yaml.safe_load((checkpoint / "config.yaml").read_text(encoding="utf-8"))
    return LoraConfig.model_validate(data["lora"])


def read_weights(checkpoint: Path, base: Path | None = None, file: str = "model") -> dict[str, Tensor]:
    """Every weight of a checkpoint's model, on the CPU; those with an adapter have it worked in, in fp32. `file` is
    that of the weights, or of their average.

    Raises UserError as `base_of`, whose `instead` is `base`.
    """
    if not holds_adapters(checkpoint):
        return read_tensors(checkpoint, file)
    weights, adapters = read_weights(base_of(checkpoint, base)), read_tensors(checkpoint, file)
    scale = lora_of(checkpoint).scale
    return {name: merged(name, weights.pop(name), adapters, scale) for name in list(weights)}


def merge_checkpoint(
    checkpoint: Path,
    config: ModelConfig,
    out: Path,
    *,
    base: Path | None = None,
    max_file_bytes: int,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write the whole model of a LoRA checkpoint as the checkpoint `out`, in the types of its base.

    Returns what its `state.json` says. Raises UserError: no LoRA checkpoint, as `base_of`, or `out` exists.
    """
    require_new(out)
    if not holds_adapters(checkpoint):
        raise UserError(f"{checkpoint}: holds a whole model, and no adapters to merge; use it as it is")
    found = base_of(checkpoint, base)
    read, planned = _reader(found)
    adapters, scale = read_tensors(checkpoint, "model"), lora_of(checkpoint).scale
    total = sum(plan.num_bytes for plan in planned.values())

    def produce(name: str) -> Tensor:
        return merged(name, read(name), adapters, scale).to(planned[name].dtype)

    order = {name: planned[name] for name in our_shapes(config)}
    state = {"merged": {"from": str(checkpoint), "base": str(found), "adapters": len(adapters) // 2}}
    with new_folder(out, total) as partial:
        with progress("merging", total, "bytes") as advance:
            write_tensors(partial, order, produce, max_file_bytes, advance)
        (partial / "config.yaml").write_text(model_yaml(config), encoding="utf-8")
        for source, names in ((checkpoint, ("tokenizer.json",)), (found, (*CARRIED, HF_CONFIG))):
            for name in names:
                if (source / name).is_file():
                    (partial / name).write_text((source / name).read_text(encoding="utf-8"), encoding="utf-8")
        (partial / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        write_manifest(partial)
    return {"checkpoint": str(out), **state["merged"]}


def _reader(base: Path) -> tuple[Callable[[str], Tensor], Mapping[str, Planned]]:
    """What gives a tensor of a base by name, and all that there are. A base that is a LoRA checkpoint is read whole."""
    if not holds_adapters(base):
        tensors = TensorFiles(tensor_files(base, "model"))
        return tensors.read, tensors.planned
    weights = read_weights(base)
    return weights.__getitem__, {name: Planned(tuple(t.shape), t.dtype) for name, t in weights.items()}


def _fingerprint(base: Path) -> dict[str, str]:
    """The sha256 of each file with weights, of a checkpoint that was verified."""
    files = json.loads((base / MANIFEST).read_text(encoding="utf-8"))["files"]
    names = [path.name for path in tensor_files(base, "model")] + ([BASE] if holds_adapters(base) else [])
    return {name: files[name]["sha256"] for name in names}
