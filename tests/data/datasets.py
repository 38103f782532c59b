"""A tiny dataset, built without preprocessing."""

from pathlib import Path

import numpy as np

from modelzoo.data.schema import (
    SCHEMA_VERSION,
    Manifest,
    ShardHeader,
    ShardInfo,
    SplitInfo,
    TokenizerInfo,
    file_sha256,
    write_manifest,
)
from tests.shards import ledger, write_arrays

LENGTHS = [[9, 1, 4], [2], [17, 3, 5, 1]]
"""Documents of each shard, in tokens, the end-of-document id included: 42 tokens."""


def build(
    root: Path, masked: bool = False, offset: int = 0, vocab_size: int = 50, tokenizer_sha256: str = "ab"
) -> np.ndarray:
    """A dataset of three shards; returns its stream, whose ids are all different but for the ends."""
    stream = np.arange(1 + offset, 43 + offset)
    infos, start = [], 0
    root.mkdir(exist_ok=True)
    for number, lengths in enumerate(LENGTHS):
        offsets = np.cumsum([0, *lengths])
        stream[start + offsets[1:] - 1] = 0
        tokens = stream[start : start + offsets[-1]]
        start += offsets[-1]
        counts = {"num_documents": len(lengths), "num_tokens": len(tokens), "num_bytes": 10}
        file = f"{number:05d}.h5"
        header = ShardHeader(SCHEMA_VERSION, tokenizer_sha256, vocab_size, 0, "lm", **counts, source_config="{}")
        write_arrays(root / file, header, tokens, offsets, tokens % 2 if masked else None)
        infos.append(ShardInfo(file=file, sha256=file_sha256(root / file), **counts))
    split = SplitInfo(shards=tuple(infos), num_documents=8, num_tokens=42, num_bytes=30)
    tokenizer = TokenizerInfo(sha256=tokenizer_sha256, vocab_size=vocab_size, end_of_document_id=0)
    write_manifest(
        root,
        Manifest(
            schema_version=SCHEMA_VERSION,
            settings={},
            inputs=(),
            tokenizer=tokenizer,
            splits={"train": split},
            ledger=ledger(8, 30, 42),
        ),
    )
    return stream
