"""Runs of a study as jobs of hydra's launchers: `--multirun +run=A,B +settings=PATH`."""

import sys
from pathlib import Path

import hydra
import typer
from omegaconf import DictConfig

from modelzoo.base_config import UserError
from modelzoo.cli.compare_job import run


@hydra.main(version_base="1.3", config_path=None, config_name=None)
def job(config: DictConfig) -> None:
    """`+run=PATH +settings=PATH`: one run."""
    try:
        run(Path(config["run"]), Path(config["settings"]))
    except typer.Exit as ended:
        raise SystemExit(ended.exit_code) from None
    except UserError as error:
        print(f"error: the run of {config['run']}: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
