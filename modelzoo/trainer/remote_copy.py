"""Copies of a run's checkpoints on another file system, by fsspec: `<url>/<run>/checkpoints/step_…`."""

import json
import secrets
from pathlib import Path
from typing import Any

from modelzoo.base_config import UserError
from modelzoo.trainer.checkpoint import (
    MANIFEST,
    STEP_NAME,
    appearing,
    damage,
    latest_checkpoint,
    step_folder,
    step_of,
    sweep,
)


class RemoteCopy:
    """What the other file system holds of a run. A copy counts when its manifest is there, which comes last."""

    def __init__(self, url: str, run_name: str) -> None:
        """Raises UserError where no installed package speaks the URL's protocol."""
        from fsspec.core import url_to_fs

        self.url = url
        try:
            self._files, root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(f"copy_to={url}: {error}") from None
        self._root = f"{root.rstrip('/')}/{run_name}/checkpoints"

    def steps(self) -> list[int]:
        """The checkpoints that are there, oldest first. Raises UserError where that cannot be found out."""
        try:
            self._files.invalidate_cache()
            manifests = self._files.glob(f"{self._root}/step_*/{MANIFEST}")
        except Exception as error:  # of whatever library is behind the protocol
            raise UserError(f"copy_to={self.url}: cannot be listed: {described(error)}") from error
        names = [str(path).split("/")[-2] for path in manifests]
        return sorted(step_of(name) for name in names if STEP_NAME.fullmatch(name))

    def holds(self, folder: Path) -> bool:
        """Whether this very checkpoint has been copied."""
        try:
            return bool(self._files.cat_file(self._path(folder.name, MANIFEST)) == (folder / MANIFEST).read_bytes())
        except FileNotFoundError:
            return False

    def copy(self, folder: Path) -> None:
        """Copy a checkpoint, its manifest last."""
        self.remove(step_of(folder.name))  # one of the same step, or what an interrupted copy left
        self._files.makedirs(self._path(folder.name), exist_ok=True)
        for path in sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST):
            self._files.put_file(str(path), self._path(folder.name, path.name))

    def remove(self, step: int) -> None:
        """Delete a copy, its manifest first."""
        name = step_folder(Path(), step).name
        for path in (self._path(name, MANIFEST), self._path(name)):
            if self._files.exists(path):
                self._files.rm(path, recursive=True)

    def fetch(self, step: int, run_dir: Path) -> tuple[Path | None, str | None]:
        """Bring a checkpoint into a run's folder; None, and what is wrong with it, where it is damaged."""
        folder = step_folder(run_dir, step)
        where = f"a copy of {self.url}'s {folder.name}"
        wrong: str | None = None
        try:
            with appearing(folder, where, token=f"-{secrets.token_hex(4)}") as partial:
                manifest = self._files.cat_file(self._path(folder.name, MANIFEST))
                (partial / MANIFEST).write_bytes(manifest)
                for name in _listed(manifest):
                    self._files.get_file(self._path(folder.name, name), str(partial / name))
                if wrong := damage(partial):
                    raise _Damaged
        except _Damaged:
            return None, f"{self.url}: {folder.name}: {wrong}; it is left alone and not used"
        except FileNotFoundError as error:
            return None, f"{self.url}: {folder.name}: a file is missing ({error}); it is left alone and not used"
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"copy_to={self.url}: {folder.name}: cannot be read: {described(error)}") from error
        return folder, None

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))


class _Damaged(Exception):
    """What came is not what was copied."""


def described(error: Exception) -> str:
    """An error of whatever library is behind a protocol."""
    return f"{type(error).__name__}: {error}"


def _listed(manifest: bytes) -> list[str]:
    """The files of a checkpoint; none where the manifest cannot be read, which `damage` then says."""
    try:
        files: dict[str, Any] = dict(json.loads(manifest)["files"])
    except (ValueError, KeyError, TypeError):
        return []
    return [name for name in files if Path(name).name == name]


def require_copied(folder: Path, copies: RemoteCopy | None) -> None:
    """Raises UserError where a finished run's checkpoint is not where it is to be copied to."""
    if copies is None:
        return
    why = ""
    try:
        if copies.holds(folder):
            return
    except Exception as error:  # of whatever library is behind the protocol
        why = f" ({described(error)})"
    raise UserError(f"{folder}: is not copied to {copies.url}{why}; mend that and start the same command again")


def newest_checkpoint(run_dir: Path, copies: RemoteCopy | None) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, here or among the copies, of which it is then fetched; and warnings.

    One that is only here is copied. Only for who holds the run's lock: what a killed process has left half done is
    removed.
    """
    sweep(run_dir)
    folder, notes = latest_checkpoint(run_dir)
    if copies is None:
        return folder, notes
    for step in reversed(copies.steps()):
        if folder is not None and step <= step_of(folder.name):
            break
        fetched, wrong = copies.fetch(step, run_dir)
        if fetched is not None:
            return fetched, [*notes, f"{fetched.name} is fetched from {copies.url}"]
        notes.append(str(wrong))
    if folder is not None:
        try:
            if not copies.holds(folder):
                copies.copy(folder)
        except Exception as error:  # of whatever library is behind the protocol; the run goes on
            notes.append(f"{folder} is not copied to {copies.url}: {described(error)}; a run that goes on tries again")
    return folder, notes
