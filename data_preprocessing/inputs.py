"""The files of a run: listed and hashed, then read one after the other, with the place each stands at."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_preprocessing.readers import EMPTY, Document, ReaderConfig, Rejected
from modelzoo.base_config import UserError
from modelzoo.data.schema import InputFile, file_sha256


class Text(NamedTuple):
    """A document with its UTF-8 bytes."""

    document: Document
    raw: bytes


class Progress(NamedTuple):
    """How far a run is. Bytes are those of the input files as they lie on disk."""

    bytes_done: int
    bytes_total: int
    documents: int
    tokens: int


def find_inputs(reader: ReaderConfig, base_dir: Path) -> list[InputFile]:
    """List and hash the files of a reader, in reading order.

    Raises:
        UserError: see `ReaderConfig.files`; or a file may not be read.
    """
    try:
        for name in (names := reader.files(base_dir)):
            if not name.isprintable() and name.encode(errors="replace").decode() != name:
                raise UserError(f"reader.paths: {name!r}: the name is not UTF-8, as the manifest needs it; rename it")
        return [
            InputFile(path=name, size=(base_dir / name).stat().st_size, sha256=file_sha256(base_dir / name))
            for name in names
        ]
    except PermissionError as error:
        raise UserError(f"reader.paths: {error.filename}: may not be read; change its permissions") from error


def read_inputs(
    reader: ReaderConfig, inputs: Sequence[InputFile], base_dir: Path, on_error: str
) -> Iterator[tuple[Text | Rejected, int]]:
    """Every document of the inputs in order, each with the number of input bytes read so far.

    Raises:
        UserError: with on_error="stop", at the first one that cannot be used (empty ones excepted).
    """
    before = 0
    for file in inputs:
        with (base_dir / file.path).open("rb") as stream:
            for item in reader.read(stream, file.path):
                checked = _with_bytes(item)
                if isinstance(checked, Rejected) and on_error == "stop" and checked.reason != EMPTY:
                    raise UserError(
                        f"{checked.place}: {checked.reason}: {checked.detail}; "
                        "mend it, or leave such documents out with on_error=reject"
                    )
                yield checked, before + stream.tell()
        before += file.size


def _with_bytes(item: Document | Rejected) -> Text | Rejected:
    if isinstance(item, Rejected):
        return item
    try:
        return Text(item, item.text.encode())
    except UnicodeEncodeError as error:  # JSON can spell half of a pair
        code = f"\\u{ord(item.text[error.start]):04x}"
        detail = f"{code} at character {error.start} stands alone, which no UTF-8 text can hold"
        raw = item.text.encode(errors="surrogatepass")
        return Rejected(item.place, "unpaired surrogate", detail, len(raw))
