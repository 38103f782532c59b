"""The account of a run: every document that came in was written, or rejected for a reason."""

from collections import Counter
from collections.abc import Iterable

from data_preprocessing.readers import Rejected
from modelzoo.data.schema import LedgerInfo, RejectedDocument, SplitInfo

MAX_LISTED = 1000


class Ledger:
    """Counts what is read, and at the end holds it against what the writers say they wrote."""

    def __init__(self) -> None:
        self.documents_in = 0
        self.bytes_in = 0
        self.bytes_rejected = 0
        self.tokens = 0
        self.rejected_by_reason: Counter[str] = Counter()
        self.listed: list[RejectedDocument] = []

    def read(self, num_bytes: int) -> None:
        """A document came in that can be used."""
        self.documents_in += 1
        self.bytes_in += num_bytes

    def reject(self, rejected: Rejected) -> None:
        """A document came in that cannot be used."""
        self.read(rejected.num_bytes)
        self.bytes_rejected += rejected.num_bytes
        self.rejected_by_reason[rejected.reason] += 1
        if len(self.listed) < MAX_LISTED:
            place = rejected.place._asdict()
            self.listed.append(RejectedDocument(**place, reason=rejected.reason, detail=rejected.detail))

    def close(self, splits: Iterable[SplitInfo]) -> LedgerInfo:
        """The finished account. Asserts that it adds up."""
        splits = list(splits)
        documents = sum(split.num_documents for split in splits)
        num_bytes = sum(split.num_bytes for split in splits)
        tokens = sum(split.num_tokens for split in splits)
        rejected = self.rejected_by_reason.total()
        assert self.documents_in == documents + rejected, (self.documents_in, documents, rejected)
        assert self.bytes_in == num_bytes + self.bytes_rejected, (self.bytes_in, num_bytes)
        assert self.tokens == tokens, (self.tokens, tokens)
        return LedgerInfo(
            documents_in=self.documents_in,
            bytes_in=self.bytes_in,
            documents_written=documents,
            bytes_written=num_bytes,
            rejected_by_reason=dict(sorted(self.rejected_by_reason.items())),
            rejected=tuple(self.listed),
        )
