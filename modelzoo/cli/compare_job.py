"""One run of a study in a process of its own: trained, then measured on the held-out text and on tasks."""

import json
import time
from pathlib import Path
from typing import Any

import typer

from modelzoo.cli.arguments import say
from modelzoo.cli.exit_codes import STOPPED

WAIT_SECONDS = 5.0
"""Between two looks whether another process is done with a run."""


def command(
    config: Path = typer.Argument(..., help="The run's YAML, as the study wrote it."),
    settings: Path = typer.Argument(..., help="How it is measured, as the study wrote it."),
) -> None:
    """Train one run of a study, and measure it."""
    run(config, settings)


def run(path: Path, settings: Path) -> None:
    """Train to the end, and write held_out.json and tasks.json. Raises typer.Exit(3) where a signal stopped it.

    A run whose numbers went wrong is an outcome too: held_out.json then says that it diverged.
    """
    from modelzoo.cli import train
    from modelzoo.compare.config import HeldOutConfig, TasksConfig
    from modelzoo.run_config import load_run_config

    config = load_run_config(str(path))
    run_dir = Path(config.output_dir, config.name)
    measure = json.loads(settings.read_text(encoding="utf-8"))
    held_out = HeldOutConfig.model_validate(measure["held_out"])
    try:
        trained = _train(path)
    except train.TrainingFailed as failed:
        from modelzoo.compare.held_out import write_diverged

        write_diverged(run_dir, config, held_out, failed.reason)
        return
    if trained is None:
        raise typer.Exit(STOPPED)
    from modelzoo.compare.execution import TASKS, read_held_out, read_tasks
    from modelzoo.compare.held_out import measure_held_out
    from modelzoo.files import write_text

    if measure["tasks"] is not None:
        from modelzoo.cli import evaluate_tasks

        tasks = TasksConfig.model_validate(measure["tasks"])
        if read_tasks(run_dir, tasks) is None:
            folder = None if tasks.dir is None else Path(tasks.dir)
            found = evaluate_tasks.run(run_dir, ",".join(tasks.names), folder, limit=tasks.limit)
            content = {"schema": 1, "settings": measure["tasks"], "results": found["results"]}
            write_text(run_dir / TASKS, json.dumps(content, default=str) + "\n")
    there = read_held_out(run_dir, held_out)
    if there is None or there["step"] != config.total_steps:
        measure_held_out(run_dir, config, held_out)


def _train(path: Path) -> Any:
    """`modelzoo train`; where another study is at the same run, after that."""
    from modelzoo.cli import train
    from modelzoo.files import InUseError

    told = False
    while True:
        try:
            return train.run(str(path), [])
        except InUseError as error:
            if not told:
                say(f"waiting: {error}")
            told = True
            time.sleep(WAIT_SECONDS)
