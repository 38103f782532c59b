"""nanoGPT-style: `datasets` maps tiktoken over the documents, then a memmap takes them in 1,024 batches.

Where tiktoken cannot carry the vocabulary, `tokenizers` encodes instead; the label says which.
"""

import json
from functools import partial

import numpy as np
from arguments import END_OF_TEXT, answer, parse
from datasets import load_dataset
from tiktoken_gpt2 import gpt2_of
from tokenizers import Tokenizer


def process(example, encode, end_of_text):
    ids = encode(example["text"])
    ids.append(end_of_text)
    return {"ids": ids, "len": len(ids)}


def encode_with(tokenizer, text):
    return tokenizer.encode(text).ids


def main() -> None:
    arguments = parse()
    tokenizer = Tokenizer.from_file(arguments.tokenizer)
    gpt2 = gpt2_of(tokenizer)
    encode = partial(encode_with, tokenizer) if gpt2 is None else gpt2.encode_ordinary
    print(json.dumps({"label": f"nanoGPT ({'tokenizers' if gpt2 is None else 'tiktoken'})"}))
    cache = str(arguments.output / "cache")
    dataset = load_dataset("json", data_files=arguments.input, split="train", cache_dir=cache)
    split = dataset.train_test_split(test_size=0.01, seed=2357, shuffle=True)
    tokenized = split.map(
        partial(process, encode=encode, end_of_text=tokenizer.token_to_id(END_OF_TEXT)),
        remove_columns=dataset.column_names,
        num_proc=arguments.workers,
    )
    total = 0
    for name, documents in tokenized.items():
        length = int(np.sum(documents["len"], dtype=np.uint64))
        array = np.memmap(arguments.output / f"{name}.bin", dtype=np.uint16, mode="w+", shape=(length,))
        index, num_batches = 0, min(1024, len(documents))
        for batch in range(num_batches):
            shard = documents.shard(num_shards=num_batches, index=batch, contiguous=True).with_format("numpy")
            ids = np.concatenate(shard["ids"])
            array[index : index + len(ids)] = ids
            index += len(ids)
        array.flush()
        total += index
    answer(total)


if __name__ == "__main__":
    main()
