"""Datasets written by hand, through the format's own functions."""

import hashlib
import json
from pathlib import Path

import numpy as np

from modelzoo.data.schema import REJECTED, LedgerInfo, Pieces, ShardHeader, write_shard


def write_arrays(path, header: ShardHeader, tokens, offsets, loss_mask=None) -> None:
    """One shard from whole arrays; its bytes of text all count for the first document."""
    lengths = np.diff(offsets).astype(np.int64)
    num_bytes = np.zeros_like(lengths)
    num_bytes[0] = header.num_bytes
    mask = None if loss_mask is None else np.asarray(loss_mask, dtype=np.uint8)
    write_shard(path, header, [Pieces(lengths, num_bytes, np.asarray(tokens), mask)], mask is not None)


def ledger(documents: int, num_bytes: int, tokens: int, rejected=(), root: Path | None = None) -> LedgerInfo:
    """An account that adds up; `rejected` holds lines of rejected.jsonl, of seven bytes each, written below root."""
    content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in rejected).encode()
    if root is not None:
        (root / REJECTED).write_bytes(content)
    reasons = [line["reason"] for line in rejected]
    return LedgerInfo(
        documents_in=documents + len(reasons),
        bytes_in=num_bytes + 7 * len(reasons),
        documents_written=documents,
        pieces_written=documents,
        bytes_written=num_bytes,
        bytes_truncated=0,
        tokens_written=tokens,
        documents_left_out=0,
        bytes_left_out=0,
        documents_rejected=len(reasons),
        bytes_rejected=7 * len(reasons),
        rejected_by_reason={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        rejected_sha256=hashlib.sha256(content).hexdigest(),
        sources={},
    )
