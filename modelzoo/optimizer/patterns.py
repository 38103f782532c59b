"""Parameters by pattern: `embedding`, `blocks.[0-3]`, `blocks.*.mlp.fc_in.weight`."""

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

TIED_HEAD = "lm_head.weight"
"""The name that the embedding does not have where it is the head too."""


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern (`*`, `?`, `[0-3]`) names a parameter, or a module that holds it; `*` spans dots too."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def matching(patterns: Iterable[str], names: Iterable[str]) -> set[str]:
    """The names that any of the patterns matches."""
    patterns = list(patterns)
    return {name for name in names if any(matches(pattern, name) for pattern in patterns)}


def no_match(pattern: str, names: Sequence[str], tied: bool) -> str:
    """What to say of a pattern that matches none of the names; `tied`: the embedding is the head."""
    if tied and matches(pattern, TIED_HEAD):
        return "matches no parameter: the head is the embedding here (model.tie_embeddings); write embedding for both"
    parts = list(dict.fromkeys(_part(name) for name in names))
    known = list(dict.fromkeys(prefix for name in names for prefix in _prefixes(re.sub(r"\.\d+\.", ".*.", name))))
    close = difflib.get_close_matches(pattern, known, n=1, cutoff=0.6)
    blocks = [part for part in parts if part.startswith("blocks.")]
    others = [part for part in parts if part not in blocks]
    shown = ", ".join([*others, f"{blocks[0]} … {blocks[-1]}" if len(blocks) > 1 else "".join(blocks)])
    return f"matches no parameter{f'; did you mean {close[0]}?' if close else ''} The model's parts: {shown}"


def _part(name: str) -> str:
    """`embedding`, `blocks.3`."""
    words = name.split(".")
    return ".".join(words[:2]) if words[0] == "blocks" else words[0]


def _prefixes(name: str) -> list[str]:
    """`blocks.*`, `blocks.*.mlp`, … and the name itself."""
    words = name.split(".")
    first = 2 if words[0] == "blocks" else 1
    return [".".join(words[:end]) for end in range(first, len(words) + 1)]
