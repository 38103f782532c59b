"""Which domains of a run are new and which old: by what its base was trained on, else by their part of the training."""

import os.path
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelzoo.report.run_files import RunFiles, is_number

Role = Literal["new", "old"]


@dataclass(frozen=True)
class Dataset:
    """What is known of the directory that a dataset was read from."""

    path: str | None
    fingerprint: str | None
    """None where an older version wrote the run's files."""

    def is_same(self, other: "Dataset") -> bool:
        """By the fingerprints where both are known: a directory is moved, named otherwise, or written anew."""
        if self.fingerprint and other.fingerprint:
            return self.fingerprint == other.fingerprint
        return bool(self.path and other.path) and _resolved(self.path) == _resolved(other.path)


class Roles:
    """What a run's files tell of its training sources and evaluation sets. One without a name has an empty one."""

    def __init__(self, files: RunFiles) -> None:
        self.files = files
        self.settings = _sources(files, "train")
        known = files.base.get("sources")
        known = known if isinstance(known, Mapping) else {}
        self.sources = {name: _dataset(own.get("path"), known.get(name)) for name, own in self.settings.items()}
        self.base = [
            _dataset(one.get("path"), one.get("fingerprint")) if isinstance(one, Mapping) else _dataset(one, None)
            for one in files.base.get("trained_on") or ()
        ]
        """What taught the base; nothing where that is not known."""
        self.taught = {name for name, own in self.sources.items() if any(map(own.is_same, self.base))}
        """The sources that taught the base, too."""
        self.shares = self._shares()

    @property
    def replayed(self) -> set[str]:
        """The sources of a mixture that are what a run replays of the old: those that taught the base, where these are
        some and not all; else those that are given a share of all tokens beside others that divide the rest."""
        if 0 < len(self.taught) < len(self.sources):
            return self.taught
        shared = {name for name, own in self.settings.items() if own.get("share") is not None}
        return shared if len(shared) < len(self.sources) else set()

    @property
    def guessed(self) -> bool:
        """Whether nothing but the shares of several sources tells which of them the run was to learn."""
        continued = self.files.setting("continue_from") is not None
        return continued and len(self.sources) > 1 and not (self.taught or self.replayed)

    def role(self, key: str) -> Role:
        """Of an evaluation set: new are those of the most that is not replayed, and of all that is half as much."""
        learned = {name: 0.0 if name in self.replayed else share for name, share in self.shares.items()}
        own = sum(learned[name] for name in self._sources_of(key))
        return "new" if 0 < max(learned.values(), default=0.0) / 2 <= own else "old"

    def share(self, key: str) -> float:
        """The part of the training tokens that came from an evaluation set's sources."""
        return sum(self.shares[name] for name in self._sources_of(key))

    def of_base(self, key: str) -> bool | None:
        """Whether the base was trained on an evaluation set's dataset; None where that is not known."""
        if not self.base:
            return None
        own = self._evaluated(key)
        return any(map(own.is_same, self.base)) or any(name in self.taught for name in self._sources_of(key))

    def _sources_of(self, key: str) -> list[str]:
        """The training sources that read the same dataset as an evaluation set, or bear its name."""
        own = self._evaluated(key)
        return [name for name, source in self.sources.items() if (key and name == key) or own.is_same(source)]

    def _evaluated(self, key: str) -> Dataset:
        lines = [line for line in self.files.evaluations if (line.get("set") or "") == key]
        return _dataset(
            _sources(self.files, "validation").get(key, {}).get("path"), lines[-1].get("dataset") if lines else None
        )

    def _shares(self) -> dict[str, float]:
        """Each training source's part of the tokens: as counted, else as the weights say."""
        seen: dict[str, float] = {}
        for name, own in self.settings.items():
            counted = self.files.series(f"tokens_seen/{name}")
            weight = own.get("weight", 1.0)
            seen[name] = counted[-1][1] if counted else float(weight) if is_number(weight) else 0.0
        total = sum(seen.values())
        return {name: value / total for name, value in seen.items()} if total > 0 else seen


def _dataset(path: Any, fingerprint: Any) -> Dataset:
    return Dataset(None if path is None else str(path), None if fingerprint is None else str(fingerprint))


def _resolved(path: str | None) -> str:
    try:
        return os.path.realpath(path or "")
    except ValueError:  # a name that no file can have
        return str(path)


def _sources(files: RunFiles, part: str) -> dict[str, Mapping[str, Any]]:
    """data.train or data.validation of the config: by name, a single one under an empty one."""
    section = files.setting("data", part, default={})
    if isinstance(section, Mapping) and isinstance(section.get("sources"), Mapping):
        return {name: source for name, source in section["sources"].items() if isinstance(source, Mapping)}
    return {"": section} if isinstance(section, Mapping) and section else {}
