"""`modelzoo tokenizer`: train a byte-level BPE."""

import typer

from modelzoo.cli.arguments import say

app = typer.Typer(no_args_is_help=True, help="Train tokenizers.")


@app.callback()
def _group() -> None:
    """Makes `train` a verb of its own while it is the only one."""


@app.command("train")
def train_command(
    config: str = typer.Argument(..., help="A shipped name (tokenizer/…), or the path of a YAML."),
    overrides: list[str] = typer.Argument(None, help="key=value, in hydra's grammar."),
) -> None:
    """Train a byte-level BPE, GPT-2's or GPT-NeoX's style."""
    run(config, overrides or [])


def run(name: str, overrides: list[str]) -> None:
    """Train, and say where the tokenizer is."""
    from data_preprocessing.config import TokenizerTrainConfig
    from data_preprocessing.tokenizer_training import train
    from modelzoo.cli.progress import reading
    from modelzoo.config_files import load_config

    config = load_config(TokenizerTrainConfig, name, overrides)
    with reading("training the tokenizer") as on_progress:
        tokenizer = train(config, on_progress=on_progress)
    say(f"{config.output}: {tokenizer.vocab_size:,} tokens, sha256 {tokenizer.sha256[:12]}…")
