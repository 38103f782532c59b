"""Writes docs/reference.md: every key of every YAML, with its type, default and meaning, from the code.

python docs/make_reference.py
"""

import ast
import inspect
import textwrap
import types
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from data_preprocessing.config import PreprocessConfig, TokenizerTrainConfig
from modelzoo.base_config import Config
from modelzoo.run_config import RunConfig

OUTPUT = Path(__file__).with_name("reference.md")
TITLES = {
    RunConfig: "A run: `modelzoo train`",
    PreprocessConfig: "Preprocessing: `modelzoo preprocess`",
    TokenizerTrainConfig: "Tokenizer training: `modelzoo tokenizer train`",
}


def reference() -> str:
    """The page."""
    lines = [
        "# Every key of every YAML",
        "",
        "Written by `make docs` from the classes themselves. A key without a default is required. A section with",
        "`kind` is one of several: the keys of each kind are listed apart.",
    ]
    for schema, title in TITLES.items():
        lines += ["", f"## {title}"]
        lines += section(schema, "")
    return "\n".join(lines) + "\n"


def section(cls: type[Config], prefix: str) -> list[str]:
    """A table of one class's keys, then those of its sections."""
    rows = ["", "| key | type | default | meaning |", "|---|---|---|---|"]
    below: list[str] = []
    meanings = docstrings(cls)
    for name, info in cls.model_fields.items():
        inner = list(config_classes(info.annotation))
        default = "required" if info.is_required() else f"`{plain(info.default)}`"
        kind = "section" if inner else f"`{type_name(info.annotation)}`"
        rows.append(f"| `{prefix}{name}` | {kind} | {default} | {meanings.get(name, '')} |".replace("|  |", "| |"))
        for option in inner:
            label = f"`{prefix}{name}`"
            star = ".<name>" if get_origin(info.annotation) is dict else ""
            if "kind" in option.model_fields:
                label += f", kind `{option.model_fields['kind'].default}`"
            below += ["", f"### {label}", "", summary(option)]
            below += section(option, f"{prefix}{name}{star}.")
    return rows + below


@cache
def docstrings(cls: type[Config]) -> dict[str, str]:
    """The string below each field, those of the base classes included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if issubclass(base, Config) and base is not Config:
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
            for node, after in pairwise(body):
                if (
                    isinstance(node, ast.AnnAssign)
                    and isinstance(after, ast.Expr)
                    and isinstance(after.value, ast.Constant)
                ):
                    found[node.target.id] = " ".join(str(after.value.value).split())  # type: ignore[union-attr]
    return found


def summary(cls: type[Config]) -> str:
    """The class's docstring, in a line."""
    return " ".join((cls.__doc__ or "").split())


def config_classes(annotation: Any) -> list[type[Config]]:
    """The sections that an annotation admits."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    origin = get_origin(annotation)
    if origin is Annotated:
        return config_classes(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [cls for option in get_args(annotation) for cls in config_classes(option)]
    return config_classes(get_args(annotation)[1]) if origin is dict else []


def type_name(annotation: Any) -> str:
    """`int or null`, `fp32 / bf16`, `list`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return type_name(get_args(annotation)[0])
    if origin is Literal:
        return " / ".join(map(str, get_args(annotation)))
    if origin in (Union, types.UnionType):
        return " or ".join(type_name(option) for option in get_args(annotation))
    if origin in (tuple, list):
        return "list"
    return "null" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))


def plain(value: Any) -> str:
    """A default as YAML writes it."""
    if isinstance(value, Config):
        return "{" + ", ".join(f"{k}: {plain(v)}" for k, v in value.model_dump().items()) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {plain(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(plain, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value) or '""'


if __name__ == "__main__":
    OUTPUT.write_text(reference(), encoding="utf-8")
    print(f"wrote {OUTPUT.name}")
