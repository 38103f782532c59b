"""Text to token ids and back, byte for byte. A thin wrapper of `tokenizers`; no torch."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from modelzoo.base_config import UserError
from modelzoo.files import write_text

END_OF_DOCUMENT = "<|endoftext|>"
PAIRS = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
"""How GPT-2's two files (vocabulary, merges) are named: by OpenAI, and by everybody since."""

NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}
"""Bytes that no text holds; GPT-NeoX-20B's vocabulary leaves them out."""

EXPECTED = (
    "expected a tokenizer.json, a directory holding one, or GPT-2's pair of files "
    "(encoder.json with vocab.bpe, or vocab.json with merges.txt)"
)


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
    """

    def __init__(self, backend: Backend, path: str | Path) -> None:
        """Wrap a `tokenizers` object. `path` says where it came from, for messages.

        Raises:
            UserError: it is not byte-level, or has no `<|endoftext|>`.
        """
        self.path = Path(path)
        self.backend = backend
        backend.encode_special_tokens = True
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
        if backend.token_to_id(END_OF_DOCUMENT) is None:
            raise UserError(
                f"{path}: no token {END_OF_DOCUMENT}, which separates documents; add it to the tokenizer's added_tokens"
            )

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer.json, a directory holding one, or GPT-2's pair of files.

        A pair is named by its directory or by its vocabulary file (`gpt2-encoder.json` beside
        `gpt2-vocab.bpe` is found too).

        Raises:
            UserError: nothing there, or not a tokenizer.
        """
        path = Path(path)
        if path.is_dir():
            names = ["tokenizer.json", *(vocabulary for vocabulary, _ in PAIRS)]
            found = [path / name for name in names if (path / name).is_file()]
            if not found:
                raise UserError(f"{path}: no tokenizer in this directory; {EXPECTED}")
            return cls.load(found[0])
        if not path.is_file():
            raise UserError(f"{path}: no such file; {EXPECTED}")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict) and isinstance(content.get("model"), dict):
                return cls(Backend.from_file(str(path)), path)
        except UserError:
            raise
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(f"{path}: cannot be read as a tokenizer ({error}); {EXPECTED}") from error
        return cls(_from_pair(path), path)

    @cached_property
    def _specification(self) -> dict[str, Any]:
        return dict(json.loads(self.backend.to_str()))

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of all that decides which ids a text gets; equal before `save` and after `load`."""
        parts = {name: self._specification[name] for name in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
        canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @cached_property
    def vocab_size(self) -> int:
        """Largest id + 1."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def end_of_document_token(self) -> str:
        """The token written after every document."""
        return END_OF_DOCUMENT

    @property
    def end_of_document_id(self) -> int:
        """The id written after every document."""
        id_ = self.backend.token_to_id(END_OF_DOCUMENT)
        assert id_ is not None
        return id_

    def encode(self, text: str) -> list[int]:
        """The ids of one text, with nothing added."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids of each text, uint32, with nothing added. Uses all cores and releases the GIL."""
        ids, offsets = self.encode_batch_flat(texts)
        return np.split(ids, offsets[1:-1])[: len(texts)]

    def encode_batch_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of all texts one after the other (num_ids,) uint32, and where each begins (texts + 1,) int64."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        arrays = [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return np.concatenate([np.empty(0, np.uint32), *arrays]), offsets

    @cached_property
    def _bytes_of(self) -> dict[int, bytes]:
        symbols = byte_symbols()
        added = self.backend.get_added_tokens_decoder()
        return {
            id_: token.encode() if id_ in added else bytes(symbols[symbol] for symbol in token)
            for token, id_ in self.backend.get_vocab(with_added_tokens=True).items()
        }

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


def _from_pair(vocabulary: Path) -> Backend:
    for first, second in PAIRS:
        if vocabulary.name.endswith(first):
            merges = vocabulary.with_name(vocabulary.name.removesuffix(first) + second)
            break
    else:
        raise UserError(f"{vocabulary}: not a tokenizer.json (it has no `model` section); {EXPECTED}")
    if not merges.is_file():
        raise UserError(f"{merges}: no such file, but {vocabulary.name} needs its merges; {EXPECTED}")
    try:
        backend = byte_level(models.BPE.from_file(str(vocabulary), str(merges)))
    except Exception as error:  # tokenizers raises bare Exception
        raise UserError(f"{vocabulary}, {merges}: cannot be read as a BPE vocabulary ({error}); {EXPECTED}") from error
    if backend.token_to_id(END_OF_DOCUMENT) is not None:
        backend.add_special_tokens([special_token(END_OF_DOCUMENT)])
    return backend
