"""`modelzoo vocab`: a checkpoint for another tokenizer."""

import json
from pathlib import Path
from typing import Any

import typer

from modelzoo.base_config import UserError
from modelzoo.cli.arguments import whole_or_nothing
from modelzoo.cli.import_hf import num_bytes


def command(
    checkpoint: Path = typer.Argument(..., help="A checkpoint, or a run's folder (its newest one)."),
    tokenizer: str = typer.Argument(..., help="The new one: tokenizer.json, a directory, hf://owner/name."),
    out: Path = typer.Argument(..., help="The checkpoint to write; must not exist."),
    multiple_of: int = typer.Option(
        128, min=1, max=65_536, help="Rows of embedding and head are padded to a multiple of this."
    ),
    max_shard_size: str = typer.Option("5GB", help="Weights beyond this go into several files."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Give a checkpoint another tokenizer: tokens that both have keep their rows, new ones start from their pieces.

    Then train it on: continue_from=OUT, on data of the new tokenizer.
    """
    with whole_or_nothing(out):
        report = run(checkpoint, tokenizer, out, multiple_of=multiple_of, max_shard_size=max_shard_size)
    print(json.dumps(report, indent=1) if as_json else describe(report))


def run(
    checkpoint: Path, tokenizer: str, out: Path, *, multiple_of: int = 128, max_shard_size: str = "5GB"
) -> dict[str, Any]:
    """The report that `command` prints."""
    from modelzoo.cli.progress import counting
    from modelzoo.convert.adapters import holds_adapters
    from modelzoo.convert.vocab import change_vocabulary
    from modelzoo.saved_models import load_model_config, load_tokenizer
    from modelzoo.tokenizer import Tokenizer
    from modelzoo.trainer.checkpoint import find_checkpoint

    max_file_bytes = num_bytes(max_shard_size, "--max-shard-size")
    new = Tokenizer.load(tokenizer, backend="tokenizers")
    folder = find_checkpoint(checkpoint)
    if holds_adapters(folder):
        raise UserError(
            f"{folder}: holds the adapters of a LoRA run, and no embeddings; make it a whole model with modelzoo merge"
        )
    return change_vocabulary(
        folder,
        load_model_config(folder),
        load_tokenizer(folder),
        new,
        out,
        multiple_of=multiple_of,
        max_file_bytes=max_file_bytes,
        progress=counting,
    )


def describe(report: dict[str, Any]) -> str:
    """The report for a reader."""
    share = report["shared"] / report["tokens"]
    lines = [
        f"{report['checkpoint']}: {report['tokens']:,} tokens in {report['rows']:,} rows, from {report['from']}",
        f"  shared    {report['shared']:,} ({share:.1%}): their rows are copied",
    ]
    if report["from_means"]:
        lines.append(
            f"  new       {report['from_means']:,}: the mean of {report['mean_pieces']:.2f} old pieces on average"
        )
    if report["from_mean_of_all"]:
        lines.append(f"  unknown   {report['from_mean_of_all']:,} (special tokens, say): the mean of all rows")
    lines.append(f"  dropped   {report['dropped']:,} of the old vocabulary")
    return "\n".join(lines)
