"""What losses add up to, and the bytes and characters that they are divided by. No torch.

Every token of a text is predicted, and the end-of-document that closes each document; that one is a token, but no
byte and no character of the text. Bits per byte and per character spread all losses, those of the ends too, over
the text: the cost of storing the documents one by one. Without the ends, the same is given of the text alone, as
most papers count.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from modelzoo.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextSizes:
    """UTF-8 bytes and Unicode code points of the text that each id stands for, (vocab_size,) int64. 0 for ids that
    are no text: special tokens and ids without a token. A character is counted where its first byte is."""

    num_bytes: np.ndarray
    num_characters: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "TextSizes":
        """Those of a tokenizer."""
        num_bytes = tokenizer.byte_lengths.copy()
        added = tokenizer.backend.get_added_tokens_decoder()
        num_bytes[[*(id_ for id_, token in added.items() if token.special), tokenizer.end_of_document_id]] = 0
        num_characters = np.zeros_like(num_bytes)
        for id_ in np.flatnonzero(num_bytes).tolist():
            num_characters[id_] = sum(byte & 0xC0 != 0x80 for byte in tokenizer.decode_bytes([id_]))
        return cls(num_bytes, num_characters)

    def count(self, ids: np.ndarray) -> tuple[int, int]:
        """Bytes and characters of these ids (n,)."""
        known = ids[ids < len(self.num_bytes)].astype(np.int64)  # others are padding of the vocabulary
        return int(self.num_bytes[known].sum()), int(self.num_characters[known].sum())


@dataclass(frozen=True)
class DocumentTotals:
    """What a document adds. `num_tokens` counts the end-of-document, whose share of the loss is `end_loss`."""

    index: int
    """From 0."""
    place: str
    num_tokens: int
    num_bytes: int
    num_characters: int
    loss_sum: float
    end_loss: float

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        names = {"index": "document", "num_tokens": "tokens", "num_bytes": "bytes", "num_characters": "characters"}
        return {names.get(key, key): value for key, value in asdict(self).items()}


@dataclass
class Totals:
    """Sums, in double precision: parts of any size add up to the same."""

    num_documents: int | None = 0
    """None where the data does not tell."""
    num_tokens: int = 0
    """Predicted tokens, ends of documents included."""
    num_ends: int = 0
    loss_sum: float = 0.0
    """Nats."""
    end_loss_sum: float = 0.0
    num_bytes: int = 0
    num_characters: int = 0

    def add(self, document: DocumentTotals) -> None:
        """One more document, whole."""
        self.num_documents = (self.num_documents or 0) + 1
        self.num_tokens += document.num_tokens
        self.num_ends += 1
        self.loss_sum += document.loss_sum
        self.end_loss_sum += document.end_loss
        self.num_bytes += document.num_bytes
        self.num_characters += document.num_characters

    def metrics(self) -> dict[str, Any]:
        """Loss in nats a token, perplexity, bits per byte and per character; and the same `without_ends`."""
        text_tokens, text_loss = self.num_tokens - self.num_ends, self.loss_sum - self.end_loss_sum
        return {
            "documents": self.num_documents,
            "tokens": self.num_tokens,
            "bytes": self.num_bytes,
            "characters": self.num_characters,
            "bytes_per_token": self.num_bytes / max(1, self.num_tokens),
            **self._metrics(self.loss_sum, self.num_tokens),
            "without_ends": {"tokens": text_tokens, **self._metrics(text_loss, text_tokens)},
        }

    def _metrics(self, loss_sum: float, num_tokens: int) -> dict[str, float]:
        loss = loss_sum / max(1, num_tokens)
        metrics = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        for name, amount in (("byte", self.num_bytes), ("character", self.num_characters)):
            if amount:
                metrics[f"bits_per_{name}"] = loss_sum / math.log(2) / amount
        return metrics
