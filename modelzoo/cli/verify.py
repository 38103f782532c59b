"""`modelzoo verify`: are the files of a dataset, a checkpoint or a run what was written?"""

import json
import time
from pathlib import Path
from typing import Any

import typer

from modelzoo.base_config import UserError


def command(
    path: Path = typer.Argument(..., help="A dataset's directory, a checkpoint, or a run's folder (all of its)."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Check hashes, headers, documents and ledger; report everything that is wrong."""
    if not path.is_dir():
        raise UserError(f"{path}: no such directory; expected a dataset, a checkpoint or a run")
    is_checkpoint = path.name.startswith("step_") or any(path.glob("*.safetensors"))
    is_run = not is_checkpoint and (path / "checkpoints").is_dir()
    report = checkpoint_report(path, is_run) if is_checkpoint or is_run else dataset_report(path)
    if as_json:
        print(json.dumps({"path": str(path), "ok": not report["damage"], **report}, indent=1))
    if report["damage"]:
        raise UserError(message(path, report["damage"]))
    if not as_json:
        for line in ok_lines(report):
            print(line)


def dataset_report(path: Path) -> dict[str, Any]:
    """What `data_preprocessing.verify` finds, for programs."""
    from data_preprocessing.verify import verify
    from modelzoo.cli.progress import counting

    if any(path.glob("*.h5")) and not (path / "manifest.json").exists():
        raise UserError(
            f"{path}: HDF5 files without a manifest.json, such as Cerebras ModelZoo's, keep no hashes to check; "
            f"look into them with: modelzoo inspect {path}"
        )
    total = sum(file.stat().st_size for file in path.rglob("*.h5") if file.is_file())
    with counting("verifying", total, "bytes") as advance:
        found = verify(path, lambda num_bytes: advance(num_bytes, total=total))
    return {
        "kind": "dataset",
        "damage": [one._asdict() for one in found.damage],
        "parts": {name: split._asdict() for name, split in found.splits.items()},
    }


def checkpoint_report(path: Path, is_run: bool) -> dict[str, Any]:
    """The same of one checkpoint, or of all of a run."""
    from modelzoo.trainer.checkpoint import all_damage, checkpoints_of

    folders = checkpoints_of(path) if is_run else [path]
    if not folders:
        raise UserError(f"{path}: this run has no checkpoint yet; train it: modelzoo train CONFIG")
    damage, parts = [], {}
    for folder in folders:
        started = time.monotonic()
        name = str(folder.relative_to(path)) if is_run else folder.name
        for found in all_damage(folder):
            damage.append(
                {
                    "file": name,
                    "found": found,
                    "expected": "every file as its manifest.json lists it",
                    "remedy": "delete this checkpoint; training goes on from the newest whole one",
                }
            )
        files = [file for file in folder.iterdir() if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        parts[name] = {"files": len(files), "bytes": size, "seconds": time.monotonic() - started}
    return {"kind": "checkpoints", "damage": damage, "parts": parts}


def ok_lines(report: dict[str, Any]) -> list[str]:
    """One line for each split or checkpoint."""
    lines = []
    for name, part in report["parts"].items():
        counts = [f"{part[key]:,} {key}" for key in ("shards", "files", "documents", "tokens") if key in part]
        megabytes = part["bytes"] / 1e6
        rate = megabytes / max(1e-9, part["seconds"])
        lines.append(f"ok: {name}: {', '.join(counts)}, {megabytes:,.1f} MB at {rate:,.0f} MB/s")
    return lines


def message(path: Path, damage: list[dict[str, str]]) -> str:
    """Everything at once; a remedy that serves several is said once. Names of files may hold anything."""
    from data_preprocessing.inspect.pieces import visible

    number = f"{len(damage)} thing{'s' if len(damage) != 1 else ''}"
    lines = [visible(f"{path}: {number} wrong")]
    for remedy in dict.fromkeys(one["remedy"] for one in damage):
        lines += [
            visible(f"  {one['file']}: {one['found']}; expected {one['expected']}")
            for one in damage
            if one["remedy"] == remedy
        ]
        lines.append(visible(f"    remedy: {remedy}"))
    return "\n".join(lines)
