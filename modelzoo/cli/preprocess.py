"""`modelzoo preprocess`: raw text to HDF5."""

import ctypes
import re
import shlex
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from modelzoo.allocator import keep_freed_memory
from modelzoo.base_config import UserError
from modelzoo.cli.arguments import say

if TYPE_CHECKING:
    from data_preprocessing.pipeline import Summary
    from data_preprocessing.tasks import Task


def command(
    config: str = typer.Argument(..., help="A shipped name (preprocess/…), or the path of a YAML."),
    overrides: list[str] = typer.Argument(None, help="key=value, in hydra's grammar."),
    task: str = typer.Option(None, help="Do one share of the work, I/N with I from 0: for array jobs."),
    merge: bool = typer.Option(False, help="Make the dataset of what all tasks have left."),
) -> None:
    """Raw text to an HDF5 dataset: tokens, documents, and a ledger of what was left out."""
    if task and merge:
        raise UserError(f"--task {task} --merge: one of the two; merge once, when all tasks have ended")
    keep_freed_memory()  # of this process alone: `run` is also called by programs that go on to train
    summary = run(config, overrides or [], parse_task(task) if task else None, merge)
    # A reference that is never given back: to take a tokenizer apart takes 0.05 s, and the process ends here
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(summary.tokenizer))


def parse_task(text: str) -> "Task":
    """`2/8` to the task of that index and count. Raises UserError for anything else."""
    from data_preprocessing.tasks import Task

    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise UserError(f"--task {text}: expected INDEX/COUNT with an index from 0 to COUNT - 1, as in 0/8 … 7/8")
    return Task(int(found[1]), int(found[2]))


def run(name: str, overrides: list[str], task: "Task | None" = None, merge: bool = False) -> "Summary":
    """Preprocess, and say what was written."""
    from modelzoo.config_files import compose_beside, validate

    composed = compose_beside(name, overrides)
    from data_preprocessing import pipeline
    from data_preprocessing.config import PreprocessConfig
    from modelzoo.cli.progress import reading

    config = validate(PreprocessConfig, composed())
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: of a job queue, or of a terminal that was closed
        signal.signal(number, signal.default_int_handler)
    try:
        with reading("preprocessing") as on_progress:
            summary = pipeline.run(config, on_progress=on_progress, task=task, merge_tasks=merge)
    except KeyboardInterrupt:
        done = Path(f"{config.output}.partial")
        say(
            f"stopped; the same command goes on from what is done, in {done}"
            if done.exists()
            else "stopped before anything was written"
        )
        raise typer.Exit(3) from None
    for note in summary.tokenizer.notes:
        say(f"note: {note}")
    if summary.manifest is None:
        command = shlex.join(["modelzoo", "preprocess", name, *overrides, "--merge"])
        say(f"{summary.output}: this task is done; when all are: {command}")
        return summary
    if summary.already_done:
        say(f"already done: {summary.output} holds this dataset")
    ledger = summary.manifest.ledger
    for split, info in summary.manifest.splits.items():
        say(
            f"{summary.output} ({split}): {info.num_documents:,} documents, {info.num_bytes:,} bytes, "
            f"{info.num_tokens:,} tokens, {info.num_bytes / info.num_tokens:.2f} bytes per token"
        )
    for reason, number_left in ledger.rejected_by_reason.items():
        say(f"left out: {number_left:,} documents ({reason}); they are listed in {summary.output}/rejected.jsonl")
    if ledger.documents_left_out:
        say(f"left out: {ledger.documents_left_out:,} documents (outside the fraction)")
    for advice in summary.manifest.advice:
        say(f"advice: {advice}")
    return summary
