"""Where text lies: listing, sizing and opening the files that `reader.paths` names."""

from pathlib import Path
from typing import BinaryIO


def size_of(base_dir: Path, name: str) -> int:
    """Bytes of the file as it lies there."""
    return (base_dir / name).stat().st_size


def open_file(base_dir: Path, name: str) -> BinaryIO:
    """The file, for reading from its start."""
    return (base_dir / name).open("rb")
