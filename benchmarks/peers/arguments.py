"""The arguments and the answer that every peer script has in common."""

import argparse
import json
from pathlib import Path

END_OF_TEXT = "<|endoftext|>"


def parse() -> argparse.Namespace:
    """What `preprocess.py` passes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--input", required=True, help="the JSONL, whole")
    parser.add_argument("--parts", required=True, help="a directory with the same lines as one JSONL a worker")
    parser.add_argument("--tokenizer", required=True, help="tokenizer.json")
    parser.add_argument("--output", required=True, type=Path, help="an empty directory")
    parser.add_argument("--workers", required=True, type=int)
    parser.add_argument("--checkout", type=Path, help="the peer's own source, where it is no package")
    return parser.parse_args()


def answer(num_tokens: int) -> None:
    """The last line of the output: how many tokens, end-of-text ids included, lie in the files written."""
    print(json.dumps({"tokens": int(num_tokens)}), flush=True)
