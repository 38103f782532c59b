"""Where the checkpoints of a run lie, and what they are called. No torch."""

import re
from pathlib import Path

MANIFEST = "manifest.json"
STEP_NAME = re.compile(r"step_\d{8,}")


def step_folder(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run_dir / "checkpoints" / f"step_{step:08d}"


def step_of(name: str) -> int:
    """The step that a checkpoint's folder is named after."""
    return int(name.removeprefix("step_"))


def checkpoints_of(run_dir: Path) -> list[Path]:
    """The checkpoints' folders of a run, oldest first, whole or not."""
    folders = (run_dir / "checkpoints").glob("step_*")
    return sorted((f for f in folders if STEP_NAME.fullmatch(f.name)), key=lambda folder: step_of(folder.name))
