"""Small files that appear whole or not at all."""

import errno
import os
from pathlib import Path

from modelzoo.base_config import UserError

OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT)


def write_text(path: Path, text: str) -> None:
    """Write a file under another name, force it to the disk, and rename it. Nothing partial stays.

    Raises UserError where the disk is full.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        if error.errno in OUT_OF_SPACE:
            raise UserError(f"{path}: no space left on the device; free some and run the command again") from None
        raise
