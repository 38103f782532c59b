"""Saves the checkpoints of a run: every rank its part of the whole tensors, beside the steps that follow.

A step pays for the snapshot, a copy in the CPU's memory of what this rank writes. A thread of each rank then writes
and hashes it into a hidden folder, and leaves a note there of what it wrote. The main rank's thread waits for
every note, writes the manifest, and gives the folder its name: ranks meet in the file system, and no thread takes part
in a collective. What went wrong in a thread is raised by all ranks at the next step.
"""

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Event, Thread

import torch
from torch import Tensor

from modelzoo.base_config import UserError
from modelzoo.dtensors import is_dtensor
from modelzoo.trainer.checkpoint import (
    a_checkpoint_of,
    appearing,
    partial_of,
    tensor_file_names,
    write_files,
    write_manifest,
)
from modelzoo.trainer.parallel import Parallel

DONE, RUNNING, FAILED = range(3)
PATIENCE_SECONDS = 300.0
"""How long the main rank waits for another whose files have stopped to grow."""
PATIENCE_AFTER_ERROR_SECONDS = 20.0
"""The same when the run is ending with an error, and the other ranks may be gone."""


class CheckpointWriter:
    """Writes one checkpoint at a time, on every rank."""

    def __init__(self, parallel: Parallel, asynchronous: bool) -> None:
        """Every rank calls this. Not `asynchronous`: each `save` returns when the checkpoint is there."""
        self.parallel = parallel
        self.asynchronous = asynchronous
        self._token = parallel.from_main(lambda: secrets.token_hex(4))
        self._num_saves = 0
        self._buffers: dict[tuple[str, str], Tensor] = {}
        self._thread: Thread | None = None
        self._error: Exception | None = None
        self._cancelled = Event()
        self._patience = PATIENCE_SECONDS

    def save(
        self,
        folder: Path,
        groups: Mapping[str, Iterable[tuple[str, Tensor]]],
        random: Mapping[str, Tensor],
        texts: Mapping[str, str],
        then: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        """Save tensors by group and name, whole or as this rank's part of a DTensor. Every rank calls this.

        The previous save is waited for. `random` and `texts` are the main rank's. Its thread calls `then` with the
        folder when that is there.
        """
        self.settle(wait=True)
        self._num_saves += 1
        token = f"-{self._token}-{self._num_saves}"
        files: dict[str, Mapping[str, Tensor]] = {}
        num_bytes = 0
        for group, tensors in groups.items():
            named = dict(tensors)
            num_bytes += sum(tensor.nbytes for tensor in named.values())
            by_rank = owners({name: tensor.nbytes for name, tensor in named.items()}, self.parallel.num_ranks)
            writing = [rank for rank, names in enumerate(by_rank) if names]
            mine = self._snapshot(group, named, set(by_rank[self.parallel.rank]))
            if mine:
                files[tensor_file_names(group, len(writing))[writing.index(self.parallel.rank)]] = mine
        if self.parallel.is_main:
            files["random.safetensors"] = random
        texts = dict(texts) if self.parallel.is_main else {}
        if not self.asynchronous:
            self._buffers.clear()

        def write() -> None:
            if not self.parallel.is_main:
                partial = partial_of(folder, token)
                partial.mkdir(parents=True, exist_ok=True)
                written = write_files(partial, files, {}, self._on_bytes)
                _leave_note(partial, self.parallel.rank, written)
                return
            with appearing(folder, a_checkpoint_of(num_bytes), token=token) as partial:
                written = write_files(partial, files, texts, self._on_bytes)
                written |= self._written_by_others(partial)
                write_manifest(partial, written)
            then(folder)

        self._cancelled.clear()
        self._thread = Thread(target=self._run, args=(write,), name="checkpoint")
        self._thread.start()
        if not self.asynchronous:
            self.settle(wait=True)

    def settle(self, wait: bool) -> None:
        """Raise, on every rank, what went wrong in the thread of any; with `wait`, when all are done.

        Every rank calls this at the same places.
        """
        while self._thread is not None:
            state = self.parallel.any(self._state())
            if state == FAILED:
                self._give_up()
            if state == DONE:
                self._thread = None
            elif not wait:
                return
            else:
                self._thread.join(0.05)
                if not self._thread.is_alive():
                    time.sleep(0.01)  # for the other ranks

    def close(self) -> None:
        """At the end of the run, also one by an error, when the other ranks may be gone: bring a save to its end."""
        if self._thread is not None:
            self._patience = PATIENCE_AFTER_ERROR_SECONDS
            self._thread.join()
            self._thread = None
            if self._error is not None:  # beside the one that ends the run
                print(f"note: the last checkpoint could not be saved: {self._error}", file=sys.stderr)

    def _snapshot(self, group: str, tensors: Mapping[str, Tensor], mine: set[str]) -> dict[str, Tensor]:
        """Gather tensors one after the other; those of this rank stay, on the CPU, whatever the next step does."""
        kept = {}
        for name, tensor in tensors.items():
            whole = _whole(tensor.detach())
            if name not in mine:
                continue
            if not self.asynchronous and whole.device.type == "cpu":  # nothing happens to it before it is written
                kept[name] = whole
                continue
            buffer = self._buffers.get((group, name))
            if buffer is None or (buffer.shape, buffer.dtype) != (whole.shape, whole.dtype):
                pinned = whole.device.type == "cuda"
                buffer = torch.empty(whole.shape, dtype=whole.dtype, pin_memory=pinned)
                self._buffers[group, name] = buffer
            kept[name] = buffer.copy_(whole, non_blocking=True)
        if any(tensor.device.type != "cpu" for tensor in tensors.values()):
            torch.accelerator.synchronize()
        return kept

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except _Cancelled:
            pass
        except Exception as error:
            self._error = error

    def _state(self) -> int:
        assert self._thread is not None
        if self._error is not None:
            return FAILED
        return RUNNING if self._thread.is_alive() else DONE

    def _give_up(self) -> None:
        """Some rank could not write: all stop writing, and raise the same."""
        assert self._thread is not None
        self._cancelled.set()
        self._thread.join()
        self._thread = None
        error, self._error = self._error, None
        errors = self.parallel.of_all(None if error is None else (isinstance(error, UserError), str(error)))
        is_users, message = next(found for found in errors if found is not None)
        if error is not None and str(error) == message:
            raise error
        raise UserError(message) if is_users else RuntimeError(f"another rank could not save: {message}")

    def _on_bytes(self, _num_bytes: int) -> None:
        if self._cancelled.is_set():
            raise _Cancelled

    def _written_by_others(self, partial: Path) -> dict[str, dict[str, object]]:
        """What the notes of the other ranks say, when all have come."""
        written: dict[str, dict[str, object]] = {}
        missing = set(range(1, self.parallel.num_ranks))
        sizes: dict[str, int] = {}
        quiet_since = time.monotonic()
        while True:
            for rank in sorted(missing):
                note = partial / _note_of(rank)
                if note.is_file():
                    written |= json.loads(note.read_text(encoding="utf-8"))
                    note.unlink()
                    missing.remove(rank)
            if not missing:
                return written
            self._on_bytes(0)
            now = {entry.name: entry.stat().st_size for entry in os.scandir(partial) if not entry.name.startswith(".")}
            if now != sizes:
                sizes, quiet_since = now, time.monotonic()
            elif time.monotonic() - quiet_since > self._patience:
                raise RuntimeError(f"{partial}: the ranks {sorted(missing)} have stopped writing")
            time.sleep(0.02)


class _Cancelled(Exception):
    """Another rank could not write."""


def owners(num_bytes: Mapping[str, int], num_ranks: int) -> list[list[str]]:
    """The tensors that each rank writes: the largest first, each to the rank with the fewest bytes so far."""
    names: list[list[str]] = [[] for _ in range(num_ranks)]
    load = [0] * num_ranks
    for name in sorted(num_bytes, key=lambda name: (-num_bytes[name], name)):
        rank = load.index(min(load))
        names[rank].append(name)
        load[rank] += num_bytes[name]
    return names


def _whole(tensor: Tensor) -> Tensor:
    """A tensor that ranks hold in parts, on the device that they talk over."""
    if not is_dtensor(tensor):
        return tensor
    on_device = tensor.to(tensor.device_mesh.device_type)
    assert is_dtensor(on_device)
    return on_device.full_tensor()


def _note_of(rank: int) -> str:
    return f".rank{rank}.done.json"


def _leave_note(partial: Path, rank: int, written: Mapping[str, dict[str, object]]) -> None:
    """Say what a rank has written, in a file that appears whole."""
    note = partial / f".rank{rank}.note"
    note.write_text(json.dumps(written), encoding="utf-8")
    note.rename(partial / _note_of(rank))
