"""gpt-neox's tools/datasets/preprocess_data.py from a checkout of its repository, as it stands.

Importing its package `megatron` whole asks for DeepSpeed and for the parts that train; the script needs two of
its files. An empty `megatron` that only knows where they lie lets it start without the rest, which favours it.
"""

import runpy
import sys
import types

from arguments import answer, parse


def main() -> None:
    arguments = parse()
    megatron = types.ModuleType("megatron")
    megatron.__path__ = [str(arguments.checkout / "megatron")]
    megatron.print_rank_0 = print
    sys.modules["megatron"] = megatron
    script = arguments.checkout / "tools/datasets/preprocess_data.py"
    sys.argv = [
        *(str(script), "--input", arguments.input, "--output-prefix", str(arguments.output / "out")),
        *("--tokenizer-type", "HFTokenizer", "--vocab-file", arguments.tokenizer),
        *("--append-eod", "--workers", str(arguments.workers)),
    ]
    runpy.run_path(str(script), run_name="__main__")
    answer((arguments.output / "out_text_document.bin").stat().st_size // 2)


if __name__ == "__main__":
    main()
