"""`modelzoo train`: launch a run, or resume the run of that name."""

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from modelzoo.cli import ranks
from modelzoo.cli.arguments import say

if TYPE_CHECKING:
    from modelzoo.run_config import RunConfig
    from modelzoo.trainer.trainer import Trainer

STOPPED = 3
"""Exit code of a run that a signal stopped with its checkpoint saved."""


def command(
    config: str = typer.Argument(..., help="A shipped name, or the path of a YAML."),
    overrides: list[str] = typer.Argument(None, help="key=value, in hydra's grammar."),
) -> None:
    """Train; a run of the same name goes on from its newest checkpoint."""
    if run(config, overrides or []) is None:
        raise typer.Exit(STOPPED)


def run(name: str, overrides: list[str]) -> dict[str, Any] | None:
    """Train to the end and return the run's last numbers; None where a signal stopped it."""
    from modelzoo.run_config import load_run_config

    config = load_run_config(name, overrides)  # every mistake in the YAML shows before torch is loaded
    if not ranks.is_rank() and (num_ranks := _num_ranks(config)) > 1:
        if code := ranks.run_ranks(["train", name, *overrides], num_ranks):
            raise typer.Exit(code)
        return _last_numbers(config)

    from modelzoo.files import exclusive
    from modelzoo.launch import build_run
    from modelzoo.trainer.accelerator import keep_freed_memory

    trainer = build_run(config)
    if trainer.accelerator.device.type == "cpu":
        keep_freed_memory()
    try:
        if not trainer.parallel.is_main:
            return _train(config, trainer, [name, *overrides], lambda line: None)
        with exclusive(trainer.run_dir / ".lock", f"training {trainer.run_dir}"):
            return _train(config, trainer, [name, *overrides], say)
    finally:
        trainer.parallel.close()


def _last_numbers(config: "RunConfig") -> dict[str, Any]:
    """The newest value of each number that a run has recorded."""
    from modelzoo.launch import run_dir_of
    from modelzoo.trainer.callbacks.metrics import FILE_NAME, read_metrics

    numbers: dict[str, Any] = {}
    for record in read_metrics(run_dir_of(config) / FILE_NAME):
        numbers.update(record)
    return numbers


def _num_ranks(config: "RunConfig") -> int:
    """Processes to start on this machine: one for each of its accelerators, or what the config says."""
    import torch

    wanted = config.accelerator
    on_cpu = wanted.device == "cpu" or not torch.accelerator.is_available()
    return wanted.num_ranks(1 if on_cpu else torch.accelerator.device_count())


def _train(
    config: "RunConfig", trainer: "Trainer", arguments: list[str], say: Callable[[str], None]
) -> dict[str, Any] | None:
    """`run`, from the newest checkpoint on, on one of the ranks."""
    import torch

    from modelzoo.files import write_text
    from modelzoo.launch import resume
    from modelzoo.run_config import dump_yaml
    from modelzoo.trainer.trainer import NonFiniteError

    checkpoint, notes = resume(trainer, config)
    for note in [*trainer.accelerator.notes, *trainer.data.notes, *notes]:
        say(f"note: {note}")
    say(
        f"{config.name}: {config.model.num_parameters():,} parameters on {trainer.parallel.described}"
        f"{trainer.accelerator.device.type} ({trainer.accelerator.precision}), "
        f"{trainer.total_steps:,} steps of {config.tokens_per_step:,} tokens "
        f"= {trainer.total_steps * config.tokens_per_step:,} tokens, in {trainer.run_dir}"
    )
    for line in trainer.data.summary(trainer.total_steps):
        say(f"data: {line}")
    if trainer.step < trainer.total_steps or trainer.evaluation_due:
        if checkpoint is not None:
            say(f"resuming from {checkpoint}")
        if trainer.parallel.is_main:
            write_text(trainer.run_dir / "config.yaml", dump_yaml(config))
        try:
            finished = trainer.train()
        except NonFiniteError as error:
            say(f"error: {error}; what was saved before is in {trainer.run_dir}/checkpoints")
            raise typer.Exit(1) from None
        except torch.OutOfMemoryError as error:
            micro = config.trainer.micro_batch_size or config.trainer.global_batch_size
            say(f"error: out of memory ({error}); use a trainer.micro_batch_size below {micro}")
            raise typer.Exit(1) from None
        if not finished:
            say(
                f"stopped after step {trainer.step:,} of {trainer.total_steps:,}; the same command goes on from there: "
                f"modelzoo train {shlex.join(arguments)}"
            )
            return None
    else:
        say(f"already complete: {checkpoint}")
    numbers = _last_numbers(config)
    if trainer.tokens_per_second == trainer.tokens_per_second:  # not NaN: this process trained
        numbers["tokens_per_second"] = trainer.tokens_per_second
    say(
        f"done: step {trainer.step:,}"
        + "".join(
            f", {label} {numbers[key]:{form}}"
            for key, label, form in (
                ("loss", "loss", ".4f"),
                ("validation_loss", "validation loss", ".4f"),
                ("tokens_per_second", "tokens/s", ",.0f"),
            )
            if key in numbers
        )
    )
    say(f"next: modelzoo generate {trainer.run_dir} --prompt TEXT")
    return numbers
