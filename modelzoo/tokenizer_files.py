"""Where a tokenizer comes from: every form in which one is found becomes the text of a tokenizer.json."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from modelzoo.user_error import UserError

END_OF_DOCUMENT = "<|endoftext|>"
PAIRS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
"""How GPT-2's two files (vocabulary, merges) are named: by OpenAI, and by everybody since."""

BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Files in which Hugging Face's directories name special tokens."""

WANTED = ("tokenizer.json", *(file for pair in PAIRS for file in pair), *BESIDE)
"""Every file that a tokenizer may come in."""

END_ENTRY = re.compile(r'"id":\s*\d+,\s*"content":\s*"<\|endoftext\|>"')
"""An entry of `added_tokens`, as `tokenizers` writes it."""

HUB = re.compile(r"(?:.*/)?hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
"""`hf://owner/name`, or `hf://owner/name@revision`; one slash, once a `Path` has taken the other."""

EXPECTED = (
    "expected a tokenizer.json, a directory holding one, GPT-2's pair of files (encoder.json with vocab.bpe, "
    "or vocab.json with merges.txt), or hf://owner/name"
)


def find(path: str | Path) -> Path:
    """The file that `path` stands for: itself, or the one in a directory or a repository of the hub.

    Raises:
        UserError: nothing there.
    """
    path = Path(path)
    if not path.exists() and (hub := HUB.fullmatch(str(path))):
        path = download(hub[1], hub[2])
    if path.is_dir():
        names = ["tokenizer.json", *(vocabulary for vocabulary, _ in PAIRS)]
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise UserError(f"{path}: no tokenizer in this directory; {EXPECTED}")
        return found[0]
    if not path.is_file():
        near = f"hf://{path}" if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) else ""
        raise UserError(f"{path}: no such file; {EXPECTED}" + (f" (on the hub it would be {near})" if near else ""))
    return path


_ahead: dict[Path, str] = {}


def read_ahead(path: Path) -> str:
    """`read`, and the next `read` of the same file gives the same text at once."""
    _ahead[path] = read(path)
    return _ahead[path]


def read(path: Path) -> str:
    """The text of a tokenizer.json for a file that `find` found.

    Raises:
        UserError: it is not a tokenizer.
    """
    if path in _ahead:
        return _ahead.pop(path)
    try:
        text = path.read_text(encoding="utf-8")
        if (
            text.startswith("{") and '"model"' in text and END_ENTRY.search(text)
        ):  # all that is asked here; to read 2 MB of JSON for it takes 0.05 s
            return text
        content = orjson.loads(text)
        if not (isinstance(content, dict) and isinstance(content.get("model"), dict)):
            content = _from_pair(path, content)
            text = orjson.dumps(content).decode()
        end = _end_named_beside(path, content)
        return with_end(text, end) if end else text
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # not the shape of such a file
        raise UserError(f"{path}: cannot be read as a tokenizer ({error!r}); {EXPECTED}") from error


def with_end(text: str, token: str) -> str:
    """The tokenizer.json with `token` as what ends a document, said as the format says it: a template.

    Templates act on no id of ours, since nothing is added to a text; they are where the name travels.
    """
    content = orjson.loads(text)
    ids = [added["id"] for added in content["added_tokens"] if added["content"] == token]
    template = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": token, "type_id": 0}}]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": template,
        "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": token, "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": ids, "tokens": [token]}},
    }
    return orjson.dumps(content).decode()


def without_end(text: str, token: str) -> str:
    """The tokenizer.json without a template that appends `token`, for programs that act on it."""
    content = orjson.loads(text)
    if end_of_document({**content, "added_tokens": [], "model": {}}) == token:
        content["post_processor"] = None
        return orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()
    return text


def end_of_document(specification: dict[str, Any]) -> str | None:
    """The token that ends a document: `<|endoftext|>` where there is one, else what a template appends."""
    if any(added["content"] == END_OF_DOCUMENT for added in specification["added_tokens"]):
        return END_OF_DOCUMENT
    if END_OF_DOCUMENT in specification["model"].get("vocab", ()):
        return END_OF_DOCUMENT
    processor = specification.get("post_processor") or {}
    for part in processor.get("processors", [processor]):
        last = (part.get("single") or [{}])[-1]
        if part.get("type") == "TemplateProcessing" and "SpecialToken" in last:
            return str(last["SpecialToken"]["id"])
    return None


