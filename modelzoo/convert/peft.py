"""A LoRA checkpoint becomes a folder that peft loads onto the base in transformers: `modelzoo export`.

Their modules need not be ours: a query, key and value of their own each get the rows of B that are theirs, and all of
A. Which rows these are a layout says of the numbers 0 … O - 1, as it would of a bias.

Shapes: I inputs, O outputs, R rank.
"""

import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from modelzoo.base_config import UserError
from modelzoo.convert import hf
from modelzoo.convert.adapters import base_of, holds_adapters, lora_of, read_weights
from modelzoo.convert.exporting import export_model
from modelzoo.convert.family import Family
from modelzoo.convert.fold import foldings
from modelzoo.convert.importing import NO_CHECK
from modelzoo.convert.layout import STACKED, TRANSPOSED
from modelzoo.convert.logit_check import NOT_CHECKED, cannot_check, compare, logits_of, random_ids, their_logits
from modelzoo.convert.output import new_folder, require_new
from modelzoo.model.config import ModelConfig
from modelzoo.model.lora_config import LoraConfig
from modelzoo.trainer.checkpoint import read_state, read_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
TRANSFORMERS_5 = {"embed_out": "lm_head"}
"""Modules that transformers has in memory under another name than on disk."""


def export_adapters(
    checkpoint: Path, config: ModelConfig, out: Path, *, base_model: str | None = None, check: bool = True
) -> dict[str, Any]:
    """Write the adapters of a LoRA checkpoint as peft's `save_pretrained` would.

    `base_model` is what peft's config names as the base; null: what the base was imported from.

    Returns what was done, as `export_model`. Raises UserError: no model of Hugging Face's can hold the base, the base
    is no whole model, or the logits differ; nothing is then left under `out`.
    """
    require_new(out)
    try:
        family = hf.family_for(config)
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}") from None
    base, lora = base_of(checkpoint), lora_of(checkpoint)
    if holds_adapters(base):
        raise UserError(
            f"{checkpoint}: its base {base} is a LoRA run's own, and no model that peft could load the adapter onto; "
            "put both together with modelzoo merge, and export that"
        )
    tensors = adapter_tensors(read_tensors(checkpoint, "model"), config, family)
    named = base_model or read_state(base).get("imported", {}).get("from")
    with new_folder(out, sum(tensor.nbytes for tensor in tensors.values())) as partial:
        save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
        about = adapter_config(lora, tensors, config, family, named)
        (partial / CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        logits = _check(partial, checkpoint, base, config, family) if check else NO_CHECK
        if logits["result"] == "different":
            raise UserError(
                f"{checkpoint}: with peft the logits differ by up to {logits['max_difference']:.3g} (at "
                f"{logits['where']}; rounding explains {logits['tolerance']:.3g}), so nothing is written; --no-check "
                "writes it all the same"
            )
    return {
        "folder": str(out),
        "from": str(checkpoint),
        "architecture": f"adapters of {len(tensors) // 2} modules of {family.architecture}",
        "base": str(base),
        "logit_check": logits,
    }


def adapter_tensors(adapters: Mapping[str, Tensor], config: ModelConfig, family: Family) -> dict[str, Tensor]:
    """Theirs by the names that peft stores: `base_model.model.<module>.lora_A.weight` (R, I) and `.lora_B.weight`
    (O, R).

    What muP multiplies by, which an exported base has in its weights, goes into B alike.
    """
    folded, found = foldings(config), {}
    for rule in family.rules(config):
        module, _, kind = rule.ours.rpartition(".")
        if kind != "weight" or f"{module}.lora_a" not in adapters:
            continue
        a, b = adapters[f"{module}.lora_a"], adapters[f"{module}.lora_b"]
        if rule.ours in folded:
            b = folded[rule.ours](b)
        rows = rule.layout.to_theirs(torch.arange(len(b)), config)
        for name, own in zip(rule.theirs, rows, strict=True):
            theirs = name.removesuffix(".weight")
            stem = PREFIX + TRANSFORMERS_5.get(theirs, theirs)
            found[f"{stem}.lora_A.weight"], found[f"{stem}.lora_B.weight"] = a.clone(), b[own].contiguous()
    return found


def adapter_config(
    lora: LoraConfig, tensors: Mapping[str, Tensor], config: ModelConfig, family: Family, base_model: str | None
) -> dict[str, Any]:
    """The adapter_config.json."""
    modules = [name.removeprefix(PREFIX).rsplit(".", 2)[0] for name in tensors if name.endswith("lora_A.weight")]
    conv = any(part.layout in (TRANSPOSED, STACKED) for part in family.parts.values())
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": _shortest(modules, config.num_layers),
        "fan_in_fan_out": conv,
        "bias": "none",
        "modules_to_save": None,
    }


def _shortest(modules: list[str], num_layers: int) -> list[str]:
    """`attn.q_proj` for such a module of every layer; others by their whole names."""
    by_end: dict[str, list[str]] = {}
    for name in modules:
        by_end.setdefault(re.sub(r"^.*\.\d+\.", "", name), []).append(name)
    return [name for end, found in by_end.items() for name in ([end] if len(found) == num_layers else found)]


def _check(partial: Path, checkpoint: Path, base: Path, config: ModelConfig, family: Family) -> dict[str, Any]:
    """Compare the logits of peft, on the exported base, with the merged model's; one model is in memory at a time."""
    try:
        version = importlib.metadata.version("peft")
    except importlib.metadata.PackageNotFoundError:
        return {"result": NOT_CHECKED, "reason": "peft is not installed (pip install peft)"}
    if reason := cannot_check(config):
        return {"result": NOT_CHECKED, "reason": reason}
    input_ids = random_ids(config)
    with TemporaryDirectory(dir=partial.parent, prefix=".base_of_adapters_") as folder:
        exported = Path(folder, "base")
        export_model(base, config, exported, max_file_bytes=5 * 10**9, check=False)
        theirs = their_logits(exported, family, input_ids, adapter=partial)
    return {**compare(theirs, logits_of(read_weights(checkpoint), config, input_ids)), "peft": version}
