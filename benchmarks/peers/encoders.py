"""Encodes the texts of a JSONL with one tokenizer package, in this process, and prints its rate and its ids' hash.

Timed is what a pipeline needs: from a list of texts to one flat array of ids, in batches of about a megabyte.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np

BATCH_CHARACTERS = 1_000_000


def tokenizers_one(path, threads):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.encode_special_tokens = True
    return lambda texts: flat([tokenizer.encode(text, add_special_tokens=False).ids for text in texts])


def tokenizers_batch(path, threads):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.encode_special_tokens = True
    return lambda texts: flat([e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)])


def tiktoken_batch(path, threads):
    import tiktoken  # noqa: F401  # says that it is missing before anything else does
    from tiktoken_gpt2 import gpt2_of
    from tokenizers import Tokenizer

    gpt2 = gpt2_of(Tokenizer.from_file(path))
    if gpt2 is None:
        raise SystemExit("only GPT-2's vocabulary")
    return lambda texts: flat(gpt2.encode_ordinary_batch(texts, num_threads=threads))


def fastokens_flat(path, threads):
    from fastokens import Tokenizer

    tokenizer = Tokenizer.from_json_str(Path(path).read_text(encoding="utf-8"))
    return lambda texts: np.frombuffer(tokenizer.encode_batch_flat(texts, split_special_tokens=True)[0], np.uint32)


def gigatoken_batch(path, threads):
    from gigatoken import Tokenizer

    tokenizer = Tokenizer.from_json(Path(path).read_text(encoding="utf-8"))
    return lambda texts: np.asarray(tokenizer.encode_batch(texts, parallel=threads > 1).layout.content.data, np.uint32)


ENCODERS = {
    "tokenizers.encode": tokenizers_one,
    "tokenizers.encode_batch_fast": tokenizers_batch,
    "tiktoken.encode_ordinary_batch": tiktoken_batch,
    "fastokens.encode_batch_flat": fastokens_flat,
    "gigatoken.encode_batch": gigatoken_batch,
}


def flat(lists):
    return np.fromiter(chain.from_iterable(lists), np.uint32)


def batches(texts):
    batch, characters = [], 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=ENCODERS)
    parser.add_argument("--input", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-bytes", type=float, required=True)
    arguments = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(arguments.threads)  # before the package makes its threads
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    try:
        encode = ENCODERS[arguments.name](arguments.tokenizer, arguments.threads)
    except ModuleNotFoundError as error:
        sys.exit(f"not installed ({error.name})")
    texts, num_bytes = [], 0
    with open(arguments.input, encoding="utf-8") as lines:
        for line in lines:
            texts.append(json.loads(line)["text"])
            num_bytes += len(texts[-1].encode())
            if num_bytes >= arguments.max_bytes:
                break
    encode(["Start the threads.", "Fill the tables."])
    start = time.perf_counter()
    ids = [encode(batch) for batch in batches(texts)]
    seconds = time.perf_counter() - start
    digest = hashlib.sha256(np.concatenate(ids)).hexdigest()
    print(json.dumps({"bytes": num_bytes, "seconds": seconds, "tokens": sum(map(len, ids)), "sha256": digest}))


if __name__ == "__main__":
    main()
