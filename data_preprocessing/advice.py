"""What a user should think over before tuning a model on a dataset: nothing is wrong with it, but something may be.

E examples of a split, N tokens of a shard.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from data_preprocessing.modes import ModeConfig
from data_preprocessing.modes.chat import ChatMode
from data_preprocessing.modes.prompt_completion import PromptCompletionMode
from data_preprocessing.readers import ReaderConfig
from modelzoo.data.schema import LedgerInfo, SplitInfo

FEW = 100
"""Examples; with fewer a model learns them by heart before it learns what they have in common."""
CONTEXT = 2048
"""Tokens that GPT-J, GPT-NeoX and most of their kind can read at once."""
ALIKE = 0.9
"""Share of the prompts that is to end with the same token."""


class Examples(NamedTuple):
    """One split, an entry for each example."""

    lengths: np.ndarray
    """(E,) int64 tokens, the end-of-document id among them."""
    hashes: np.ndarray
    """(E, 2) uint64: of all of its ids, and of its prompt's: what stands before the first learnt one."""
    last: np.ndarray
    """(E,) int64: the last id of the prompt; -1 where there is none."""


def advise(
    dataset: Path,
    mode: ModeConfig,
    readers: Iterable[ReaderConfig],
    num_files: int,
    ledger: LedgerInfo,
    splits: Mapping[str, SplitInfo],
) -> Iterator[str]:
    """Each with its numbers and a remedy. What is read is a dataset whose mode has a loss mask, once."""
    yield from _separators(mode, readers, num_files, ledger)
    if not mode.has_loss_mask:
        return
    found = {name: _read(dataset, split) for name, split in splits.items()}
    lengths = np.concatenate([split.lengths for split in found.values()])
    count = len(found["train"].lengths)
    if count < FEW:
        yield (
            f"only {count:,} examples to train on: with fewer than {FEW} a model learns them by heart; add more, or "
            "train few epochs and keep an eye on the validation loss"
        )
    if long := int((lengths > CONTEXT).sum()):
        limit = "mode.limit" if isinstance(mode, ChatMode) else "mode.limits.example"
        yield (
            f"{long:,} of {len(lengths):,} examples are longer than {CONTEXT:,} tokens, their end included (the "
            f"longest {lengths.max():,}), and a row of so many cuts them; set '{limit}={{max_tokens: {CONTEXT}, "
            "policy: reject}' or a policy that truncates, or train with a longer data.seq_len"
        )
    hashes = np.concatenate([split.hashes for split in found.values()])
    if copies := len(hashes) - len(np.unique(hashes[:, 0])):
        yield (
            f"{copies:,} of {len(hashes):,} examples are copies of another one, which then counts so much more; leave "
            "them out with 'deduplication={kind: exact}'"
        )
    if "validation" in found:
        held_out = found["validation"]
        leaked = int((np.isin(held_out.hashes[:, 1], found["train"].hashes[:, 1]) & (held_out.last >= 0)).sum())
        if leaked:
            yield (
                f"the prompts of {leaked:,} of {len(held_out.lengths):,} validation examples are trained on too, with "
                "other completions: their loss tells less of new prompts; keep one example of each prompt, or hold out "
                "prompts yourself (validation_fraction=0, and a dataset of their own)"
            )
    if isinstance(mode, PromptCompletionMode):
        yield from _endings(found["train"].last, mode)


def _separators(mode: ModeConfig, readers: Iterable[ReaderConfig], num_files: int, ledger: LedgerInfo) -> Iterator[str]:
    separators = [separator for reader in readers if (separator := getattr(reader, "separator", None))]
    if separators and ledger.documents_in <= num_files:
        yield (
            f"{ledger.documents_in:,} documents in {num_files:,} files: {separators[0]!r} never stands between two; "
            "put it there, or set reader.separator to what does"
        )
    if missing := ledger.rejected_by_reason.get("no separator"):
        assert isinstance(mode, PromptCompletionMode)
        yield (
            f"{missing:,} of {ledger.documents_in:,} examples have no {mode.separator!r} and are left out; end their "
            "prompts with it, or set mode.separator to what does"
        )


def _endings(last: np.ndarray, mode: PromptCompletionMode) -> Iterator[str]:
    """Of a model's prompt somebody has to say where it ends; templates of the other modes do."""
    _, counts = np.unique(last, return_counts=True)
    share = counts.max() / len(last)
    if share < ALIKE:
        how = "end every prompt with the same mark, such as '\\n\\n###\\n\\n'"
        if mode.separator is not None:
            how = "set mode.keep_separator=true"
        yield (
            f"the prompts end in {len(counts):,} different tokens, the most frequent of them in {share:.0%}: a model "
            f"cannot tell where the completion begins; {how}"
        )


def _read(dataset: Path, split: SplitInfo) -> Examples:
    """All examples of a split, shard by shard."""
    parts = []
    for shard in split.shards:
        with h5py.File(dataset / shard.file, "r") as file:
            tokens, learnt = file["tokens"][:], np.flatnonzero(file["loss_mask"][:])
            offsets = file["document_offsets"][:].astype(np.int64)
        starts, ends = offsets[:-1], offsets[1:]
        after = np.append(learnt, len(tokens))  # where nothing is learnt the prompt is all of the example
        first = np.minimum(after[np.searchsorted(learnt, starts)], ends)
        places = zip(starts.tolist(), first.tolist(), ends.tolist(), strict=True)
        hashes = [(_hash(tokens[start:end]), _hash(tokens[start:begin])) for start, begin, end in places]
        last = np.where(first > starts, tokens[first - 1].astype(np.int64), -1)
        parts.append(Examples(ends - starts, np.array(hashes, dtype=np.uint64).reshape(-1, 2), last))
    return Examples(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _hash(ids: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little")
