"""YAML files as text: on which line each key stands, and what YAML or hydra would silently take otherwise."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from modelzoo.base_config import UserError

KeyPath = tuple[str | int, ...]
OLD_NUMBER = re.compile(r"[-+]?(0[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""What YAML 1.1 reads in base 8 or base 60: 0100 is 64, 1:30 is 90."""


class Source(NamedTuple):
    """A YAML file: its text, and the tree of it."""

    text: str
    root: yaml.Node | None


def parsed(file: Path) -> Source:
    """The file as it is now. Raises yaml.YAMLError, OSError or UnicodeDecodeError."""
    stat = file.stat()
    return _parsed(file, stat.st_mtime_ns, stat.st_size)


@cache
def _parsed(file: Path, modified_ns: int, num_bytes: int) -> Source:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = file.read_text(encoding="utf-8")
    return Source(text, yaml.compose(text, Loader=loader))


def key_nodes(file: Path) -> list[tuple[KeyPath, int, yaml.Node]]:
    """Every key of a YAML file, as a path, with its line (1 is the first) and its value's node."""
    return list(_walk(parsed(file).root, ()))


def key_lines(file: Path) -> list[tuple[KeyPath, int]]:
    """Every key of a YAML file, as a path, with its line."""
    return [(path, line) for path, line, _ in key_nodes(file)]


def check_sources(sources: Sequence[tuple[Path, KeyPath]]) -> None:
    """Refuse what would be merged into something its author did not mean.

    `sources` are the files in the order in which they are merged, each with the section its keys belong to.
    Raises UserError with every finding.
    """
    found: list[str] = []
    sections: dict[KeyPath, str] = {}
    for file, section in sources:
        for path, line, node in key_nodes(file):
            place = f"{display(file)}:{line}"
            full = section + path
            shown = ".".join(map(str, full))
            if path == ("defaults",):
                if isinstance(node, yaml.SequenceNode) and node.value and node.value[-1].value != "_self_":
                    found.append(
                        f"{place}: defaults\n    must end with `- _self_`; otherwise the files listed override what "
                        "this file says"
                    )
            elif path[0] == "defaults":
                continue
            elif isinstance(node, yaml.MappingNode):
                sections.setdefault(full, place)
            elif full in sections and node.tag != "tag:yaml.org,2002:null":
                value = f" = {node.value!r}" if isinstance(node, yaml.ScalarNode) else ""
                choose = f"; to choose a file, write `- override {shown}: …` in defaults" if len(full) == 1 else ""
                found.append(f"{place}: {shown}{value}\n    must be a section, as in {sections[full]}{choose}")
            elif isinstance(node, yaml.ScalarNode) and not node.style and OLD_NUMBER.fullmatch(node.value):
                remedy = "YAML reads this number in base 8 or 60; write it in base 10, or in quotes if it is text"
                found.append(f"{place}: {shown} = {node.value}\n    {remedy}")
    if found:
        raise UserError("\n".join(found))


def _walk(node: yaml.Node | None, prefix: KeyPath) -> Iterator[tuple[KeyPath, int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = (*prefix, key.value if isinstance(key, yaml.ScalarNode) else "?")
            yield path, key.start_mark.line + 1, value
            yield from _walk(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*prefix, index), value.start_mark.line + 1, value
            yield from _walk(value, (*prefix, index))


def yaml_message(error: yaml.YAMLError, origin: str) -> str:
    """A parser's error with file, line and column."""
    mark = getattr(error, "problem_mark", None)
    reason = " ".join(str(getattr(error, "problem", error)).split())
    if mark is None:
        return f"{origin}: not valid YAML: {reason}"
    file = mark.name if str(mark.name).endswith(".yaml") else origin
    place = f"{display(Path(file))}:{mark.line + 1}"
    return f"{place}: not valid YAML: {reason} (column {mark.column + 1}); mind the indentation and the colons"


def display(file: Path) -> str:
    """A path as the user would type it: relative where it lies below the working directory."""
    try:
        return str(file.relative_to(Path.cwd()))
    except ValueError:
        return str(file)
