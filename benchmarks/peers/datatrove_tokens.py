"""datatrove: JsonlReader and DocumentTokenizer as its README has them, a task for each worker.

Its defaults stay: documents are shuffled, 10,000 are encoded at once. A task reads whole files, so that it
gets one file for each worker; the merging of the tasks' files into one, a further pass, is left out.
"""

from arguments import END_OF_TEXT, answer, parse
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer


def main() -> None:
    arguments = parse()
    tokens = arguments.output / "tokens"
    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(arguments.parts),
            DocumentTokenizer(
                output_folder=str(tokens),
                local_working_dir=str(arguments.output / "working"),
                tokenizer_name_or_path=arguments.tokenizer,
                eos_token=END_OF_TEXT,
            ),
        ],
        tasks=arguments.workers,
        workers=arguments.workers,
        logging_dir=str(arguments.output / "logs"),
    ).run()
    answer(sum(path.stat().st_size for path in tokens.glob("*.ds")) // 2)


if __name__ == "__main__":
    main()
