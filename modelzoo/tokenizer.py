"""Text to token ids and back, byte for byte. `tokenizers` is the authority, `fastokens` the speed; no torch."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any, Literal, get_args

import numpy as np
import orjson
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from modelzoo import tokenizer_files, tokenizer_reading
from modelzoo.base_config import UserError
from modelzoo.fast_tokenizer import FastEncoder, Unusable, check_sample
from modelzoo.files import write_text
from modelzoo.tokenizer_cuts import PIECE_CHARACTERS, SHORT_PIECE_CHARACTERS, is_cuttable, pieces
from modelzoo.tokenizer_files import END_OF_DOCUMENT, EXPECTED

TokenizerBackend = Literal["auto", "tokenizers", "fastokens"]
"""`auto`: fastokens where it is installed and agrees with tokenizers, else tokenizers, with a note."""

GROUP_CHARACTERS = 2**20
"""Text encoded at once. While it is, `tokenizers` takes 100 bytes a token and more, `fastokens` 4 a character."""

NO_IDS = np.empty(0, dtype=np.uint32)

NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}
"""Bytes that no text holds; GPT-NeoX-20B's vocabulary leaves them out."""


def byte_symbols() -> dict[str, int]:
    """GPT-2's table of the 256 printable characters that stand for the 256 bytes in a vocabulary."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class Tokenizer:
    """A byte-level BPE tokenizer.

    Text is always ordinary text: `<|endoftext|>` written in a document is encoded as characters, and the
    end-of-document id only ever comes from the program. Encoding and decoding give back the same bytes
    for any valid Unicode text, unless the file itself asks for a normalizer: GPT-NeoX-20B's applies NFC,
    which is kept so that ids equal the released model's.

    The end of a document is `<|endoftext|>` where the vocabulary has it; else the token that the file's template
    appends to a text, or `eos_token` of the Hugging Face files beside it.

    Attributes:
        backend: the `tokenizers` object, whose ids are right by definition.
        notes: lines for the person at the terminal, to be printed once after `prepare` or the first encoding.
    """

    def __init__(
        self,
        backend: Backend,
        path: str | Path,
        choice: TokenizerBackend = "auto",
        loading: FastEncoder | None = None,
        written: tokenizer_reading.Written | None = None,
    ) -> None:
        """Wrap a `tokenizers` object. `path` says where it came from, for messages; `choice` is `load`'s `backend`;
        `written` is what the object writes, if that is known.

        Raises:
            UserError: it is not byte-level, draws its merges by chance, or has no token that ends a document.
        """
        if choice not in get_args(TokenizerBackend):
            raise UserError(f"tokenizer_backend={choice}: expected one of {', '.join(get_args(TokenizerBackend))}")
        self.path = Path(path)
        self.backend = backend
        self.notes: list[str] = []
        self._choice: TokenizerBackend = choice
        self._fast = loading
        self._prepared = choice == "tokenizers"
        self._preparing = Lock()
        backend.encode_special_tokens = True
        if written and not written.content["truncation"] and not written.content["padding"]:
            self.json, self._specification = written
        backend.no_truncation()  # files saved while fine-tuning carry both, and would cut documents
        backend.no_padding()
        pre_tokenizer = json.dumps(self._specification["pre_tokenizer"])
        missing = [
            byte
            for symbol, byte in byte_symbols().items()
            if byte not in NEVER_IN_UTF8 and backend.token_to_id(symbol) is None
        ]
        if '"ByteLevel"' not in pre_tokenizer or '"add_prefix_space": true' in pre_tokenizer or missing:
            raise UserError(
                f"{path}: not a byte-level tokenizer that keeps every byte (pre-tokenizer {pre_tokenizer}, "
                f"{len(missing)} bytes missing); use one in the style of GPT-2 or GPT-NeoX, "
                "or train one: modelzoo tokenizer train CONFIG"
            )
        written_tokens, tokens = len(self._specification["model"]["vocab"]), backend.get_vocab_size(False)
        if written_tokens != tokens:
            raise UserError(
                f"{path}: {tokens} tokens in model.vocab, of which {written_tokens} can be told apart by their ids; "
                "give each an id of its own, and none far beyond their number"
            )
        if self._specification["model"].get("dropout"):
            raise UserError(f"{path}: model.dropout gives a text other ids each time; set it to null in the file")
        end = tokenizer_files.end_of_document(self._specification)
        if end is None or backend.token_to_id(end) is None:
            raise UserError(
                f"{path}: no token {END_OF_DOCUMENT}, which separates documents, and no eos_token that could; "
                "add it to the tokenizer's added_tokens"
            )
        self.end_of_document_token = end
        """The token written after every document."""

    @classmethod
    def load(cls, path: str | Path, backend: TokenizerBackend = "auto", background: bool = False) -> "Tokenizer":
        """Read a tokenizer.json, a directory holding one, GPT-2's pair of files, or `hf://owner/name[@revision]`.

        A pair is named by its directory or by its vocabulary file (`gpt2-encoder.json` beside
        `gpt2-vocab.bpe` is found too).

        Args:
            backend: what encodes. A faster one than `tokenizers` is loaded when it is first needed.
            background: load it now, in a thread beside: for whoever will encode much.

        Raises:
            UserError: nothing there, or not a tokenizer.
        """
        file = tokenizer_files.find(path)
        text = tokenizer_files.read(file)
        loading = None
        if background and backend != "tokenizers":
            with suppress(Unusable):  # `prepare` will say so
                loading = FastEncoder(text)
        try:
            authority, written = tokenizer_reading.read(text)
        except BaseException as error:  # tokenizers raises bare Exception, and a panic of Rust code is not even one
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise UserError(f"{file}: cannot be read as a tokenizer ({error}); {EXPECTED}") from error
        return cls(authority, file, backend, loading, written)

    def prepare(self) -> None:
        """Finish all loading: to be called before worker processes are forked. Starts no thread that stays.

        Raises:
            UserError: `backend="fastokens"` was asked for, and it is not installed or gives other ids.
        """
        with self._preparing:
            if self._prepared:
                return
            try:
                self._fast = self._fast or FastEncoder(self.json)
                self._fast.prepare(self.encode, [added["content"] for added in self._specification["added_tokens"]])
            except Unusable as reason:
                self._fast = None
                if self._choice == "fastokens":
                    raise UserError(f"{self.path}: {reason}; use tokenizer_backend=tokenizers") from None
                self.notes.append(f"{self.path}: {reason}; encoding with tokenizers, which is far slower")
            self._prepared = True

    @property
    def is_fast(self) -> bool:
        """Once prepared: whether `fastokens` encodes."""
        return self._fast is not None

    def __reduce__(self) -> tuple[Any, ...]:
        """For a spawned process, which loads its own backends from the same text."""
        return _restore, (self.json, str(self.path), self._choice)

    @cached_property
    def json(self) -> str:
        """The tokenizer.json, as `tokenizers` wrote it when it was first asked for: what `sha256` is of."""
        return str(self.backend.to_str())

    @cached_property
    def _specification(self) -> dict[str, Any]:
        return dict(orjson.loads(self.json))

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of all that decides which ids a text gets; equal before `save` and after `load`."""
        parts = {name: self._specification[name] for name in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
        if self.end_of_document_token != END_OF_DOCUMENT:
            parts["end_of_document"] = self.end_of_document_token
        return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def covers(self, other: "Tokenizer") -> bool:
        """Whether text that `other` has encoded is what this would have made of it, and documents end alike.

        Merges, splitting and normalization are the same, and `other` has no added token that this lacks. This may
        have more, if they are names that no text spells: GPT-J's file is GPT-2's with `<|extratoken_1|>` and so on.
        """
        mine, theirs = self._specification, other._specification
        parts = [{key: value or None for key, value in spec["model"].items()} for spec in (mine, theirs)]
        added = [{token["id"]: token["content"] for token in spec["added_tokens"]} for spec in (mine, theirs)]
        more = [content for id_, content in added[0].items() if id_ not in added[1]]
        return (
            parts[0] == parts[1]
            and all(mine[name] == theirs[name] for name in ("normalizer", "pre_tokenizer"))
            and added[1].items() <= added[0].items()
            and all(content.startswith("<|") and content.endswith("|>") for content in more)
            and self.end_of_document_id == other.end_of_document_id
        )

    @cached_property
    def vocab_size(self) -> int:
        """Largest id + 1."""
        added = (token["id"] for token in self._specification["added_tokens"])
        return max(max(self._specification["model"]["vocab"].values()), max(added, default=0)) + 1

    @property
    def end_of_document_id(self) -> int:
        """The id written after every document."""
        id_ = self.backend.token_to_id(self.end_of_document_token)
        assert id_ is not None
        return id_

    def encode(self, text: str) -> list[int]:
        """The ids of one text, with nothing added, by `tokenizers`. Raises UserError for an unpaired surrogate."""
        try:
            encodings = (
                self.backend.encode(piece, add_special_tokens=False) for piece in self._pieces(text, PIECE_CHARACTERS)
            )
            return [id_ for encoding in encodings for id_ in encoding.ids]
        except TypeError:
            _refuse_surrogates([text])
            raise

    def encode_batch_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of many texts, with nothing added, in one array. Releases the GIL.

        A sample of what a faster backend gives is compared with `tokenizers` in every call.

        Returns:
            ids (n,) uint32, and offsets (len(texts) + 1,) int64: text i has ids[offsets[i] : offsets[i + 1]]. They
            may be read-only.

        Raises:
            UserError: a text holds an unpaired surrogate, which UTF-8 cannot; or the backends differ.
        """
        self.prepare()
        lengths = list(map(len, texts))
        piece_characters = PIECE_CHARACTERS if self.is_fast else SHORT_PIECE_CHARACTERS
        if sum(lengths) < 2 * GROUP_CHARACTERS and max(lengths, default=0) <= piece_characters:
            return self._encode_group(texts)
        parts, counts = [], np.zeros(len(texts) + 1, dtype=np.int64)
        for numbers, group in _groups(
            (number, piece) for number, text in enumerate(texts) for piece in self._pieces(text, piece_characters)
        ):
            ids, offsets = self._encode_group(group)
            parts.append(ids)
            np.add.at(counts, np.array(numbers) + 1, np.diff(offsets))
        return np.concatenate(parts), np.cumsum(counts)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, uint32: views of what `encode_batch_flat` gives."""
        ids, offsets = self.encode_batch_flat(texts)
        return [ids[begin:end] for begin, end in pairwise(offsets)]

    def _encode_group(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """`encode_batch_flat` at once: what is held meanwhile grows with the texts."""
        try:
            if self._fast is None:
                encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
                parts = [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
                return np.concatenate([NO_IDS, *parts]), np.cumsum([0, *map(len, parts)], dtype=np.int64)
            ids, offsets = self._fast.encode(texts)
        except (TypeError, UnicodeEncodeError):
            _refuse_surrogates(texts)
            raise
        check_sample(texts, ids, offsets, self.encode, self.decode, str(self.path))
        return ids, offsets

    def _pieces(self, text: str, characters: int) -> Iterator[str]:
        return pieces(text, characters) if self._is_cuttable else iter((text,))

    @cached_property
    def _is_cuttable(self) -> bool:
        return is_cuttable(self._specification)

    @cached_property
    def _bytes_of(self) -> dict[int, bytes]:
        symbols = byte_symbols()
        added = self.backend.get_added_tokens_decoder()
        return {
            id_: token.encode() if id_ in added else bytes(symbols[symbol] for symbol in token)
            for token, id_ in self.backend.get_vocab(with_added_tokens=True).items()
        }

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """(vocab_size,) int64: how many bytes each id stands for; 0 where it has no token."""
        lengths = np.zeros(self.vocab_size, dtype=np.int64)
        for id_, token in self._bytes_of.items():
            lengths[id_] = len(token)
        return lengths

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes that the ids stand for. An id with no token (padding of the vocabulary) reads �."""
        return b"".join(self._bytes_of.get(int(id_), "�".encode()) for id_ in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids. Ids that end inside a character read � there."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json. The file appears by rename, whole."""
        write_text(Path(path), self.backend.to_str())


def byte_level(model: models.Model) -> Backend:
    """A `tokenizers` object that splits and decodes as GPT-2 does."""
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def special_token(content: str) -> AddedToken:
    """A token that only the program writes: text never encodes to it."""
    return AddedToken(content, special=True, normalized=False)


def _restore(text: str, path: str, choice: TokenizerBackend) -> Tokenizer:
    backend, written = tokenizer_reading.read(text)
    return Tokenizer(backend, path, choice, written=written)


def _groups(numbered: Iterable[tuple[int, str]]) -> Iterator[tuple[list[int], list[str]]]:
    """Runs of about GROUP_CHARACTERS, their numbers apart."""
    numbers: list[int] = []
    group: list[str] = []
    characters = 0
    for number, text in numbered:
        numbers.append(number)
        group.append(text)
        characters += len(text)
        if characters >= GROUP_CHARACTERS:
            yield numbers, group
            numbers, group, characters = [], [], 0
    if group:
        yield numbers, group


def _refuse_surrogates(texts: Sequence[str]) -> None:
    for number, text in enumerate(texts, 1):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"text {number} of {len(texts)}: \\u{ord(text[error.start]):04x} at character {error.start} stands "
                "alone, which no UTF-8 text can hold; mend it, or leave the text out"
            ) from None
