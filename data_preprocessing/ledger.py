"""The account of a run: every document that came in was written, or rejected for a reason."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_preprocessing.selection import Selection
from data_preprocessing.spill import LEFT_OUT, REJECTED, USED, Spill
from modelzoo.data.schema import LedgerInfo, SourceInfo, SplitInfo, file_sha256


def account(selection: Selection, splits: Mapping[str, SplitInfo], rejected: Path) -> LedgerInfo:
    """Write the list of what was rejected, and hold what came in against what the shards hold.

    It is counted from the records, and the shards from what was written: an assertion says that both agree.
    """
    totals: Counter[str] = Counter()
    by_source: dict[str, Counter[str]] = {}
    reasons: Counter[str] = Counter()
    with rejected.open("w", encoding="utf-8") as file:
        for chunk, taken in enumerate(selection.taken):
            counted = _count(selection, chunk)
            totals += counted
            by_source.setdefault(taken.source, Counter()).update(counted)
            for line in _listed(selection, chunk):
                reasons[line["reason"]] += 1
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    info = LedgerInfo(
        **{name: totals[name] for name in LedgerInfo.model_fields if name in COUNTED},
        rejected_by_reason=dict(sorted(reasons.items())),
        rejected_sha256=file_sha256(rejected),
        sources={
            name: SourceInfo(**{field: counts[field] for field in SourceInfo.model_fields})
            for name, counts in by_source.items()
            if name
        },
    )
    for problem in problems(info, splits):
        raise AssertionError(problem)  # a document was lost or doubled: nothing is to be kept of it
    return info


COUNTED = {name for name, field in LedgerInfo.model_fields.items() if field.annotation is int}


def problems(ledger: LedgerInfo, splits: Mapping[str, SplitInfo]) -> Iterator[tuple[str, str]]:
    """Where the account does not add up: what is found, and what is expected."""
    written, parts = splits.values(), ledger.sources.values()
    sums = [
        ("documents_in", "written + rejected + left out",
         ledger.documents_written + ledger.documents_rejected + ledger.documents_left_out),
        ("bytes_in", "written + truncated + rejected + left out",
         ledger.bytes_written + ledger.bytes_truncated + ledger.bytes_rejected + ledger.bytes_left_out),
        ("documents_rejected", "those of all reasons", sum(ledger.rejected_by_reason.values())),
        ("pieces_written", "the sum of the splits", sum(split.num_documents for split in written)),
        ("bytes_written", "the sum of the splits", sum(split.num_bytes for split in written)),
        ("tokens_written", "the sum of the splits", sum(split.num_tokens for split in written)),
    ]  # fmt: skip
    for name in SourceInfo.model_fields if parts else ():
        sums.append((name, "the sum of the sources", sum(getattr(source, name) for source in parts)))
    for name, rule, expected in sums:
        if getattr(ledger, name) != expected:
            yield f"ledger.{name}={getattr(ledger, name)}", f"{expected} ({rule})"


def _count(selection: Selection, chunk: int) -> Counter[str]:
    """The numbers of one chunk, from its records, documents and pieces."""
    taken = selection.taken[chunk]
    spill: Spill = taken.spill
    status = spill.read("status", 0, taken.num_records)
    bytes_in = spill.read("bytes_in", 0, taken.num_records)
    kept = selection.kept(chunk)
    text_bytes = np.zeros(len(kept), dtype=np.int64)  # UTF-8 bytes of each document that is used
    text_bytes[: taken.num_documents] = bytes_in[status == USED]
    order, lengths, num_bytes = spill.read("order"), np.diff(spill.read("offsets")), spill.read("num_bytes")
    rows = kept[np.repeat(np.arange(len(kept)), spill.read("pieces"))[order]]
    duplicates = len(selection.duplicates_in(chunk)[0])
    duplicate_bytes = int(text_bytes[: taken.num_documents].sum() - text_bytes[kept].sum())
    return Counter(
        documents_in=taken.num_records,
        bytes_in=int(bytes_in.sum()),
        documents_written=int(kept.sum()),
        pieces_written=int(rows.sum()),
        bytes_written=int(num_bytes[rows].sum()),
        bytes_truncated=int(text_bytes[kept].sum() - num_bytes[rows].sum()),
        tokens_written=int(lengths[rows].sum()),
        documents_left_out=int((status == LEFT_OUT).sum()),
        bytes_left_out=int(bytes_in[status == LEFT_OUT].sum()),
        documents_rejected=int((status == REJECTED).sum()) + duplicates,
        bytes_rejected=int(bytes_in[status == REJECTED].sum()) + duplicate_bytes,
    )


def _listed(selection: Selection, chunk: int) -> list[dict[str, Any]]:
    """What is rejected of one chunk, in reading order."""
    taken = selection.taken[chunk]
    status = taken.spill.read("status")
    records = np.flatnonzero(status == REJECTED)
    within = int(np.searchsorted(records, taken.num_records))
    listed = list(zip(records.tolist(), taken.spill.rejections()[:within], strict=False))
    duplicates, originals = selection.duplicates_in(chunk)
    if len(duplicates):
        used = np.flatnonzero(status == USED)[duplicates].tolist()
        copies = zip(used, selection.places(chunk, duplicates), originals.tolist(), strict=True)
        for record, (file, unit, number), original in copies:
            detail = f"of {selection.place(original)}"
            line = {"file": file, "unit": unit, "number": number, "reason": selection.reason, "detail": detail}
            listed.append((record, line))
    return [line for _, line in sorted(listed, key=lambda entry: entry[0])]
