"""One run of a study in a process of its own: trained, then measured on the held-out text."""

import json
from pathlib import Path
from typing import Any

import typer


def command(
    config: Path = typer.Argument(..., help="The run's YAML, as the study wrote it."),
    held_out: str = typer.Argument("{}", help="The study's held_out section, as JSON."),
) -> None:
    """Train one run of a study, and measure it."""
    from modelzoo.cli.train import STOPPED
    from modelzoo.trainer.stop_signals import exit_on_signals

    exit_on_signals(STOPPED)
    run(config, json.loads(held_out))


def run(path: Path, settings: dict[str, Any]) -> None:
    """Train to the end and write held_out.json. Raises typer.Exit(3) where a signal stopped it."""
    from modelzoo.cli import train
    from modelzoo.compare.config import HeldOutConfig
    from modelzoo.run_config import load_run_config

    config = load_run_config(str(path))
    if train.run(str(path), []) is None:
        raise typer.Exit(train.STOPPED)
    from modelzoo.compare.held_out import measure_held_out

    measure_held_out(Path(config.output_dir, config.name), config, HeldOutConfig.model_validate(settings))
