"""The script that everybody has written: all texts in a list, `encode_batch_fast`, one array, one file."""

import json

import numpy as np
from arguments import END_OF_TEXT, answer, parse
from tokenizers import Tokenizer


def main() -> None:
    arguments = parse()
    tokenizer = Tokenizer.from_file(arguments.tokenizer)
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    with open(arguments.input, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    encodings = tokenizer.encode_batch_fast(texts)
    tokens = np.concatenate([np.array([*encoding.ids, end_of_text], dtype=np.uint16) for encoding in encodings])
    tokens.tofile(arguments.output / "tokens.bin")
    answer(len(tokens))


if __name__ == "__main__":
    main()
