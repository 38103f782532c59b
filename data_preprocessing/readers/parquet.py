"""Parquet: a row is a document, its columns are the keys."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal

from data_preprocessing import streams
from data_preprocessing.objects import ObjectReader
from data_preprocessing.readers import EMPTY, Document, Frame, Place, Rejected
from data_preprocessing.streams import too_large
from modelzoo.base_config import Problem, UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_ROWS = 2**13
"""Rows to decode at once, at the most."""
READ_BYTES = 2**20


class ParquetReader(ObjectReader):
    """.parquet files; only the columns in use are read. Columns are strings, or bytes that are UTF-8. Needs
    pyarrow (the extra `parquet`)."""

    kind: Literal["parquet"] = "parquet"

    needs_seek: ClassVar[bool] = True

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if self.members != type(self).model_fields["members"].default:
            yield Problem(("members",), "parquet files are read where they lie, not out of archives; unpack those")

    def files(self, base_dir: Path) -> list[str]:
        _pyarrow()
        return super().files(base_dir)

    def frames(self, stream: BinaryIO, name: str) -> Iterator[Frame | Rejected]:
        pa, pq = _pyarrow()
        number = 1  # of the next row
        try:
            # read as it is decoded: a row group may hold gigabytes
            file = pq.ParquetFile(stream, buffer_size=READ_BYTES, pre_buffer=False, page_checksum_verification=True)
        except (pa.ArrowException, OSError, ValueError) as error:
            yield _unreadable(stream, name, error)
            return
        columns = self._columns(file.schema_arrow.names)
        if isinstance(columns, str):
            detail = f"{columns}; none of its {file.metadata.num_rows:,} rows can be read"
            yield Rejected(Place(name, "file", 1), "missing key", detail, 0)
            return
        if twice := [column for column in columns if file.schema_arrow.names.count(column) > 1]:
            detail = f"there are several columns {', '.join(map(repr, twice))}, and which is meant nobody can tell"
            yield Rejected(Place(name, "file", 1), "several keys of one name", detail, 0)
            return
        for group in range(file.num_row_groups):
            num_rows = file.metadata.row_group(group).num_rows
            end = number + num_rows
            try:
                rows = _rows_a_frame(file, group, columns)
                for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
                    for part in _parts(batch):
                        yield Frame(Place(name, "document", number), _packed(part))
                        number += part.num_rows
            except (pa.ArrowException, OSError, ValueError) as error:
                _raise_if_of_the_system(error)
                lost = f"rows {number:,} to {end - 1:,} cannot be read: {_first_line(error)}"
                yield Rejected(Place(name, "document", number), "damaged file", lost, 0)
            number = end
        if number == 1:
            yield Rejected(Place(name, "file", 1), EMPTY, "the file has no rows", 0)

    def _columns(self, there: list[str]) -> list[str] | str:
        """The columns to read; or what is amiss with them."""
        columns, missing = [], []
        for key in self.keys:
            outer = key.partition(".")[0]
            column = key if key in there else outer
            if column in there:
                columns.append(column)
            elif key not in self.optional_keys:
                missing.append(key)
        if missing:
            return f"no column {', '.join(map(repr, missing))}; it has {', '.join(map(repr, there))}"
        return list(dict.fromkeys(columns))

    def documents(self, frame: Frame) -> Iterator[Document | Rejected]:
        pa, _ = _pyarrow()
        name, unit, first = frame.first
        batch = pa.ipc.open_stream(frame.data).read_next_batch()
        columns = [_values(column) for column in batch.columns]
        names = batch.schema.names
        for number, cells in enumerate(zip(*columns, strict=True), start=first):
            place = Place(name, unit, number)
            num_bytes = sum(len(cell) for cell in cells if isinstance(cell, bytes))
            if num_bytes > self.max_document_bytes:
                yield too_large(place, num_bytes, self.max_document_bytes)
                continue
            try:
                row = {
                    key: cell.decode() if type(cell) is bytes else cell for key, cell in zip(names, cells, strict=True)
                }
            except UnicodeDecodeError as error:
                detail = f"{error.reason} (0x{error.object[error.start]:02x}) at byte {error.start} of a column"
                yield Rejected(place, "not UTF-8", detail, num_bytes)
                continue
            yield self.document(row, place, num_bytes)


def _pyarrow() -> "tuple[Any, Any]":
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError("reader.kind=parquet needs pyarrow: pip install 'modelzoo[parquet]'") from error
    return pa, pq


def _rows_a_frame(file: "pq.ParquetFile", group: int, columns: list[str]) -> int:
    """Rows that may hold the bytes of a frame, judged by the size of their columns in the row group."""
    metadata = file.metadata.row_group(group)
    chunks = [metadata.column(index) for index in range(metadata.num_columns)]
    size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.partition(".")[0] in _outer(columns))
    rows = streams.FRAME_BYTES * metadata.num_rows // max(size, 1)
    return min(max(rows, 1), MAX_ROWS)


def _outer(columns: list[str]) -> set[str]:
    return {column.partition(".")[0] for column in columns}


def _parts(batch: "pa.RecordBatch") -> "Iterator[pa.RecordBatch]":
    """A batch, halved where its rows are larger than the file led to expect (equal texts are stored once)."""
    if batch.nbytes <= 2 * streams.FRAME_BYTES or batch.num_rows < 2:
        yield batch
    else:
        yield from _parts(batch.slice(0, batch.num_rows // 2))
        yield from _parts(batch.slice(batch.num_rows // 2))


def _packed(batch: "pa.RecordBatch") -> bytes:
    """A record batch as bytes, strings as plain bytes: they are checked where documents are made."""
    import pyarrow as pa

    columns = [_as_bytes(column) for column in batch.columns]
    batch = pa.RecordBatch.from_arrays(columns, names=batch.schema.names)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _as_bytes(column: "pa.Array") -> "pa.Array":
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if types.is_string_view(column.type) or types.is_large_string(column.type):
        return column.cast(pa.large_binary())
    return column.cast(pa.binary()) if types.is_string(column.type) else column


def _values(column: "pa.Array") -> list[Any]:
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:  # within a nested column; bytes are told from strings later
        return [_value(cell) for cell in column]


def _value(cell: "pa.Scalar") -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        return bytes(error.object)


def _raise_if_of_the_system(error: Exception) -> None:
    """Arrow's errors are OSErrors too, but without a number: those of the machine are no matter of the file."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def _first_line(error: Exception) -> str:
    return f"{error}".strip().partition("\n")[0]


def _unreadable(stream: BinaryIO, name: str, error: Exception) -> Rejected:
    _raise_if_of_the_system(error)
    num_bytes = stream.seek(0, io.SEEK_END)
    place = Place(name, "file", 1)
    if not num_bytes:
        return Rejected(place, EMPTY, "the file is empty", 0)
    return Rejected(place, "damaged file", f"not a whole parquet file: {_first_line(error)}", num_bytes)
