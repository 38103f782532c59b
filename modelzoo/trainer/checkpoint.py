"""Checkpoints on disk: safetensors and JSON, a manifest of sha256 written last, the folder renamed into place.

    checkpoints/step_00001000/
        model.safetensors  optimizer.safetensors  random.safetensors
        state.json  config.yaml  tokenizer.json
        manifest.json          {"files": {"model.safetensors": {"sha256": …, "bytes": …}, …}}

An imported model is such a folder too, of any name, without what only a run has. What several ranks have written, or
what is large, comes in several files of whole tensors, `model-00001-of-00003.safetensors` and so on: who reads it need
not know how many ranks there were. A folder under its final name is whole, and nothing in it can run code when it is
read.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from modelzoo.base_config import UserError
from modelzoo.files import OUT_OF_SPACE
from modelzoo.tensor_writer import plan_of, write_tensor_file
from modelzoo.trainer.checkpoint_folders import MANIFEST as MANIFEST
from modelzoo.trainer.checkpoint_folders import STEP_NAME as STEP_NAME
from modelzoo.trainer.checkpoint_folders import checkpoints_of as checkpoints_of
from modelzoo.trainer.checkpoint_folders import step_folder as step_folder
from modelzoo.trainer.checkpoint_folders import step_of as step_of

FORMAT_VERSION = 2
"""1 had the rows of `qkv` in the order q/k/v, head; 2 has them head by head."""
READ = ("state.json", "config.yaml", "tokenizer.json")
"""What is read of a checkpoint beside its tensors."""
REPLACED = ".replaced"
SETTLED_SECONDS = 2.0
"""A file younger than this could change once more without another time of change."""


def write_checkpoint(folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], texts: Mapping[str, str]) -> None:
    """Write `tensors` as `<name>.safetensors` and `texts` as files, then show the folder under its name.

    Raises UserError where the disk is full; whatever goes wrong, no partial folder stays.
    """
    files = {f"{name}.safetensors": group for name, group in tensors.items()}
    needed = sum(tensor.nbytes for group in tensors.values() for tensor in group.values())
    with appearing(folder, a_checkpoint_of(needed)) as partial:
        write_manifest(partial, write_files(partial, files, texts))


def a_checkpoint_of(num_bytes: int) -> str:
    """What `appearing` says to have been too large."""
    return f"a checkpoint of {num_bytes / 2**20:.0f} MiB; earlier checkpoints are untouched"


def write_files(
    folder: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    texts: Mapping[str, str],
    on_bytes: Callable[[int], None] = lambda num_bytes: None,
) -> dict[str, dict[str, Any]]:
    """Write files of tensors and of text by their names; sha256 and size of each, computed on the way."""
    written = {}
    for name, group in tensors.items():
        cpu = {key: tensor.detach().cpu() for key, tensor in group.items()}
        written[name] = write_tensor_file(folder / name, plan_of(cpu), cpu.__getitem__, on_bytes)
    for name, text in texts.items():
        content = text.encode()
        (folder / name).write_bytes(content)
        written[name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    return written


@contextmanager
def appearing(folder: Path, what: str, replaces: bool = True, token: str = "") -> Iterator[Path]:
    """A folder under another name, to write into; as the block ends it is forced to the disk and gets its own.

    Takes the place of a checkpoint of that name where it `replaces` one (the same step, saved again); else what
    has come there meanwhile stays, and is a UserError. `what` is said to need the space where the disk is full,
    which is one too; whatever goes wrong, nothing of ours stays. With a `token` of theirs alone, several processes
    may write into it.
    """
    partial = partial_of(folder, token)
    if partial.exists() and not token:  # by a killed process
        shutil.rmtree(partial)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        yield partial
        for path in [*partial.iterdir(), partial]:
            _sync(path)
        if folder.exists() and replaces:
            replaced = folder.with_name(f".{folder.name}{REPLACED}")
            folder.rename(replaced)
            partial.rename(folder)  # a kill before this leaves the other to `sweep`
            shutil.rmtree(replaced)
        elif folder.exists() or folder.is_symlink():  # an empty folder, too, which the renaming would replace
            raise UserError(f"{folder}: has come to exist meanwhile, and is left alone; choose another path")
        else:
            partial.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        if error.errno not in OUT_OF_SPACE:
            raise
        raise UserError(
            f"{folder}: no space left on the device for {what}: free some space and start the same command again"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_of(folder: Path, token: str = "") -> Path:
    """Where a checkpoint is written before it gets its name."""
    return folder.with_name(f".{folder.name}.partial{token}")


def sweep(run_dir: Path) -> None:
    """Remove what a killed process has left half written or half deleted. Only for who holds the run's lock."""
    for left_over in (run_dir / "checkpoints").glob(".step_*"):
        name = left_over.name.removeprefix(".").removesuffix(REPLACED)
        if left_over.name.endswith(REPLACED) and not left_over.with_name(name).exists():
            left_over.rename(left_over.with_name(name))  # it was whole, and its successor had not yet come
        else:
            shutil.rmtree(left_over, ignore_errors=True)


