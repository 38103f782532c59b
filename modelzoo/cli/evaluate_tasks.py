"""`modelzoo evaluate --tasks`: tasks of lm-evaluation-harness."""

from pathlib import Path
from typing import Any

from modelzoo.base_config import UserError
from modelzoo.cli.arguments import accelerator_from, say
from modelzoo.cli.table import print_table


def run(
    checkpoint: Path,
    tasks: str,
    tasks_dir: Path | None = None,
    *,
    num_fewshot: int | None = None,
    limit: int | None = None,
    seq_len: int | None = None,
    batch_size: int = 16,
    tokenizer: Path | None = None,
    device: str = "auto",
    precision: str = "fp32",
    weights: str = "model",
) -> dict[str, Any]:
    """The harness's results, by task."""
    from modelzoo.evaluate import task_files

    task_files.check_installed()
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise UserError("--tasks: names none; expected NAME,NAME")
    specs, notes = task_files.select(names, tasks_dir)
    for note in notes:
        say(f"note: {note}")

    from modelzoo.cli.evaluate import check_fits, tokenizer_of
    from modelzoo.cli.progress import counting
    from modelzoo.evaluate.scoring import Scorer
    from modelzoo.evaluate.tasks import run_tasks
    from modelzoo.saved_models import load_model
    from modelzoo.trainer.checkpoint import find_checkpoint

    accelerator = accelerator_from(device=device, precision=precision)
    folder = find_checkpoint(checkpoint)
    known = tokenizer_of(folder, tokenizer)
    scorer = Scorer(load_model(folder, str(accelerator.device), weights=weights), accelerator, batch_size)
    check_fits(known, scorer.model.config.vocab_size, folder)
    longest = scorer.model.config.max_seq_len
    if seq_len is not None and seq_len > longest:
        raise UserError(f"--seq-len {seq_len}: the model's max_seq_len is {longest}; use that or less")
    with counting("evaluating", None, "requests") as advance:
        found = run_tasks(
            specs, scorer, known, max_length=seq_len, num_fewshot=num_fewshot, limit=limit, on_requests=advance
        )
    return {"checkpoint": str(folder), "limit": limit, **found}


def show(numbers: dict[str, Any]) -> None:
    """Print the metrics for a reader: a line each."""
    rows = []
    for task, metrics in numbers["results"].items():
        for name, value in metrics.items():
            metric, _, kind = name.partition(",")
            if not isinstance(value, int | float) or metric.endswith("_stderr") or not kind:
                continue
            error = metrics.get(f"{metric}_stderr,{kind}")
            shown = _number(error) if isinstance(error, float) else ""
            shots = numbers["n-shot"].get(task, "")
            rows.append([task, str(shots), metric if kind == "none" else f"{metric} ({kind})", _number(value), shown])
    title = numbers["checkpoint"] + (f", the first {numbers['limit']:,} of each task" if numbers["limit"] else "")
    print(title)
    print_table(["task", "shots", "metric", "value", "standard error"], rows, right=["shots", "value"])


def _number(value: float) -> str:
    return f"{value:,.4f}" if abs(value) < 1e6 else f"{value:.3e}"
