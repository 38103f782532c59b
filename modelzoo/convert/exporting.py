"""A checkpoint becomes a folder of Hugging Face's: `modelzoo export`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelzoo import tokenizer_files
from modelzoo.base_config import UserError
from modelzoo.convert import hf
from modelzoo.convert.family import ACTIVATIONS, Family, our_shapes
from modelzoo.convert.fold import foldings
from modelzoo.convert.importing import HF_CONFIG, NO_CHECK, Progress, no_progress
from modelzoo.convert.layout import Rule
from modelzoo.convert.logit_check import NOT_CHECKED, check_logits, check_tokenizer
from modelzoo.convert.output import new_folder, require_new
from modelzoo.convert.source import CARRIED, SAFETENSORS, read_json
from modelzoo.convert.tensor_files import TensorFiles, check_stored, write_tensors
from modelzoo.model.config import ModelConfig
from modelzoo.tensor_writer import Planned
from modelzoo.tokenizer import Tokenizer
from modelzoo.trainer.checkpoint import fingerprints, tensor_files, weights_file

RECORD = "modelzoo_export.json"
"""What was exported, how far the logits are apart, and the sha256 of every file."""


def export_model(
    folder: Path,
    config: ModelConfig,
    out: Path,
    *,
    max_file_bytes: int,
    check: bool = True,
    weights: str = "model",
    progress: Progress = no_progress,
    on_note: Callable[[str], None] = lambda note: None,
) -> dict[str, Any]:
    """Write the checkpoint `folder`, a model of `config`, as transformers' `save_pretrained` would.

    Multipliers (muP) are worked into the weights. Every other weight keeps its value and type. `weights` is "model",
    or the name of an `ema` callback, for its average.

    Returns:
        What `modelzoo_export.json` says, with `folder`.

    Raises:
        UserError: no model of Hugging Face's can hold it (the option is named), or the logits differ; nothing is then
            left under `out`.
    """
    require_new(out)
    try:
        family = hf.family_for(config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    source = weights_file(folder, weights)
    tensors = TensorFiles(tensor_files(folder, source))
    folded = {name: fold for name, fold in foldings(config).items() if name in tensors.planned}
    planned, sources = _plan(tensors, family.rules(config), config, folder, set(folded))

    def produce(name: str) -> Tensor:
        rule, number = sources[name]
        ours = tensors.read(rule.ours)
        return rule.layout.to_theirs(folded[rule.ours](ours) if rule.ours in folded else ours, config)[number]

    total = sum(plan.num_bytes for plan in planned.values())
    with new_folder(out, total) as partial:
        with progress("exporting", total, "bytes") as advance:
            written = write_tensors(partial, planned, produce, max_file_bytes, advance)
        if len(written.files) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": written.places}
            _write_json(partial / f"{SAFETENSORS}.index.json", index)
        tokenizer = _write_tokenizer(folder, partial, config, on_note)
        _write_configs(folder, partial, family, config, tokenizer, planned, on_note)
        logits = check_logits(partial, family, folder, config, source) if check else NO_CHECK
        if "error" in logits:
            raise UserError(f"{folder}: nothing is written, since of the exported model {logits['reason']}")
        if logits["result"] == "different":
            raise UserError(
                f"{folder}: the exported model's logits in transformers differ by up to {logits['max_difference']:.3g} "
                f"(at {logits['where']}; rounding explains {logits['tolerance']:.3g}), so nothing is written; "
                "--no-check writes it all the same"
            )
        words = NO_CHECK if tokenizer is None or not check else check_tokenizer(partial, tokenizer)
        if words["result"] == "different":
            on_note(f"{folder}: transformers' tokenizer gives other ids: {words['reason']}")
        elif "error" in words:
            on_note(f"{folder}: {words['reason']}")
        record = {
            "from": str(folder),
            "weights": weights,
            "architecture": family.architecture,
            "folded": sorted(folded),
            "logit_check": logits,
            "tokenizer_check": words if tokenizer is not None else {"result": NOT_CHECKED, "reason": "there is none"},
        }
        _write_json(partial / RECORD, {**record, "files": fingerprints(partial, written.files)})
    return {"folder": str(out), **record}


def _plan(
    tensors: TensorFiles, rules: list[Rule], config: ModelConfig, folder: Path, folded: set[str]
) -> tuple[dict[str, Planned], dict[str, tuple[Rule, int]]]:
    """Every tensor to be written, and which part of which rule it is."""
    wanted = our_shapes(config)
    check_stored(tensors, wanted, folder)
    planned, sources = {}, {}
    for rule in rules:
        dtype = torch.float32 if rule.ours in folded else tensors.planned[rule.ours].dtype
        theirs = rule.layout.to_theirs(wanted[rule.ours], config)
        for number, (name, tensor) in enumerate(zip(rule.theirs, theirs, strict=True)):
            planned[name] = Planned(tuple(tensor.shape), dtype)
            sources[name] = rule, number
    return planned, sources


def _write_configs(
    folder: Path,
    partial: Path,
    family: Family,
    config: ModelConfig,
    tokenizer: Tokenizer | None,
    planned: dict[str, Planned],
    on_note: Callable[[str], None],
) -> None:
    """config.json and generation_config.json; of an imported model with all that its own said besides, but for the
    ids of tokens that its tokenizer has not where they say."""
    types = {plan.dtype for plan in planned.values()}
    dtype = str(types.pop() if len(types) == 1 else torch.float32).removeprefix("torch.")
    end = None if tokenizer is None else tokenizer.end_of_document_id
    ends = {"bos_token_id": end, "eos_token_id": end}
    theirs: dict[str, Any] = read_json(folder / HF_CONFIG) if (folder / HF_CONFIG).is_file() else {**ends}
    described = {**theirs, **family.config_to_hf(config), "dtype": dtype, "torch_dtype": dtype}
    activation = family.activation[0]
    if ACTIVATIONS.get(str(theirs.get(activation))) == config.activation:
        described[activation] = theirs[activation]  # of the names of one function, the one it came with
    for name in ("auto_map", "_name_or_path", "_commit_hash"):
        described.pop(name, None)
    if tokenizer is not None:
        _correct_ends(described, tokenizer, partial, "config.json", on_note)
    _write_json(partial / "config.json", described)
    if (folder / CARRIED[0]).is_file():
        carried = read_json(folder / CARRIED[0])
        if tokenizer is not None:
            _correct_ends(carried, tokenizer, partial, CARRIED[0], on_note)
        _write_json(partial / CARRIED[0], carried)
    else:
        named = {name: described.get(name) for name in ends}
        _write_json(partial / CARRIED[0], {"_from_model_config": True, **named})


def _correct_ends(
    content: dict[str, Any], tokenizer: Tokenizer, partial: Path, name: str, on_note: Callable[[str], None]
) -> None:
    """Write the ids of the exported tokenizer where a carried file says others: eos, and bos. What begins a text is
    what the tokenizer's own files name; where they name nothing, it is only known to be wrong if eos is."""
    end, said = tokenizer.end_of_document_id, content.get("eos_token_id")
    wrong = end not in (said if isinstance(said, list) else [said])
    begin = read_json(partial / CARRIED[1]).get("bos_token")
    begin = begin.get("content") if isinstance(begin, dict) else begin
    begin_id = tokenizer.backend.token_to_id(begin) if isinstance(begin, str) else None
    known = end if wrong and begin_id is None else begin_id
    ids = ({"eos_token_id": end} if wrong else {}) | ({} if known is None else {"bos_token_id": known})
    for field, id_ in ids.items():
        if content.get(field) not in (None, id_):
            on_note(f"{name}: {field}={content[field]} is not the tokenizer's, which is {id_}: that is written")
        content[field] = id_


def _write_tokenizer(
    folder: Path, partial: Path, config: ModelConfig, on_note: Callable[[str], None]
) -> Tokenizer | None:
    """The tokenizer's files. Those that an imported model came with stay as they are."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        on_note(f"{folder}: has no tokenizer, so none is exported")
        return None
    tokenizer = Tokenizer.load(file, backend="tokenizers")
    text, carried = file.read_text(encoding="utf-8"), [name for name in CARRIED[1:] if (folder / name).is_file()]
    for name in carried:
        (partial / name).write_text((folder / name).read_text(encoding="utf-8"), encoding="utf-8")
    end = tokenizer.end_of_document_token
    if not carried:
        text = tokenizer_files.without_end(text, end)
    (partial / "tokenizer.json").write_text(text, encoding="utf-8")
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), end)
    if CARRIED[1] not in carried:
        about = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **ends,
            "model_max_length": config.max_seq_len,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
        }
        _write_json(partial / CARRIED[1], about)
    if CARRIED[2] not in carried:
        _write_json(partial / CARRIED[2], ends)
    return tokenizer


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
