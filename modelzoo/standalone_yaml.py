"""A YAML that builds on no other one, read without hydra, whose import takes a quarter of a second.

Only what YAML, OmegaConf and a reader of the file all take for the same is read here; all else is hydra's.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from modelzoo.yaml_source import document

KEY = re.compile(r"[A-Za-z_]\w*")
PLAIN = {
    "str": re.compile(r"(\.{0,2}/|[A-Za-z_])[\w /.-]*"),
    "int": re.compile(r"0|[1-9][0-9]*"),
    "float": re.compile(r"[0-9]+\.[0-9]+"),
    "bool": re.compile(r"true|false"),
    "null": re.compile(r"null"),
}
"""Scalars without quotes that are read here, by their type."""
HYDRAS = ("defaults", "hydra")
"""Keys that have a meaning in hydra."""


def read(file: Path) -> dict[str, Any] | None:
    """What the file says; None where hydra has to look at it, for what it says or for what is wrong with it."""
    try:
        root = document(file)
    except (yaml.YAMLError, OSError, UnicodeDecodeError):
        return None
    if not isinstance(root, yaml.MappingNode) or not root.value or not _is_simple(root):
        return None
    if "@package" in (text := file.read_text(encoding="utf-8")):
        return None
    content: dict[str, Any] = yaml.safe_load(text)
    return None if any(key in content for key in HYDRAS) else content


def _is_simple(node: yaml.Node) -> bool:
    if isinstance(node, yaml.MappingNode):
        keys = Counter(key.value if isinstance(key, yaml.ScalarNode) else "" for key, _ in node.value)
        return (
            all(KEY.fullmatch(key) and count == 1 for key, count in keys.items())
            and all(key.tag.endswith(":str") for key, _ in node.value)
            and all(_is_simple(value) for _, value in node.value)
        )
    if isinstance(node, yaml.SequenceNode):
        return all(map(_is_simple, node.value))
    assert isinstance(node, yaml.ScalarNode)
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if node.style:
        return kind == "str" and "${" not in node.value and "???" not in node.value
    return kind in PLAIN and PLAIN[kind].fullmatch(node.value) is not None
