"""Runs of a study as jobs of hydra's launchers: `python -m modelzoo.cli.compare_hydra --multirun run=A.yaml,B.yaml`."""

from pathlib import Path

import hydra
import typer
from omegaconf import DictConfig

from modelzoo.cli.compare_job import run


@hydra.main(version_base="1.3", config_path=None, config_name=None)
def job(config: DictConfig) -> None:
    """`+run=PATH +max_bytes=… +batch_size=…`: one run."""
    try:
        run(Path(config["run"]), {"max_bytes": int(config["max_bytes"]), "batch_size": int(config["batch_size"])})
    except typer.Exit as stopped:
        raise SystemExit(stopped.exit_code) from None


if __name__ == "__main__":
    job()
