"""The folder that a command writes: new, whole, and written by one process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelzoo.base_config import UserError
from modelzoo.files import exclusive
from modelzoo.trainer.checkpoint import appearing


@contextmanager
def new_folder(out: Path, total: int) -> Iterator[Path]:
    """A folder to write into, which becomes `out` as the block ends; `total` bytes are going to be needed.

    Raises UserError: `out` exists, before or by then, or another process is writing it. Nothing then stays, and what
    stands there is left alone.
    """
    with exclusive(out.with_name(f".{out.name}.lock"), f"writing {out}"):
        require_new(out)  # again: the process that held the lock may have written it
        with appearing(out, f"{total / 2**30:.1f} GiB", replaces=False) as partial:
            yield partial


def require_new(out: Path) -> None:
    """Raises UserError where something stands at `out`."""
    if out.is_symlink() and not out.exists():
        raise UserError(
            f"{out}: is a link to {os.readlink(out)}, which does not exist; choose another path, or remove the link"
        )
    if out.exists():
        raise UserError(f"{out}: exists already; choose another path, or remove it")
