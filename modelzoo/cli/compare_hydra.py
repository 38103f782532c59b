"""Runs of a study as jobs of hydra's launchers: `python -m modelzoo.cli.compare_hydra --multirun +run=A,B …`."""

from pathlib import Path

import hydra
import typer
from omegaconf import DictConfig

from modelzoo.cli.compare_job import run


@hydra.main(version_base="1.3", config_path=None, config_name=None)
def job(config: DictConfig) -> None:
    """`+run=PATH +settings=PATH`: one run."""
    try:
        run(Path(config["run"]), Path(config["settings"]))
    except typer.Exit as stopped:
        raise SystemExit(stopped.exit_code) from None


if __name__ == "__main__":
    job()
