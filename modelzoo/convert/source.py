"""What lies in a folder of Hugging Face's, or in a repository of the hub: where it is, and what model. No torch."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelzoo import tokenizer_files
from modelzoo.base_config import UserError
from modelzoo.convert import hf
from modelzoo.model.config import ModelConfig

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
CARRIED = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
"""Files that travel with an imported model, for its export."""

HUB = re.compile(r"(?:hf:/{1,2})?([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
"""`owner/name`, `owner/name@revision`, both also after `hf://`."""

MAX_DEPTH = 100
TOO_DEEP = f"lists and objects are nested more than {MAX_DEPTH} deep; expected the file of a model"


def on_hub(source: str) -> re.Match[str] | None:
    """Name and revision, where `source` means a repository of the hub: no path whose folder is here does."""
    is_local = source.startswith(".") or Path(source).exists() or Path(source).parent.is_dir()
    return None if is_local and not source.startswith("hf:") else HUB.fullmatch(source)


def find_source(source: str, on_note: Callable[[str], None]) -> Path:
    """The folder that `source` means: itself, or a repository of the hub, which `on_note` is told of first.

    Raises UserError: nothing there, no network, no `huggingface_hub`.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{source}: is a file; give the directory that holds config.json and the weights")
    hub = on_hub(source)
    if hub is None:
        near = "" if "/" in source else " (on the hub, a model is owner/name)"
        raise UserError(f"{source}: no such directory{near}; give one that holds config.json and the weights")
    on_note(f"{source}: no such directory here; taken as a repository of the Hugging Face hub")
    wanted = ("config.json", *CARRIED, *tokenizer_files.WANTED)
    repository, revision = hub[1], hub[2]
    for weights in (SAFETENSORS, PICKLED):
        stem, _, ending = weights.rpartition(".")
        patterns = [*wanted, weights, f"{stem}-*.{ending}", f"{weights}.index.json"]
        folder = tokenizer_files.download(repository, revision, patterns, "its files")
        if any(folder.glob(f"{stem}*.{ending}")):
            break
    return folder


def config_of(source: Path) -> ModelConfig:
    """What the model of a Hugging Face folder is; rows that are padding count as ids. UserError: none that we have."""
    their_config = read_json(source / "config.json")
    try:
        family = hf.family_of(their_config)
        return family.validated(family.config_from_hf(their_config))
    except UserError as error:
        raise UserError(f"{source / 'config.json'}: {error}") from None


def has_tokenizer(source: Path) -> bool:
    """Whether a folder of Hugging Face's has one that can be read."""
    names = ["tokenizer.json", *(vocabulary for vocabulary, _ in tokenizer_files.PAIRS)]
    return any((source / name).is_file() for name in names)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object, or UserError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); copy or download it again") from None
    except RecursionError:
        raise UserError(f"{path}: {TOO_DEEP}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}; copy or download it again")
    for key, value in content.items():
        _check_text(path, key, {key: value})
    return content


def _check_text(path: Path, field: str, value: Any) -> None:
    """That a field can be written again, as UTF-8. Raises UserError."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise UserError(f"{path}: {field!r}: {TOO_DEEP}")
        level = [
            child
            for outer in level
            if isinstance(outer, dict | list)
            for child in (outer.values() if isinstance(outer, dict) else outer)
        ]
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{path}: {field!r} holds half a character, which is no text; mend it") from None
