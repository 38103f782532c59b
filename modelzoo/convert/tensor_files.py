"""Weights on disk, read and written tensor by tensor: what is held at a time is one tensor."""

import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from modelzoo.base_config import UserError
from modelzoo.convert.source import PICKLED, SAFETENSORS, read_json
from modelzoo.tensor_writer import Planned, write_tensor_file

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Of weights, by safetensors' names."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}

EXPECTED = f"expected {SAFETENSORS} or {PICKLED}, whole or in parts with {SAFETENSORS}.index.json beside"


class TensorFiles:
    """The tensors of some files by name. Opening reads the headers, `read` one tensor.

    Each read opens its file anew: a mapping that stays open keeps every page that was ever touched.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        """Raises UserError, naming the file or tensor: missing, cut short, not weights, a name that comes twice."""
        self.planned: dict[str, Planned] = {}
        self._file: dict[str, Path] = {}
        self._legacy: dict[Path, dict[str, Tensor]] = {}
        for file in files:
            for name, planned in self._header(file).items():
                if name in self._file:
                    raise UserError(f"{file}: holds {name!r}, and so does {self._file[name].name}; drop one")
                self._file[name], self.planned[name] = file, planned

    def read(self, name: str) -> Tensor:
        """A tensor as it is stored. Its values may be those of the mapped file: not to be written to."""
        file = self._file[name]
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                tensor: Tensor = opened.get_tensor(name)
                return tensor
        return self._load(file)[name]

    def file_of(self, name: str) -> Path:
        """Where a tensor is stored."""
        return self._file[name]

    def _header(self, file: Path) -> dict[str, Planned]:
        if not file.is_file():
            raise UserError(f"{file}: no such file; {EXPECTED}")
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, framework="pt") as opened:
                    slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
                    return {
                        name: Planned(tuple(part.get_shape()), DTYPES.get(part.get_dtype()))
                        for name, part in slices.items()
                    }
            except (SafetensorError, OSError, ValueError) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{file}: not a whole safetensors file ({error}); copy or download it again") from None
        return {
            name: Planned(tuple(tensor.shape), tensor.dtype if tensor.dtype in NAMES else None)
            for name, tensor in self._load(file).items()
        }

    def _load(self, file: Path) -> dict[str, Tensor]:
        """A .bin, mapped and not read. `weights_only` builds tensors and nothing else: no code of the file runs."""
        if file in self._legacy:
            return self._legacy[file]
        mapped = zipfile.is_zipfile(file)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # the unpickler's, of zip and of torch, which has no name for a cut file
            raise UserError(
                f"{file}: is not read: it is damaged, or holds more than tensors, and reading that could run code "
                f"({_first_line(error)}); use the model's safetensors"
            ) from None
        if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
            raise UserError(f"{file}: holds no tensors by name; {EXPECTED}")
        for name, value in content.items():
            if not isinstance(value, Tensor):
                raise UserError(f"{file}: {name!r} is no tensor; use the model's safetensors")
            if value.layout != torch.strided or value.is_nested or value.is_meta:
                raise UserError(f"{file}: {name!r} is no dense tensor with values; use the model's safetensors")
        if not mapped:  # the format before torch 1.6 cannot be mapped
            self._legacy[file] = dict(content)
        return dict(content)


def weight_files(folder: Path) -> list[Path]:
    """The files of a Hugging Face folder's weights: those that transformers takes. Raises UserError: there are none."""
    source = _weight_source(folder)
    if source.suffix != ".json":
        return [source]
    places = read_json(source).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(f, str) and Path(f).name == f for f in places.values()):
        raise UserError(f"{source}: has no weight_map of tensor names to files beside it; copy it again")
    return [folder / name for name in sorted(set(places.values()))]


def check_index(folder: Path, tensors: TensorFiles) -> None:
    """That the index, where the weights have one, lists what its files hold. Raises UserError, naming tensor and
    file."""
    index = _weight_source(folder)
    if index.suffix == ".json":
        for name, file in read_json(index)["weight_map"].items():
            if name not in tensors.planned or tensors.file_of(name).name != file:
                raise UserError(f"{folder / file}: has no tensor {name!r}, and {index.name} says so; copy both again")


def _weight_source(folder: Path) -> Path:
    """The file that names all weights, in transformers' order: a whole one before an index, which may be stale."""
    for name in (SAFETENSORS, f"{SAFETENSORS}.index.json", PICKLED, f"{PICKLED}.index.json"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: no weights in this directory; {EXPECTED}")


class Written(NamedTuple):
    """What `write_tensors` has written."""

    files: dict[str, dict[str, Any]]
    """Each file's `sha256` and `bytes`, by its name."""
    places: dict[str, str]
    """Each tensor's file."""


def write_tensors(
    folder: Path,
    planned: Mapping[str, Planned],
    produce: Callable[[str], Tensor],
    max_file_bytes: int,
    on_bytes: Callable[[int], None] = lambda num_bytes: None,
) -> Written:
    """Write `model.safetensors`, or several files of at most `max_file_bytes` (a larger tensor gets its own).

    The headers come from the plan, so that each tensor is produced, written and dropped.
    """
    files = _divide(planned, max_file_bytes)
    written = Written({}, {})
    for number, names in enumerate(files, 1):
        file = SAFETENSORS if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        part = {name: planned[name] for name in names}
        written.files[file] = write_tensor_file(folder / file, part, produce, on_bytes)
        written.places.update(dict.fromkeys(names, file))
    return written


def _divide(planned: Mapping[str, Planned], max_file_bytes: int) -> list[list[str]]:
    files: list[list[str]] = [[]]
    size = 0
    for name, plan in planned.items():
        if files[-1] and size + plan.num_bytes > max_file_bytes:
            files.append([])
            size = 0
        files[-1].append(name)
        size += plan.num_bytes
    return files


def require_dtypes(tensors: TensorFiles, names: Sequence[str]) -> None:
    """That weights are fp32, bf16 or fp16. Raises UserError: quantised ones, say."""
    for name in names:
        if tensors.planned[name].dtype is None:
            raise UserError(
                f"{tensors.file_of(name)}: {name!r} is of a type that is not read; expected fp32, bf16 or fp16: use "
                "the model's unquantised weights"
            )


def check_stored(tensors: TensorFiles, wanted: Mapping[str, Tensor], folder: Path) -> None:
    """That a checkpoint's files hold the weights of its config, on the meta device. Raises UserError."""
    for name in dict.fromkeys([*wanted, *tensors.planned]):
        found = tensors.planned.get(name)
        if found is None or name not in wanted or found.shape != tuple(wanted[name].shape):
            raise UserError(
                f"{folder}: its weights do not fit its config.yaml: {name} is missing, extra or of another shape"
            )
    require_dtypes(tensors, list(wanted))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
