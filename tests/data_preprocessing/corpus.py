"""A small corpus with broken, empty and repeated lines, the settings that read it, and what is written of it."""

import json
import random

from data_preprocessing.config import PreprocessConfig
from modelzoo.data.dataset import TokenDataset
from modelzoo.tokenizer import Tokenizer
from tests.samples import TRICKY

LINES = 240
EVERYTHING = {
    "validation_fraction": 0.2,
    "shuffle_seed": 7,
    "deduplication": {"kind": "exact"},
    "on_error": "reject",
    "shard_tokens": 500,
    "tokenizer_backend": "tokenizers",
}


def write_corpus(folder, names=("a", "b", "c")):
    draw = random.Random(3)
    for name in names:
        lines = []
        for number in range(LINES // len(names)):
            own = f"{name} {number} " + "the cat " * draw.randrange(12)
            text = own if draw.random() < 0.8 else draw.choice([*TRICKY[1:], "a copy", "again"])
            lines.append(draw.choice([json.dumps({"text": text})] * 9 + ["", "{", '{"text": 3}']))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def config(**settings):
    reader = {"kind": "jsonl", "paths": ["a.jsonl", "b.jsonl", "c.jsonl"]}
    given = {"name": "t", "reader": reader, "tokenizer": "tokenizer.json", "output": "out", **EVERYTHING, **settings}
    return PreprocessConfig.model_validate(given)


def files_of(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def documents_of(path, split):
    tokenizer, dataset = Tokenizer.load(path), TokenDataset(path, split, 16)
    return [tokenizer.decode(dataset.document(i)) for i in range(dataset.num_documents)]
