"""Prompts from the command line and from files, each with the place it came from. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from modelzoo.base_config import UserError

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Prompt:
    """A text to continue."""

    text: str
    where: str = "--prompt"
    """For messages: the option, or file:line."""
    fields: dict[str, Any] = field(default_factory=dict)
    """What else its JSON line holds; it comes back beside the answer."""


def from_options(texts: Sequence[str]) -> list[Prompt]:
    """The values of `--prompt`."""
    check_text("--prompt", texts)
    return [
        Prompt(text, f"--prompt {number}" if len(texts) > 1 else "--prompt") for number, text in enumerate(texts, 1)
    ]


def check_text(option: str, texts: Sequence[str]) -> None:
    """Raise UserError for a value of an option that is not Unicode text."""
    for number, text in enumerate(texts, 1):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"{option} {number}: is not UTF-8 text; check the terminal's encoding") from None


def from_file(path: Path, reserved: Sequence[str]) -> list[Prompt]:
    """One prompt a line: the line itself in .txt, its key `prompt` in .jsonl.

    Raises UserError with every problem in the file: not UTF-8, no text, not JSON, a key that is `reserved`.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise UserError(f"--prompts {path}: expected a .txt file, a prompt a line, or .jsonl with a key `prompt`")
    lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    if lines == [b""]:
        raise UserError(f"{path}: is empty; write a prompt on each line")
    prompts, problems = [], []
    for number, line in enumerate(lines, 1):
        try:
            prompts.append(_parse(line.removesuffix(b"\r"), path.suffix, f"{path}:{number}", reserved))
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    refuse_all(problems)
    return prompts


def refuse_all(problems: Sequence[str]) -> None:
    """Raise them in one UserError, if there are any."""
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        raise UserError("\n".join([*problems[:SHOWN_PROBLEMS], *([f"… and {more} more"] if more > 0 else [])]))


def _parse(line: bytes, suffix: str, where: str, reserved: Sequence[str]) -> Prompt:
    """Raises ValueError with what is wrong with the line."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start + 1} is not UTF-8; convert the file") from None
    if not text:
        raise ValueError('is empty; remove the line, or write {"prompt": ""} in a .jsonl file to start a document')
    if suffix == ".txt":
        return Prompt(text, where)
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("prompt"), str):
        raise ValueError('expected an object with the key `prompt`, a text: {"prompt": "Once"}')
    prompt = fields.pop("prompt")
    if taken := [key for key in fields if key in reserved]:
        raise ValueError(f"the key {taken[0]!r} is the answer's; rename it")
    return Prompt(prompt, where, fields)
