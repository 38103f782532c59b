"""Checkpoints on disk: safetensors and JSON, a manifest of sha256 written last, the folder renamed into place.

    checkpoints/step_00001000/
        model.safetensors  optimizer.safetensors  random.safetensors
        state.json  config.yaml  tokenizer.json
        manifest.json          {"files": {"model.safetensors": {"sha256": …, "bytes": …}, …}}

An imported model is such a folder too, of any name, without what only a run has; a large one comes in several files,
`model-00001-of-00003.safetensors` and so on. A folder under its final name is whole, and nothing in it can run code
when it is read.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modelzoo.base_config import UserError

FORMAT_VERSION = 2
"""1 had the rows of `qkv` in the order q/k/v, head; 2 has them head by head."""
MANIFEST = "manifest.json"
STEP_NAME = re.compile(r"step_\d{8,}")


def step_folder(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run_dir / "checkpoints" / f"step_{step:08d}"


def checkpoints_of(run_dir: Path) -> list[Path]:
    """The checkpoints' folders of a run, oldest first, whole or not."""
    folders = (run_dir / "checkpoints").glob("step_*")
    return sorted(folder for folder in folders if STEP_NAME.fullmatch(folder.name))


def write_checkpoint(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], texts: Mapping[str, str]) -> None:
    """Write `tensors` as `<name>.safetensors` and `texts` as files, then show the folder under its name.

    Raises UserError where the disk is full; whatever goes wrong, no partial folder stays.
    """
    for left_over in folder.parent.glob(".step_*"):  # by a killed process
        shutil.rmtree(left_over)
    needed = sum(t.nbytes for group in tensors.values() for t in group.values())
    with appearing(folder, f"a checkpoint of {needed / 2**20:.0f} MiB; earlier checkpoints are untouched") as partial:
        for name, group in tensors.items():
            whole = {key: tensor.detach().cpu().contiguous() for key, tensor in group.items()}
            save_file(whole, partial / f"{name}.safetensors")
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
        write_manifest(partial)


@contextmanager
def appearing(folder: Path, what: str, replaces: bool = True) -> Iterator[Path]:
    """A folder under another name, to write into; as the block ends it is forced to the disk and gets its own.

    Takes the place of a checkpoint of that name where it `replaces` one (the same step, saved again); else what
    has come there meanwhile stays, and is a UserError. `what` is said to need the space where the disk is full,
    which is one too; whatever goes wrong, nothing of ours stays.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():  # by a killed process
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in [*partial.iterdir(), partial]:
            _sync(path)
        if replaces and folder.exists():
            remove_checkpoint(folder)
        elif folder.exists() or folder.is_symlink():  # an empty folder, too, which the renaming would replace
            raise UserError(f"{folder}: has come to exist meanwhile, and is left alone; choose another path")
        partial.rename(folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) != errno.ENOSPC and "os error 28" not in str(error):
            raise
        raise UserError(
            f"{folder}: no space left on the device for {what}: free some space and start the same command again"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_manifest(folder: Path) -> None:
    """The last file of a checkpoint: sha256 and size of every other."""
    manifest = {"format_version": FORMAT_VERSION, "files": fingerprints(folder)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def fingerprints(folder: Path) -> dict[str, dict[str, Any]]:
    """sha256 and size of every file."""
    return {path.name: _fingerprint(path) for path in sorted(folder.iterdir())}


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint. It leaves its name first, so that a kill cannot leave half of it there."""
    leaving = folder.with_name(f".{folder.name}.removed")
    folder.rename(leaving)
    shutil.rmtree(leaving)


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one of the checkpoint's files, on the CPU; or of the several that a large one comes in."""
    return {key: tensor for file in tensor_files(folder, name) for key, tensor in load_file(file).items()}


def weights_file(folder: Path, weights: str) -> str:
    """What `read_tensors` is to read: of `model` its own weights, of the name of an `ema` callback its average.

    Raises UserError where the checkpoint has no such average.
    """
    if weights == "model":
        return weights
    prefix = "callback_"
    if not any(file.is_file() for file in tensor_files(folder, prefix + weights)):
        found = {re.split(r"[.-]", path.name)[0].removeprefix(prefix) for path in folder.glob(f"{prefix}*.safetensors")}
        there = ", ".join(["model", *sorted(found)])
        raise UserError(f"{folder}: has no averaged weights of the name {weights}; there are: {there}")
    return prefix + weights


def tensor_files(folder: Path, name: str) -> list[Path]:
    """`<name>.safetensors`, or `<name>-00001-of-0000N.safetensors` and the others."""
    return sorted(folder.glob(f"{name}-?????-of-?????.safetensors")) or [folder / f"{name}.safetensors"]


def read_state(folder: Path) -> dict[str, Any]:
    """`state.json`: step, loader position, and what else the trainer saved."""
    return dict(json.loads((folder / "state.json").read_text(encoding="utf-8")))


def damage(folder: Path) -> str | None:
    """The first thing wrong with a checkpoint, or None where every file matches the manifest."""
    return next(all_damage(folder), None)


def all_damage(folder: Path) -> Iterator[str]:
    """Everything that is wrong with a checkpoint."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = dict(manifest["files"])
    except FileNotFoundError:
        yield f"{MANIFEST} is missing"
        return
    except (ValueError, KeyError, TypeError):
        yield f"{MANIFEST} is not readable"
        return
    if (version := manifest.get("format_version")) != FORMAT_VERSION:
        yield f"{MANIFEST} has format_version {version}, and this version of modelzoo reads {FORMAT_VERSION}"
    if "state.json" not in files:
        yield f"{MANIFEST} lists no state.json"
    for name, expected in files.items():
        if not (folder / name).is_file():
            yield f"{name} is missing"
        elif _fingerprint(folder / name) != expected:
            yield f"{name} does not match its sha256 in {MANIFEST}"


def latest_checkpoint(run_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and a warning for each newer one that does not."""
    warnings: list[str] = []
    for folder in reversed(checkpoints_of(run_dir)):
        reason = damage(folder)
        if reason is None:
            return folder, warnings
        warnings.append(f"{folder}: {reason}; it is left alone and not used")
    return None, warnings


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that `path` means: itself, or the newest whole one of a run's folder. Else UserError."""
    if (path / MANIFEST).is_file() or STEP_NAME.fullmatch(path.name):
        if not path.is_dir():
            raise UserError(f"{path}: there is no such checkpoint")
        if reason := damage(path):
            raise UserError(f"{path}: the checkpoint is damaged: {reason}; use another one of its run")
        return path
    folder, warnings = latest_checkpoint(path)
    if folder is None:
        found = "; ".join(warnings) or "it holds no checkpoints/step_… folder"
        raise UserError(f"{path}: no checkpoint to be used: {found}. Train one: modelzoo train CONFIG")
    for warning in warnings:
        print(f"note: {warning}; {folder.name} is taken instead", file=sys.stderr)
    return folder


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def _sync(path: Path) -> None:
    """Force a file or a folder to the disk, so that the rename cannot overtake its contents."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # a folder, where the system syncs none
            raise
    finally:
        os.close(descriptor)