def write_manifest(folder: Path, known: Mapping[str, dict[str, Any]] | None = None) -> None:
    """The last file of a checkpoint: sha256 and size of every other; what is `known` of some is not read again."""
    manifest = {"format_version": FORMAT_VERSION, "files": fingerprints(folder, known)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def fingerprints(folder: Path, known: Mapping[str, dict[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """sha256 and size of every file."""
    known = known or {}
    return {path.name: known.get(path.name) or _fingerprint(path) for path in sorted(folder.iterdir())}


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint. It leaves its name first, so that a kill cannot leave half of it there."""
    leaving = folder.with_name(f".{folder.name}.removed")
    folder.rename(leaving)
    shutil.rmtree(leaving)


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of one of a checkpoint's files, or of the several it comes in, each read when it is asked for.

    On the CPU the values are those of the mapped file: a part is read alone, and what is to stay is to be copied.
    Each read opens its file anew: a mapping that stays open keeps every page that was ever touched.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Empty where there is no such file."""
        self._file: dict[str, Path] = {}
        for file in tensor_files(folder, name):
            if file.is_file():
                with safe_open(file, framework="pt") as opened:
                    self._file.update(dict.fromkeys(opened.keys(), file))

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._file[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._file)

    def __len__(self) -> int:
        return len(self._file)


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


def tensor_file_names(name: str, num_files: int) -> list[str]:
    """What `tensor_files` finds."""
    if num_files == 1:
        return [f"{name}.safetensors"]
    return [f"{name}-{number:05}-of-{num_files:05}.safetensors" for number in range(1, num_files + 1)]


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
        if Path(name).name != name:
            yield f"{MANIFEST} lists {name!r}, which is no file of this folder"
        elif not (folder / name).is_file():
            yield f"{name} is missing"
        elif _fingerprint(folder / name) != expected:
            yield f"{name} does not match its sha256 in {MANIFEST}"
    for path in sorted(folder.iterdir()):
        if path.name not in files and (path.suffix == ".safetensors" or path.name in READ):
            yield f"{path.name} is not listed in {MANIFEST}, and would be read"


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


_hashed: dict[tuple[str, int, int, int], dict[str, Any]] = {}
"""Fingerprints by path, inode, size and time of change: a program that asks for a file twice reads it once."""


def _fingerprint(path: Path) -> dict[str, Any]:
    stat, now = path.stat(), time.time()
    key = (str(path), stat.st_ino, stat.st_size, stat.st_ctime_ns)
    if key in _hashed:
        return _hashed[key]
    with path.open("rb") as file:
        found = {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": stat.st_size}
    if now - stat.st_ctime > SETTLED_SECONDS:
        _hashed[key] = found
    return found


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
