"""`modelzoo preprocess`: raw text to HDF5."""

from typing import TYPE_CHECKING

import typer

from modelzoo.cli.arguments import say

if TYPE_CHECKING:
    from data_preprocessing.pipeline import Summary


def command(
    config: str = typer.Argument(..., help="A shipped name (preprocess/…), or the path of a YAML."),
    overrides: list[str] = typer.Argument(None, help="key=value, in hydra's grammar."),
) -> None:
    """Raw text to an HDF5 dataset: tokens, documents, and a ledger of what was left out."""
    run(config, overrides or [])


def run(name: str, overrides: list[str]) -> "Summary":
    """Preprocess, and say what was written."""
    from data_preprocessing import pipeline
    from data_preprocessing.config import PreprocessConfig
    from modelzoo.cli.progress import reading
    from modelzoo.config_files import load_config

    config = load_config(PreprocessConfig, name, overrides)
    with reading("preprocessing") as on_progress:
        summary = pipeline.run(config, on_progress=on_progress)
    if summary.already_done:
        say(f"already done: {summary.output} holds this dataset")
    ledger = summary.manifest.ledger
    for split, info in summary.manifest.splits.items():
        say(
            f"{summary.output} ({split}): {info.num_documents:,} documents, {info.num_bytes:,} bytes, "
            f"{info.num_tokens:,} tokens, {info.num_bytes / info.num_tokens:.2f} bytes per token"
        )
    for reason, number in ledger.rejected_by_reason.items():
        say(f"left out: {number:,} documents ({reason}); they are listed in {summary.output}/manifest.json")
    return summary
