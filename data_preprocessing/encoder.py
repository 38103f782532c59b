"""One chunk to its spill file: records to documents, normalized, hashed, encoded, put in order."""

import ctypes
import hashlib
import json
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_preprocessing.chunks import Chunk
from data_preprocessing.config import PreprocessConfig
from data_preprocessing.modes import EncodedBatch
from data_preprocessing.normalization import normalizer
from data_preprocessing.readers import EMPTY, HARMLESS, Document, Place, Rejected
from data_preprocessing.spill import LEFT_OUT, REJECTED, USED, Counts, find_spill, write_spill
from modelzoo.base_config import UserError
from modelzoo.data.schema import gather, token_dtype
from modelzoo.tokenizer import Tokenizer

keep_utf8 = ctypes.pythonapi["PyUnicode_AsUTF8AndSize"]  # by item: an object of our own, with types of our own
"""CPython's own: a text keeps its UTF-8, which is hashed here and encoded next, and would else be made twice."""
keep_utf8.argtypes, keep_utf8.restype = [ctypes.py_object, ctypes.c_void_p], ctypes.c_void_p

BATCH_BYTES = 2**20
VERSION = 3
"""To be raised when a chunk of the same input becomes something else, so that none of another version is used."""


class Outcome(NamedTuple):
    """What became of a chunk."""

    chunk: str
    counts: Counts | None
    error: str = ""
    """What the user has to mend; or, with `crashed`, the traceback of the place where the program failed."""
    crashed: bool = False


class _Crash(Exception):
    """A document that a mode fails on, which is a fault of the program."""

    def __init__(self, place: Place) -> None:
        self.place = place


def draw_threshold(fraction: float) -> int:
    """Hashes below this are in the fraction."""
    return round(fraction * 2**64)


def content_hash(raw: bytes) -> bytes:
    """128 bits of a document's UTF-8 bytes, its parts joined by 0xff. The first half draws the split, the second
    the fraction."""
    return hashlib.sha256(raw).digest()[:16]  # CPUs have instructions for it: half of blake2b's time


def split_of(text: str, validation_fraction: float) -> str:
    """The split that a document of this text, in one part, belongs to."""
    drawn = int.from_bytes(content_hash(text.encode())[:8], "little")
    return "validation" if drawn < draw_threshold(validation_fraction) else "train"


