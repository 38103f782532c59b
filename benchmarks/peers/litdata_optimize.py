"""litdata: `optimize` for language models as its README has it, a file for each worker."""

import json
from functools import partial
from pathlib import Path

import torch
from arguments import END_OF_TEXT, answer, parse
from litdata import TokensLoader, optimize
from tokenizers import Tokenizer


def encode(path, tokenizer):
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            ids = tokenizer.encode(json.loads(line)["text"]).ids
            yield torch.tensor([*ids, end_of_text], dtype=torch.uint16)


def main() -> None:
    arguments = parse()
    optimize(
        fn=partial(encode, tokenizer=Tokenizer.from_file(arguments.tokenizer)),
        inputs=sorted(map(str, Path(arguments.parts).iterdir())),
        output_dir=str(arguments.output),
        num_workers=arguments.workers,
        chunk_bytes="64MB",
        item_loader=TokensLoader(),
    )
    chunks = json.loads((arguments.output / "index.json").read_text())["chunks"]
    answer(sum(chunk["dim"] for chunk in chunks))


if __name__ == "__main__":
    main()
