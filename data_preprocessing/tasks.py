"""Several runs that share the work of one, each perhaps on a machine of its own, and what they leave for the merge."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from data_preprocessing.chunks import Lot
from modelzoo.base_config import UserError


class Task(NamedTuple):
    """One of them."""

    number: int
    num_tasks: int

    def __str__(self) -> str:
        return f"{self.number}-of-{self.num_tasks}"

    def has(self, lot: Lot, num_lots: int, chunk: int | None = None) -> bool:
        """Whether the chunk of this lot, or any chunk of it, is this task's. Reading is shared where lots are many."""
        if num_lots >= 4 * self.num_tasks:
            return lot.number % self.num_tasks == self.number
        return chunk is None or chunk % self.num_tasks == self.number


def read_accounts(folder: Path, here: dict[str, Any]) -> list[dict[str, Any]]:
    """The accounts that all tasks have left, each of the settings and tokenizer of `here`.

    Raises:
        UserError: some have not ended, or were of other settings.
    """
    found = {path.stem: json.loads(path.read_bytes()) for path in sorted(folder.glob("*-of-*.json"))}
    counts = {int(name.split("-of-")[1]) for name in found}
    if len(counts) != 1:
        what = f"accounts of different numbers of tasks ({', '.join(sorted(found))})"
        remedy = "delete those of the numbers that do not count, then merge"
        if not found:
            what, remedy = "no task has ended yet", "run --task 0/N to --task N-1/N with one N, then merge"
        raise UserError(f"{folder}: {what}; {remedy}")
    count = counts.pop()
    if missing := [number for number in range(count) if f"{number}-of-{count}" not in found]:
        raise UserError(
            f"{folder}: {len(missing)} of {count} tasks have not ended: "
            + ", ".join(f"--task {number}/{count}" for number in missing)
        )
    for name, account in found.items():
        refuse_differences(f"{folder / name}.json", {key: account[key] for key in here}, here, "run it again")
    return list(found.values())


def refuse_differences(what: str, there: dict[str, Any], here: dict[str, Any], remedy: str) -> None:
    """Raise UserError with every key whose values differ."""
    flat_there, flat_here = _flat(there), _flat(here)
    keys = dict.fromkeys((*flat_there, *flat_here))
    different = [key for key in keys if flat_there.get(key) != flat_here.get(key)]
    if different:
        lines = [f"  {key}: {flat_there.get(key)!r} there, {flat_here.get(key)!r} here" for key in different]
        raise UserError(f"{what}:\n" + "\n".join(lines) + f"\n{remedy}")


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        out |= _flat(item, name + ".") if isinstance(item, dict) else {name: item}
    return out