def shuffle_keys(seed: int, chunk: str, pieces: np.ndarray) -> np.ndarray:
    """The sort keys uint64 of these pieces of a chunk: splitmix64 from a start of the chunk's own."""
    start = hashlib.blake2b(f"{seed} {chunk}".encode(), digest_size=8).digest()
    state = np.frombuffer(start, "<u8") + (pieces.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(state ^ (state >> np.uint64(31)))


class ChunkEncoder:
    """Encodes chunks of one configuration. A worker has one."""

    def __init__(self, config: PreprocessConfig, tokenizer: Tokenizer, folder: Path) -> None:
        """`folder` takes the spill files."""
        self.config = config
        self.tokenizer = tokenizer
        self.folder = folder
        self.normalize = normalizer(config.normalization)
        self.dtype = token_dtype(tokenizer.vocab_size)
        names = ("normalization", "mode", "deduplication", "validation_fraction", "shuffle_seed")
        settings = config.model_dump(mode="json", include=set(names))
        readers = {
            name: {"fraction": source.fraction, "reader": source.reader.model_dump(mode="json")}
            for name, source in config.named_sources.items()
        }
        common = {"version": VERSION, "tokenizer": tokenizer.sha256, "fraction": config.fraction, **settings}
        self._settings = {name: json.dumps([common, reader]).encode() for name, reader in readers.items()}

    def settings_of(self, chunk: Chunk) -> bytes:
        """All settings that decide what becomes of a chunk."""
        return self._settings[chunk.source]

    def __call__(self, chunk: Chunk) -> Outcome:
        """Encode the chunk, unless its file is there already."""
        path = self.folder / f"{chunk.name}.safetensors"
        try:
            digest = chunk.digest(self.settings_of(chunk))
            counts = find_spill(path, digest)
            if counts is None:
                counts = _ChunkTables(self, chunk).write(path, digest)
            return Outcome(chunk.name, counts)
        except UserError as error:
            return Outcome(chunk.name, None, str(error))
        except OSError:
            raise
        except _Crash as crash:
            trace = "".join(traceback.format_exception(crash.__cause__))
            return Outcome(chunk.name, None, f"{crash.place}: the program failed here\n{trace}", crashed=True)
        except Exception:
            where = f"{chunk.first}: the program failed between here and {chunk.last}"
            return Outcome(chunk.name, None, f"{where}\n{traceback.format_exc()}", crashed=True)


class _ChunkTables:
    """The tables of one chunk while they grow."""

    def __init__(self, encoder: ChunkEncoder, chunk: Chunk) -> None:
        self.encoder = encoder
        self.config = encoder.config
        self.chunk = chunk
        self.status = bytearray()
        self.bytes_in: list[int] = []
        self.files: dict[str, str] = {}
        self.numbers: list[int] = []
        self.file_of: list[int] = []
        self.rejected: list[tuple[int, Rejected]] = []
        """With the index of the record."""
        self.hashes: list[bytes] = []
        self.columns: dict[str, list[np.ndarray]] = {}
        self.tokens: list[np.ndarray] = []
        self.loss_masks: list[np.ndarray] = []
        self.lengths: list[np.ndarray] = []
        self.pieces: list[np.ndarray] = []
        self.num_bytes: list[np.ndarray] = []

    def write(self, path: Path, digest: str) -> Counts:
        """Encode all, and write the file."""
        for batch in self._batches():
            self._encode(batch)
        return self._write(path, digest)

    # records in reading order

    def _batches(self) -> Iterator[list[tuple[int, Document, bytes]]]:
        """Usable documents, about BATCH_BYTES at a time, with the index of their record and their hash."""
        # Each document passes here: a corpus of tiny ones has millions of them
        batch: list[tuple[int, Document, bytes]] = []
        size = 0
        fraction = self.config.fraction * self.config.named_sources[self.chunk.source].fraction
        threshold = draw_threshold(fraction)
        normalizes, keeps_places = self.config.normalization is not None, self.config.deduplication is not None
        status, bytes_in = self.status, self.bytes_in
        for item in self._items():
            if keeps_places:
                self._keep(item.place)
            checked = self._checked(item, normalizes) if isinstance(item, Document) else item
            if isinstance(checked, Rejected):
                self.rejected.append((len(status), checked))
                status.append(REJECTED)
                bytes_in.append(checked.num_bytes)
                continue
            document, num_bytes, digest = checked
            bytes_in.append(num_bytes)
            if fraction < 1 and int.from_bytes(digest[8:], "little") >= threshold:
                status.append(LEFT_OUT)
                continue
            batch.append((len(status), document, digest))
            status.append(USED)
            size += num_bytes
            if size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _items(self) -> Iterator[Document | Rejected]:
        reader = self.config.named_sources[self.chunk.source].reader
        for item in self.chunk.items:
            if isinstance(item, Rejected):
                yield item
            else:
                yield from reader.documents(item)

    def _keep(self, place: Place) -> None:
        self.files.setdefault(place.file, place.unit)
        self.file_of.append(len(self.files) - 1)
        self.numbers.append(place.number)

    def _checked(self, document: Document, normalizes: bool) -> Rejected | tuple[Document, int, bytes]:
        if normalizes:
            document = document._replace(parts=tuple(map(self.encoder.normalize, document.parts)))
        parts = document.parts
        try:
            if len(parts) == 1:
                if not parts[0].isascii():
                    keep_utf8(parts[0], None)
                raw = parts[0].encode()
                num_bytes = len(raw)
            else:  # 0xff stands in no UTF-8 text: ("a", "bc") and ("ab", "c") differ
                raw = b"\xff".join([part.encode() for part in parts])
                num_bytes = len(raw) - len(parts) + 1
        except UnicodeEncodeError as error:  # JSON can spell half of a pair
            code = f"\\u{ord(error.object[error.start]):04x}"
            detail = f"{code} at character {error.start} stands alone, which no UTF-8 text can hold"
            num_bytes = sum(len(part.encode(errors="surrogatepass")) for part in parts)
            return Rejected(document.place, "unpaired surrogate", detail, num_bytes)
        if not num_bytes:
            return Rejected(document.place, EMPTY, "nothing is left after normalization", 0)
        return document, num_bytes, content_hash(raw)

    # documents

    def _encode(self, batch: list[tuple[int, Document, bytes]]) -> None:
        documents = [document for _, document, _ in batch]
        encoded = self._guarded(self._encode_documents, documents)
        pieces = np.ones(len(batch), np.int64) if encoded.pieces is None else encoded.pieces
        whole = np.repeat([self.bytes_in[record] for record, _, _ in batch], pieces)
        num_bytes = whole if encoded.num_bytes is None else np.where(encoded.num_bytes < 0, whole, encoded.num_bytes)
        for index, refused in encoded.refused.items():
            record, document, _ = batch[index]
            self.status[record] = REJECTED
            self.rejected.append((record, Rejected(document.place, *refused, num_bytes=self.bytes_in[record])))
        used = [index for index in range(len(batch)) if index not in encoded.refused]
        self.hashes.extend(batch[index][2] for index in used)
        self.pieces.append(pieces[used])
        self.tokens.append(encoded.ids.astype(self.encoder.dtype))
        self.lengths.append(encoded.lengths)
        self.num_bytes.append(num_bytes)
        if encoded.loss_mask is not None:
            self.loss_masks.append(encoded.loss_mask)
        if self.config.deduplication is not None:
            texts = [documents[index].text for index in used]
            for name, column in self.config.deduplication.fingerprint(texts).items():
                self.columns.setdefault(name, []).append(column)

    def _encode_documents(self, documents: list[Document]) -> EncodedBatch:
        mode, end = self.config.mode, self.encoder.tokenizer.end_of_document_id
        encoded = mode.encode(self.encoder.tokenizer, documents)
        count = len(documents) if encoded.pieces is None else int(encoded.pieces.sum())
        assert len(encoded.lengths) == count, (len(encoded.lengths), count)
        assert encoded.lengths.sum() == len(encoded.ids), (encoded.lengths.sum(), len(encoded.ids))
        assert (encoded.ids[np.cumsum(encoded.lengths) - 1] == end).all(), "a piece without its end-of-document id"
        assert (encoded.loss_mask is not None) == mode.has_loss_mask or not count, mode
        assert encoded.loss_mask is None or encoded.loss_mask.shape == encoded.ids.shape, encoded.loss_mask.shape
        return encoded

    def _guarded(self, encode: Callable[[list[Document]], EncodedBatch], documents: list[Document]) -> EncodedBatch:
        """Encode; where that fails, find the document at fault and name its place."""
        try:
            return encode(documents)
        except Exception as error:
            for document in documents:
                try:
                    encode([document])
                except Exception as alone:
                    if isinstance(alone, UserError):
                        raise UserError(f"{document.place}: {alone}") from error
                    raise _Crash(document.place) from alone
            raise

    # the file

    def _write(self, path: Path, digest: str) -> Counts:
        lengths, num_bytes = _joined(self.lengths, np.int64), _joined(self.num_bytes, np.int64)
        pieces = _joined(self.pieces, np.int64)
        hashes = np.frombuffer(b"".join(self.hashes), "<u8").reshape(-1, 2)
        validation = np.repeat(hashes[:, 0] < self._validation_threshold, pieces)
        order = self._order(validation)
        starts = np.cumsum(lengths) - lengths
        tokens, loss_mask = _joined(self.tokens, self.encoder.dtype), _joined(self.loss_masks, np.bool_)
        columns = {
            "status": np.frombuffer(bytes(self.status), np.uint8),
            "bytes_in": np.array(self.bytes_in, dtype=np.int64),
            "hashes": hashes,
            "pieces": pieces,
            "order": order,
            "offsets": np.concatenate(([0], np.cumsum(lengths[order]))).astype(np.int64),
            "num_bytes": num_bytes[order],
            "tokens": gather(tokens, starts[order], lengths[order]),
            **{name: np.concatenate(parts) for name, parts in self.columns.items()},
        }
        if self.config.mode.has_loss_mask:
            columns["loss_mask"] = gather(loss_mask, starts[order], lengths[order]).astype(np.uint8)
        if self.config.deduplication is not None:
            columns["file"] = np.array(self.file_of, dtype=np.uint32)
            columns["number"] = np.array(self.numbers, dtype=np.int64)
        rejected = sorted(self.rejected)  # the mode refuses a batch later than the reader
        listed = [{**r.place._asdict(), "reason": r.reason, "detail": r.detail} for _, r in rejected]
        columns["rejected"] = np.frombuffer(json.dumps(listed).encode(), np.uint8)
        first, stopping = next(((i, r) for i, r in rejected if r.reason not in HARMLESS), (0, None))
        counts = Counts(
            records=len(self.status),
            documents=len(hashes),
            pieces=len(lengths),
            validation_pieces=int(validation.sum()),
            tokens=len(tokens),
            bytes_in=sum(self.bytes_in),
            rejected=len(rejected),
            failure=f"{stopping.place}: {stopping.reason}: {stopping.detail}" if stopping else "",
            failure_record=first,
        )
        write_spill(path, digest, counts, self.files, columns)
        return counts

    @property
    def _validation_threshold(self) -> np.uint64:
        return np.uint64(min(draw_threshold(self.config.validation_fraction), 2**64 - 1))

    def _order(self, validation: np.ndarray) -> np.ndarray:
        """Pieces of validation before those of train, each by shuffle key, or as they were read."""
        if self.config.shuffle_seed is None:
            return np.argsort(~validation, kind="stable")
        keys = shuffle_keys(self.config.shuffle_seed, self.chunk.name, np.arange(len(validation)))
        return np.lexsort((keys, ~validation))


def _joined(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype), *parts])
