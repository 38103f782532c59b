"""`modelzoo train`: launch a run, or resume the run of that name."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modelzoo.base_config import UserError
from modelzoo.cli import ranks
from modelzoo.cli.arguments import say
from modelzoo.cli.exit_codes import STOPPED
from modelzoo.cli.restarts import supervise

if TYPE_CHECKING:
    from modelzoo.run_config import RunConfig
    from modelzoo.trainer.trainer import Trainer


class TrainingFailed(typer.Exit):
    """Exit code 1 of a run whose numbers went wrong, after the person was told."""

    def __init__(self, reason: str) -> None:
        super().__init__(1)
        self.reason = reason


def command(
    config: str = typer.Argument(..., help="A shipped name, or the path of a YAML."),
    overrides: list[str] = typer.Argument(None, help="key=value, in hydra's grammar."),
    restarts: int = typer.Option(
        0, min=0, help="Start the run again after a crash, so many times without a new checkpoint in between."
    ),
) -> None:
    """Train; a run of the same name goes on from its newest checkpoint."""
    if restarts:
        code = _supervise(config, overrides or [], restarts)
    else:
        code = STOPPED if run(config, overrides or []) is None else 0
        if ranks.is_rank():
            ranks.leave(code)
    if code:
        raise typer.Exit(code)


def _supervise(name: str, overrides: list[str], restarts: int) -> int:
    """The exit code of a run that is started again after a crash."""
    from modelzoo.run_config import load_run_config

    if ranks.is_rank():
        raise UserError("--restarts: this process is one of several ranks; have torchrun restart them (--max-restarts)")
    config = load_run_config(name, overrides)
    return supervise(["train", name, *overrides], restarts, Path(config.output_dir) / config.name)


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
    from modelzoo.trainer.accelerator import keep_memory_of

    speed = keep_memory_of(config.accelerator)  # before torch takes memory
    trainer = build_run(config)
    if speed:
        trainer.accelerator.chosen.insert(0, speed)
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
        numbers |= {name: value for name, value in record.items() if value is not None}
    return numbers


def _num_ranks(config: "RunConfig") -> int:
    """Processes to start on this machine: one for each of its accelerators, or what the config says."""
    import torch

    wanted = config.accelerator
    on_cpu = wanted.device == "cpu" or not torch.accelerator.is_available()
    return wanted.num_ranks(1 if on_cpu else torch.accelerator.device_count())


def _trained(trainer: "Trainer") -> str:
    """How many parameters are trained, where it is not all of them."""
    counts = [p.numel() for p in trainer.model.parameters() if p.requires_grad]
    frozen = any(not p.requires_grad for p in trainer.model.parameters())
    return f", {sum(counts):,} trained," if frozen else ""


def _train(
    config: "RunConfig", trainer: "Trainer", arguments: list[str], say: Callable[[str], None]
) -> dict[str, Any] | None:
    """`run`, from the newest checkpoint on, on one of the ranks."""
    import torch

    from modelzoo.files import write_text
    from modelzoo.launch import copies_of, resume
    from modelzoo.run_config import dump_yaml
    from modelzoo.trainer.bad_updates import TrainingError
    from modelzoo.trainer.remote_copy import require_copied

    checkpoint, notes = resume(trainer, config)
    for note in [*config.notes(), *trainer.accelerator.notes, *trainer.data.notes, *notes]:
        say(f"note: {note}")
    say(
        f"{config.name}: {config.model.num_parameters():,} parameters{_trained(trainer)} on "
        f"{trainer.parallel.described}"
        f"{trainer.accelerator.device.type} ({trainer.accelerator.precision}), "
        f"{trainer.total_steps:,} steps of {config.tokens_per_step:,} tokens "
        f"= {trainer.total_steps * config.tokens_per_step:,} tokens, in {trainer.run_dir}"
    )
    if trainer.accelerator.chosen:
        say(f"speed: {', '.join(trainer.accelerator.chosen)}")
    for line in trainer.data.summary(trainer.total_steps):
        say(f"data: {line}")
    if not trainer.is_complete or trainer.evaluation_due:
        if checkpoint is not None:
            say(f"resuming from {checkpoint}")
        if trainer.parallel.is_main:
            write_text(trainer.run_dir / "config.yaml", dump_yaml(config))
        try:
            finished = trainer.train()
            trainer.parallel.barrier()  # the main rank may have been writing
        except TrainingError as error:
            say(f"error: {error}; what was saved before is in {trainer.run_dir}/checkpoints")
            raise TrainingFailed(str(error)) from None
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
        if trainer.parallel.is_main and checkpoint is not None:
            require_copied(checkpoint, copies_of(config))
    if trainer.ended_early is not None:
        say(f"ended early, after step {trainer.step:,} of {trainer.total_steps:,}: {trainer.ended_early}")
    numbers = _last_numbers(config)
    if (speed := trainer.tokens_per_second) is not None:  # this process trained
        numbers |= {"tokens_per_second": speed, **trainer.utilization.of(speed)}
    say(_described(trainer.step, numbers))
    say(f"next: modelzoo generate {trainer.run_dir} --prompt TEXT")
    return numbers


def _described(step: int, numbers: dict[str, Any]) -> str:
    """The line that a run ends with."""
    from modelzoo.trainer.metric_names import described_losses

    line = f"done: step {step:,}" + (f", loss {numbers['loss']:.4f}" if "loss" in numbers else "")
    line += "".join(f", {losses}" for losses in described_losses(numbers))
    if (speed := numbers.get("tokens_per_second")) is not None:
        line += f", {speed:,.0f} tokens/s"
    mfu = numbers.get("mfu")
    line += ", MFU n/a" if mfu is None else f", MFU {mfu:.1%}"
    if peak := numbers.get("peak_memory_bytes"):
        line += f", peak memory {peak / 2**30:,.2f} GiB"
    return line
