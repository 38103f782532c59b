"""A YAML that builds on no other one, read without hydra, whose import takes a quarter of a second.

Only what YAML, OmegaConf and a reader of the file all take for the same is read here; all else is hydra's.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from modelzoo.yaml_source import parsed

KEY = re.compile(r"[A-Za-z_]\w*")
PLAIN: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "str": (re.compile(r"(\.{0,2}/|[A-Za-z_])[\w /.-]*"), str),
    "int": (re.compile(r"0|[1-9][0-9]{0,17}"), int),
    "float": (re.compile(r"[0-9]+\.[0-9]+"), float),
    "bool": (re.compile(r"true|false"), "true".__eq__),
    "null": (re.compile(r"null"), lambda text: None),
}
"""Scalars without quotes that are read here: what they look like, and what makes them a value."""
HYDRAS = ("defaults", "hydra")
"""Keys that have a meaning in hydra."""
HEADER = re.compile(r"^\s*#\s*@", re.MULTILINE)
"""A comment that says something to hydra."""


class _Hydras(Exception):
    """Something that is not read here."""


def read(file: Path) -> dict[str, Any] | None:
    """What the file says; None where hydra has to look at it, for what it says or for what is wrong with it."""
    try:
        source = parsed(file)
        content = _value(source.root)
    except (_Hydras, yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(content, dict) or not content or any(key in content for key in HYDRAS):
        return None
    return None if "\t" in source.text or HEADER.search(source.text) else content  # tabs: parsers differ in them


def _value(node: yaml.Node | None) -> Any:
    kind = "" if node is None else node.tag.removeprefix("tag:yaml.org,2002:")
    if isinstance(node, yaml.MappingNode) and kind == "map":
        content = {_key(key): _value(value) for key, value in node.value}
        if len(content) == len(node.value):  # no key stands there twice
            return content
    elif isinstance(node, yaml.SequenceNode) and kind == "seq":
        return list(map(_value, node.value))
    elif isinstance(node, yaml.ScalarNode) and node.style:
        if kind == "str" and "${" not in node.value and "???" not in node.value:
            return node.value
    elif isinstance(node, yaml.ScalarNode) and kind in PLAIN:
        pattern, make = PLAIN[kind]
        if pattern.fullmatch(node.value):
            return make(node.value)
    raise _Hydras


def _key(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":str") and KEY.fullmatch(node.value):
        return str(node.value)
    raise _Hydras