def special_token(content: str, id_: int) -> dict[str, Any]:
    """An entry of `added_tokens`: a token that only the program writes."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id_, "content": content, **flags, "special": True}


def _end_named_beside(path: Path, content: dict[str, Any]) -> str | None:
    """`eos_token` of the files beside, where the tokenizer itself does not say what ends a document."""
    if end_of_document({"added_tokens": [], **content}):
        return None
    for name in BESIDE[:2]:
        token = _read_beside(path, name).get("eos_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str) and any(added["content"] == token for added in content.get("added_tokens", ())):
            return token
    return None


def _read_beside(path: Path, name: str) -> dict[str, Any]:
    file = path.with_name(name)
    try:
        content = orjson.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise UserError(f"{file}: not JSON ({error}); mend it, or remove it") from error
    return content if isinstance(content, dict) else {}


def _from_pair(vocabulary: Path, vocab: Any) -> dict[str, Any]:
    for first, second in PAIRS:
        if vocabulary.name.endswith(first):
            merges = vocabulary.with_name(vocabulary.name.removesuffix(first) + second)
            break
    else:
        raise UserError(f"{vocabulary}: not a tokenizer.json (it has no `model` section); {EXPECTED}")
    if not merges.is_file():
        raise UserError(f"{merges}: no such file, but {vocabulary.name} needs its merges; {EXPECTED}")
    lines = merges.read_text(encoding="utf-8").replace("\r\n", "\n").split("\n")
    pairs = [line for line in lines if line and not line.startswith("#version")]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": _added(vocabulary, vocab),
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": pairs},
    }


def _added(vocabulary: Path, vocab: dict[str, int]) -> list[dict[str, Any]]:
    """The added tokens of a pair: those that the files beside it name, and `<|endoftext|>`."""
    found: dict[str, dict[str, Any]] = {}
    for id_, token in _read_beside(vocabulary, BESIDE[0]).get("added_tokens_decoder", {}).items():
        found[token["content"]] = {**special_token(token["content"], int(id_)), **token}
    known = {name: id_ for names in (vocab, _read_beside(vocabulary, BESIDE[2])) for name, id_ in names.items()}
    named: list[Any] = [END_OF_DOCUMENT]
    for name in BESIDE[:2]:
        for key, token in _read_beside(vocabulary, name).items():
            if key.endswith("_token"):
                named.append(token.get("content") if isinstance(token, dict) else token)
            elif key == "additional_special_tokens":
                named += [extra.get("content") if isinstance(extra, dict) else extra for extra in token]
    for token in named:
        if isinstance(token, str) and token in known:
            found.setdefault(token, special_token(token, known[token]))
    for token, id_ in _read_beside(vocabulary, BESIDE[2]).items():
        found.setdefault(token, {**special_token(token, id_), "special": False})
    return sorted(found.values(), key=lambda added: int(added["id"]))


def download(
    repository: str, revision: str | None, wanted: Sequence[str] = WANTED, what: str = "its tokenizer.json"
) -> Path:
    """A folder with the wanted files of a repository of the Hugging Face hub, from its cache where they are.

    Raises:
        UserError: `huggingface_hub` is not installed; no such repository or revision, no access, or no network.
    """
    name = f"hf://{repository}" + (f"@{revision}" if revision else "")
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{name}: needs the package huggingface_hub; install it (pip install 'modelzoo[hub]'), "
            f"or download {what} by hand and give the path"
        ) from None
    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(wanted)))
    except Exception as error:  # its own errors, those of its HTTP library, and OSError
        raise UserError(
            f"{name}: cannot be downloaded ({type(error).__name__}: {str(error).strip().splitlines()[0]}); check the "
            f"name, the network and your access, or download {what} by hand and give the path"
        ) from error
