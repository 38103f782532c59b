"""A dataset of the Hugging Face hub: a row is a document, its columns are the keys."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, cast

import orjson
from pydantic import Field

from data_preprocessing.objects import ObjectReader
from data_preprocessing.readers import Document, Frame, OneOrMany, Rejected
from data_preprocessing.streams import Stream, cut
from modelzoo.base_config import Problem, UserError


class HubReader(ObjectReader):
    """The rows of a dataset that the package datasets (the extra `hub`) can stream: by its name on the hub, or a
    local directory. They are read as lines of JSON with the columns in use. No code of a dataset is run."""

    kind: Literal["hub"] = "hub"
    paths: Annotated[tuple[str, ...], OneOrMany] = ()
    """Not for this kind: see `dataset`."""
    dataset: Annotated[str, Field(min_length=1)]
    """Its name, owner/name."""
    config: str | None = None
    """Which configuration of it (a language, a dump); null where it has but one."""
    split: Annotated[tuple[str, ...], OneOrMany, Field(min_length=1)] = ("train",)
    """Which split; or a list of them, read one after the other."""
    revision: str | None = None
    """A tag, a branch or, best, a commit: the data of any other may change. null: the newest."""

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        for key in ("paths", "members"):
            if getattr(self, key) != type(self).model_fields[key].default:
                yield Problem((key,), "is not for reader.kind=hub; reader.dataset and reader.split name what is read")

    def files(self, base_dir: Path) -> list[str]:
        """A name for each split.

        Raises:
            UserError: the package datasets is missing.
        """
        _datasets()
        middle = f"{self.dataset}/{self.config}" if self.config else self.dataset
        return [f"hub:{middle}/{split}@{self.revision or 'newest'}" for split in dict.fromkeys(self.split)]

    def size(self, base_dir: Path, name: str) -> int:
        return 0  # not known before it is read

    def open(self, base_dir: Path, name: str) -> BinaryIO:
        split = name.rpartition("@")[0].rpartition("/")[2]
        local = base_dir / self.dataset
        dataset = str(local) if local.is_dir() else self.dataset
        try:
            rows = _datasets().load_dataset(dataset, self.config, split=split, revision=self.revision, streaming=True)
            columns = rows.column_names or list(next(iter(rows), {}))
        except (OSError, ValueError, RuntimeError) as error:
            what = f"reader.dataset: {name}: {type(error).__name__}: {error}"
            raise UserError(f"{what}; expected a dataset, configuration and split that can be read") from error
        wanted = {key if key in columns else key.partition(".")[0] for key in self.keys}
        return cast(BinaryIO, _Lines(rows.select_columns([column for column in columns if column in wanted])))

    def frames(self, stream: BinaryIO, name: str) -> Iterator[Frame | Rejected]:
        return cut(stream, name, "line", b"\n", self.max_document_bytes)

    def documents(self, frame: Frame) -> Iterator[Document | Rejected]:
        return self.json_documents(frame, b"\n")


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError("reader.kind=hub needs datasets: pip install 'modelzoo[hub]'") from error
    return datasets


class _Lines(Stream):
    """Rows as lines of JSON."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._rows = iter(rows)
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        pieces, missing = [self._rest], size - len(self._rest)
        while size < 0 or missing > 0:
            row = next(self._rows, None)
            if row is None:
                break
            pieces.append(orjson.dumps(row, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME) + b"\n")
            missing -= len(pieces[-1])
        data = b"".join(pieces)
        self._rest = data[size:] if size >= 0 else b""
        return data[:size] if size >= 0 else data


def _plain(value: Any) -> Any:
    """What JSON has no form for: bytes that are text, and null for all else, which is then rejected."""
    try:
        return value.decode() if isinstance(value, bytes) else None
    except UnicodeDecodeError:
        return None
