"""Cerebras ModelZoo's data_preprocessing/preprocess_data.py from a checkout of its repository, as it stands.

Its pretraining mode with the defaults of its configuration for language models, but for ftfy, which the others do
not run either. With two processes each takes one part of the input whole. What its `gpt2tokenizer` needs are the
older `transformers` that it pins; `neoxtokenizer` reads any tokenizer.json with these as with newer ones.
"""

import json
import runpy
import sys

import yaml
from arguments import answer, parse


def main() -> None:
    arguments = parse()
    content = {
        "setup": {
            "data": {"source": arguments.parts, "type": "local"},
            "mode": "pretraining",
            "output_dir": str(arguments.output / "samples"),
            "processes": arguments.workers,
        },
        "processing": {
            "custom_tokenizer": "neoxtokenizer",
            "tokenizer_params": {"encoder_file": arguments.tokenizer},
            "max_seq_length": 2048,
            "short_seq_prob": 0.0,
            "write_in_batch": True,
            "resume_from_checkpoint": False,
            "seed": 0,
            "read_hook": "cerebras.modelzoo.data_preparation.data_preprocessing.hooks:text_read_hook",
            "read_hook_kwargs": {"text_key": "text"},
            "shuffle": False,
            "use_ftfy": False,
        },
        "dataset": {"pack_sequences": True},
    }
    config = arguments.output / "config.yaml"
    config.write_text(yaml.safe_dump(content))
    source = arguments.checkout / "src"
    sys.path.insert(0, str(source))
    script = source / "cerebras/modelzoo/data_preparation/data_preprocessing/preprocess_data.py"
    sys.argv = [str(script), "--config", str(config)]
    runpy.run_path(str(script), run_name="__main__")
    # a worker that fails is a line in its log and an exit code of 0: what it has not written shows in the count
    written = json.loads((arguments.output / "samples" / "data_params.json").read_text())
    answer(written["post-process"]["non_pad_tokens"])


if __name__ == "__main__":
    main()
