"""Writes safetensors files tensor by tensor, hashing on the way, without holding the interpreter."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""safetensors' names of what a checkpoint may hold."""
CHUNK = 2**20
"""Bytes that are hashed and then written while they are still in the processor's cache."""
FLUSH_BYTES = 2**28
"""So many at most wait in memory for the disk: another program's files are not held up by all of ours at the end."""


class Planned(NamedTuple):
    """A tensor before its values are there."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    """None: one that no weight may have; buffers of old files do."""

    @property
    def num_bytes(self) -> int:
        assert self.dtype is not None
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def plan_of(tensors: Mapping[str, Tensor]) -> dict[str, Planned]:
    """The plan of tensors that are there already."""
    return {name: Planned(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def write_tensor_file(
    path: Path,
    planned: Mapping[str, Planned],
    produce: Callable[[str], Tensor],
    on_bytes: Callable[[int], None] = lambda num_bytes: None,
) -> dict[str, Any]:
    """One safetensors file: the header's length, the header, the values without gaps, wide types first (aligned).

    The header comes from the plan, so that each tensor is produced, written and dropped; `on_bytes` is told of each
    piece. The file is forced to the disk.

    Returns:
        Its `sha256` and `bytes`, as a manifest lists them.
    """
    names = sorted(planned, key=lambda name: -_dtype(planned[name]).itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        begin, end = end, end + planned[name].num_bytes
        plan = planned[name]
        header[name] = {"dtype": NAMES[_dtype(plan)], "shape": list(plan.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest, unflushed = hashlib.sha256(), 0
    with path.open("wb") as file:
        for piece in (len(text).to_bytes(8, "little"), text):
            digest.update(piece)
            file.write(piece)
        for name in names:
            tensor = produce(name).contiguous()
            assert (tuple(tensor.shape), tensor.dtype) == planned[name], (name, tensor.shape, tensor.dtype)
            values = tensor.reshape(-1).view(torch.uint8).numpy().data
            for start in range(0, len(values), CHUNK):
                chunk = values[start : start + CHUNK]
                digest.update(chunk)
                file.write(chunk)
                on_bytes(len(chunk))
                unflushed += len(chunk)
                if unflushed >= FLUSH_BYTES:
                    os.fsync(file.fileno())
                    unflushed = 0
        file.flush()
        os.fsync(file.fileno())
    return {"sha256": digest.hexdigest(), "bytes": 8 + len(text) + end}


def _dtype(plan: Planned) -> torch.dtype:
    assert plan.dtype is not None
    return plan.dtype
