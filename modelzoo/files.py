"""Small files that appear whole or not at all, and locks that a dead process does not keep."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from modelzoo.base_config import UserError

OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Of a disk, a user's share of it, or what a process may write into a file."""


@contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """A text file that is written under another name, forced to the disk, and renamed. Nothing partial stays.

    Raises UserError where the disk is full.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in OUT_OF_SPACE:
            raise UserError(f"{path}: no space left on the device; free some and run the command again") from None
        raise


def write_text(path: Path, text: str) -> None:
    """`writing` at once."""
    with writing(path) as file:
        file.write(text)


class InUseError(UserError):
    """Another process holds the lock."""


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` while the block runs. The system lets go of it when the process ends, however.

    Raises InUseError where another process holds it; `what` says what that one is doing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.fstat(file.fileno()).st_ino == path.stat().st_ino  # else its last holder has just deleted it
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise InUseError(f"{path}: another process is {what}; wait for it to end, or stop it")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
