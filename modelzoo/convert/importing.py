"""A folder of Hugging Face's becomes a checkpoint: `modelzoo import`."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from modelzoo import tokenizer_files
from modelzoo.base_config import UserError
from modelzoo.convert import hf
from modelzoo.convert.family import Family, our_shapes
from modelzoo.convert.logit_check import NOT_CHECKED, check_logits
from modelzoo.convert.output import new_folder, require_new
from modelzoo.convert.source import CARRIED, config_of, has_tokenizer, read_json
from modelzoo.convert.tensor_files import (
    TensorFiles,
    Written,
    check_index,
    require_dtypes,
    weight_files,
    write_tensors,
)
from modelzoo.model.config import ModelConfig
from modelzoo.tensor_writer import Planned
from modelzoo.tokenizer import Tokenizer
from modelzoo.trainer.checkpoint import write_manifest

HF_CONFIG = "hf_config.json"
"""Their config.json, in a checkpoint."""

Progress = Callable[[str, int, str], AbstractContextManager[Callable[[int], None]]]
"""What shows progress: of a label, a total and its unit, while the block runs; called with each amount."""

_DEFAULT_END = {"gpt_neox": 2}
"""Of transformers' config classes, where no released model has it: left as it is, it says nothing."""

NO_CHECK = {"result": NOT_CHECKED, "reason": "--no-check"}


