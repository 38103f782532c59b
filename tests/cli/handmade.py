"""Small datasets written through the file format alone, without the pipeline."""

import json
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
from tests.samples import small_tokenizer
from tests.shards import ledger, write_arrays

END = 0
SPLITS = {
    "train": [
        ["the cat", "日本語 😶‍🌫️ ok", "<script>alert(1)</script> & \x1b[2J\x9b31m"],
        ["<|endoftext|> spelt", "the dog and the bird\n\tsaw the cat", "a", "needle" + " and the" * 40],
    ],
    "validation": [["the other cat", "the bird"]],
}
"""Split, shard, document."""


def write_dataset(root: Path, masked: bool = False) -> Path:
    """SPLITS as a dataset; `masked`: the first three ids of each document are not learnt. One more was rejected."""
    tokenizer = small_tokenizer()
    settings = {"mode": {"kind": "prompt_completion" if masked else "lm"}, "seed": 1}
    info = TokenizerInfo(sha256=tokenizer.sha256, vocab_size=tokenizer.vocab_size, end_of_document_id=END)
    root.mkdir(parents=True)
    tokenizer.save(root / "tokenizer.json")
    splits = {}
    for split, shards in SPLITS.items():
        (root / split).mkdir()
        written = []
        for number, texts in enumerate(shards):
            documents = [np.array([*tokenizer.encode(text), END]) for text in texts]
            masks = [np.arange(len(ids)) >= 3 for ids in documents]
            tokens, offsets = np.concatenate(documents), np.cumsum([0, *map(len, documents)])
            counts = {
                "num_documents": len(texts),
                "num_tokens": len(tokens),
                "num_bytes": sum(len(text.encode()) for text in texts),
            }
            header = ShardHeader(
                schema_version=SCHEMA_VERSION,
                tokenizer_sha256=info.sha256,
                vocab_size=info.vocab_size,
                end_of_document_id=END,
                mode=settings["mode"]["kind"],
                source_config=json.dumps(settings, sort_keys=True),
                **counts,
            )
            file = f"{split}/{number:05}.h5"
            write_arrays(root / file, header, tokens, offsets, np.concatenate(masks) if masked else None)
            written.append(ShardInfo(file=file, sha256=file_sha256(root / file), **counts))
        sums = {name: sum(getattr(shard, name) for shard in written) for name in counts}
        splits[split] = SplitInfo(shards=tuple(written), **sums)
    documents_written = sum(split.num_documents for split in splits.values())
    bytes_written = sum(split.num_bytes for split in splits.values())
    tokens_written = sum(split.num_tokens for split in splits.values())
    rejected = {"file": "a.jsonl", "unit": "line", "number": 11, "reason": "not JSON", "detail": "\x1b[31m{oops"}
    account = ledger(documents_written, bytes_written, tokens_written, [rejected], root)
    write_manifest(
        root,
        Manifest(
            schema_version=SCHEMA_VERSION, settings=settings, inputs=(), tokenizer=info, splits=splits, ledger=account
        ),
    )
    return root