@contextmanager
def no_progress(label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Nobody watches."""
    yield lambda amount: None


def import_model(
    source: Path,
    out: Path,
    *,
    name: str | None = None,
    tokenizer: str | None = None,
    max_file_bytes: int,
    check: bool = True,
    progress: Progress = no_progress,
    on_note: Callable[[str], None] = lambda note: None,
) -> dict[str, Any]:
    """Write the checkpoint `out` of the model in `source`, values and types as they are stored.

    Args:
        name: where the model came from, as it is written into the checkpoint; `source` otherwise.
        tokenizer: where the tokenizer lies, if not in `source`.
        check: compare logits with transformers.

    Returns:
        What `state.json` says of the import, with `checkpoint`.

    Raises:
        UserError: what is wrong, with its file, field or tensor; nothing is then left under `out`.
    """
    require_new(out)
    their_config = read_json(source / "config.json")
    config = config_of(source)
    family = hf.family_of(their_config)
    text, loaded = _tokenizer(source, tokenizer)
    if loaded is None:
        on_note(f"{source}: holds no tokenizer, and text needs one; --tokenizer PATH gives it")
    else:
        if tokenizer is not None:
            _check_given(loaded, their_config, source, on_note)
        config = _with_tokenizer(config, loaded, their_config, source, on_note)
    tensors = TensorFiles(weight_files(source))
    check_index(source, tensors)
    names = _checked(tensors, family, config, source)
    total = sum(tensors.planned[name].num_bytes for name in names.values())
    with new_folder(out, total) as partial:
        with progress("importing", total, "bytes") as advance:
            written = _write_weights(partial, tensors, names, family, config, max_file_bytes, advance)
        (partial / "config.yaml").write_text(model_yaml(config), encoding="utf-8")
        (partial / HF_CONFIG).write_text(json.dumps(their_config, indent=1) + "\n", encoding="utf-8")
        if text is not None:
            (partial / "tokenizer.json").write_text(text, encoding="utf-8")
        for carried in CARRIED:
            if (source / carried).is_file() and (tokenizer is None or carried == CARRIED[0]):
                content = {
                    key: value for key, value in read_json(source / carried).items() if key != "auto_map"
                }  # code
                (partial / carried).write_text(
                    json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
                )
        logits = _check(source, family, partial, config) if check else NO_CHECK
        imported = {
            "from": name or str(source),
            "architecture": family.architecture,
            "types": sorted({str(tensors.planned[n].dtype).removeprefix("torch.") for n in names.values()}),
            "logit_check": logits,
        }
        (partial / "state.json").write_text(json.dumps({"imported": imported}, indent=1) + "\n", encoding="utf-8")
        write_manifest(partial, written.files)
    return {"checkpoint": str(out), **imported}


def model_yaml(config: ModelConfig) -> str:
    """The config.yaml of a checkpoint that holds a model and no run."""
    section = yaml.safe_dump({"model": config.model_dump(mode="json")}, sort_keys=False, allow_unicode=True)
    return f"# A model alone: no run.\n{section}"


def _tokenizer(source: Path, given: str | None) -> tuple[str | None, Tokenizer | None]:
    """The text of a tokenizer.json, as it stands where there is one, and what it is."""
    if given is None and not has_tokenizer(source):
        return None, None
    file = tokenizer_files.find(source if given is None else given)
    loaded = Tokenizer.load(file, backend="tokenizers")
    is_whole = file.suffix == ".json" and "model" in read_json(file)
    return (file.read_text(encoding="utf-8") if is_whole and given is None else tokenizer_files.read(file)), loaded


def _check_given(given: Tokenizer, their_config: dict[str, Any], source: Path, on_note: Callable[[str], None]) -> None:
    """That a tokenizer of --tokenizer can be the model's own. Raises UserError: it is another model's.

    Ids that it shares with the one beside the weights must stand for the same tokens. Where none lies there, the id
    that the configs say ends a text must not be ordinary text. (That it differs from the tokenizer's says little:
    transformers' defaults are often left as they are.)
    """
    remedy = "it is another model's; import with the model's own, and change that: modelzoo vocab"
    if has_tokenizer(source):
        try:
            own = Tokenizer.load(source, backend="tokenizers")
        except UserError as error:
            on_note(f"{given.path}: is not compared with the model's own, since that is not usable: {error}")
            return
        tokens, others = (
            {id_: token for token, id_ in tokenizer.backend.get_vocab().items()} for tokenizer in (own, given)
        )
        differing = sorted(id_ for id_ in tokens.keys() & others.keys() if tokens[id_] != others[id_])
        if differing:
            first = differing[0]
            raise UserError(
                f"{given.path}: of {len(differing):,} ids, the first of them {first}, the token ({others[first]!r}) is "
                f"not that of the tokenizer beside the weights ({tokens[first]!r}): {remedy}"
            )
        return
    about = source / CARRIED[0]
    said = [their_config.get("eos_token_id"), read_json(about).get("eos_token_id") if about.is_file() else None]
    ends = [end for value in said for end in (value if isinstance(value, list) else [value]) if type(end) is int]
    added = given.backend.get_added_tokens_decoder()
    wrong = [end for end in ends if end < given.vocab_size and not (end in added and added[end].special)]
    if given.end_of_document_id in ends or not wrong or wrong[0] == _DEFAULT_END.get(their_config["model_type"]):
        return
    raise UserError(
        f"{source / 'config.json'}: eos_token_id={wrong[0]} ends a text, and is {given.decode([wrong[0]])!r} to "
        f"{given.path}, which ends one with {given.end_of_document_id}: {remedy}; if it is this model's, write its "
        "eos_token_id into the config"
    )


def _with_tokenizer(
    config: ModelConfig,
    tokenizer: Tokenizer,
    their_config: dict[str, Any],
    source: Path,
    on_note: Callable[[str], None],
) -> ModelConfig:
    """The config with as many ids as the tokenizer has; more rows than that are padding."""
    rows, ids = config.num_embeddings, tokenizer.vocab_size
    remedy = "give the model's own with --tokenizer PATH"
    if ids > rows:
        raise UserError(
            f"{tokenizer.path}: has {ids:,} ids, and the model {rows:,} embeddings: it is another model's; {remedy}"
        )
    end = their_config.get("eos_token_id")
    if isinstance(end, int) and not isinstance(end, bool) and end < rows and end != tokenizer.end_of_document_id:
        where = f"eos_token_id={end}, and {tokenizer.path} ends a document with {tokenizer.end_of_document_id}"
        if end >= ids:
            raise UserError(f"{source / 'config.json'}: {where} and has {ids:,} ids: it is another model's; {remedy}")
        on_note(f"{source / 'config.json'}: {where}, which is taken")
    return config.model_copy(update={"vocab_size": ids, "padded_vocab_size": None if ids == rows else rows})


def _checked(tensors: TensorFiles, family: Family, config: ModelConfig, source: Path) -> dict[str, str]:
    """Written name -> name in the files, once all of them are what the config needs. Reads a tied head's values."""
    shapes = {name: planned.shape for name, planned in tensors.planned.items()}
    try:
        names = family.canonical(shapes)
        family.check(shapes, names, config)
        require_dtypes(tensors, list(names.values()))
        head = names.get(f"{family.head[0]}.weight")
        if head is not None and config.tie_embeddings:
            hf.check_tied(tensors.read(head), tensors.read(names[family.embedding()]), family)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return names


def _write_weights(
    folder: Path,
    tensors: TensorFiles,
    names: dict[str, str],
    family: Family,
    config: ModelConfig,
    max_file_bytes: int,
    on_bytes: Callable[[int], None],
) -> Written:
    rules = {rule.ours: rule for rule in family.rules(config)}
    planned = {}
    for ours, tensor in our_shapes(config).items():
        types = {tensors.planned[names[name]].dtype for name in rules[ours].theirs}
        if len(types) > 1:
            raise UserError(f"{', '.join(rules[ours].theirs)}: are of several types; save the model in one")
        planned[ours] = Planned(tuple(tensor.shape), types.pop())

    def produce(ours: str) -> Tensor:
        rule = rules[ours]
        return rule.layout.to_ours([tensors.read(names[name]) for name in rule.theirs], config)

    return write_tensors(folder, planned, produce, max_file_bytes, on_bytes)


def _check(source: Path, family: Family, partial: Path, config: ModelConfig) -> dict[str, Any]:
    """The logit check. Raises UserError where the logits differ."""
    logits = check_logits(source, family, partial, config)
    if logits["result"] == "different":
        raise UserError(
            f"{source}: after conversion the logits differ from transformers' by up to {logits['max_difference']:.3g} "
            f"(at {logits['where']}; rounding explains {logits['tolerance']:.3g}), so nothing is written; "
            "--no-check writes it all the same"
        )
    return logits
