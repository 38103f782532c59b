"""`modelzoo evaluate`: what a checkpoint makes of held-out text, or of the tasks of lm-evaluation-harness."""

import glob
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modelzoo.base_config import UserError
from modelzoo.cli.arguments import accelerator_from

if TYPE_CHECKING:
    from modelzoo.tokenizer import Tokenizer


def command(
    checkpoint: Path = typer.Argument(..., help="A checkpoint, or a run's folder (its newest one)."),
    data: str = typer.Option(
        None,
        help="A dataset's directory, or raw text: a file (.txt, .jsonl, .json, .parquet, compressed too), a pattern, "
        "a directory of such files. The run's own validation data otherwise.",
    ),
    split: str = typer.Option(None, help="The split of a dataset; the run's validation split otherwise."),
    of_set: str = typer.Option(None, "--set", help="Which of the run's validation sets, where it has several."),
    weights: str = typer.Option("model", help="model, or the name of an `ema` callback: its averaged weights."),
    text_key: str = typer.Option(None, help="Raw text: the key or column that holds it; text otherwise."),
    on_error: str = typer.Option(None, help="Raw text: stop (the default) or reject a document that cannot be read."),
    seq_len: int = typer.Option(None, min=1, help="Tokens in a row or window; the run's, or the model's, otherwise."),
    stride: int = typer.Option(
        None,
        min=1,
        help="Read document by document, a long one in windows this far apart; half of --seq-len for raw text.",
    ),
    per_document: Path = typer.Option(None, help="Also write the sums of each document, as JSON Lines, to this file."),
    batch_size: int = typer.Option(16, min=1, help="Rows per forward pass."),
    max_batches: int = typer.Option(None, min=1, help="Datasets: look at the first ones only."),
    limit: int = typer.Option(None, min=1, help="Look at so many documents only, of raw text or of each task."),
    tokenizer: Path = typer.Option(None, help="For a checkpoint that has none."),
    tasks: str = typer.Option(None, help="Instead of --data: tasks of lm-evaluation-harness, NAME,NAME; * matches."),
    tasks_dir: Path = typer.Option(None, help="A directory of the harness's task files (.yaml), to find tasks in."),
    num_fewshot: int = typer.Option(None, min=0, help="Tasks: examples before each question; the task's otherwise."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, mps, xpu."),
    precision: str = typer.Option("fp32", help="fp32, bf16, fp16."),
    compressors: bool = typer.Option(
        False, help="Datasets: also compress each document alone with gzip -9 and xz -9, for bits per byte to beat."
    ),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Loss, perplexity, bits per byte and per character on held-out text; or tasks of lm-evaluation-harness."""
    shared: dict[str, Any] = {
        "batch_size": batch_size, "tokenizer": tokenizer, "device": device, "weights": weights
    }  # fmt: skip
    if tasks is not None:
        from modelzoo.cli import evaluate_tasks

        _refuse(
            "--tasks has no use for it",
            data=data, split=split, set=of_set, text_key=text_key, on_error=on_error, stride=stride,
            per_document=per_document, max_batches=max_batches, compressors=compressors or None,
        )  # fmt: skip
        numbers = evaluate_tasks.run(
            checkpoint, tasks, tasks_dir, num_fewshot=num_fewshot, limit=limit, seq_len=seq_len, precision=precision,
            **shared,
        )  # fmt: skip
        if as_json:
            print(json.dumps(numbers, indent=1))
        else:
            evaluate_tasks.show(numbers)
        return
    _refuse("it is for --tasks", tasks_dir=tasks_dir, num_fewshot=num_fewshot)
    numbers = run(
        checkpoint, data, split, of_set=of_set, text_key=text_key, on_error=on_error, seq_len=seq_len, stride=stride,
        per_document=per_document, max_batches=max_batches, limit=limit, precision=precision, compressors=compressors,
        **shared,
    )  # fmt: skip
    print(json.dumps(numbers, indent=1) if as_json else describe(numbers))


def run(
    checkpoint: Path,
    data: str | Path | None = None,
    split: str | None = None,
    *,
    of_set: str | None = None,
    weights: str = "model",
    text_key: str | None = None,
    on_error: str | None = None,
    seq_len: int | None = None,
    stride: int | None = None,
    per_document: Path | None = None,
    batch_size: int = 16,
    max_batches: int | None = None,
    limit: int | None = None,
    tokenizer: Path | None = None,
    device: str = "auto",
    precision: str = "fp32",
    compressors: bool = False,
) -> dict[str, Any]:
    """The numbers that `command` prints. Every token is predicted once, also the first."""
    from modelzoo.cli import evaluate_data
    from modelzoo.evaluate.scoring import Scorer
    from modelzoo.saved_models import load_model
    from modelzoo.trainer.checkpoint import find_checkpoint

    if on_error not in (None, "stop", "reject"):
        raise UserError(f"--on-error {on_error}: expected stop or reject")
    if compressors and max_batches is not None:
        raise UserError("--compressors looks at the whole split, and so must the model; leave --max-batches out")
    if data is not None and "://" not in str(data) and not glob.glob(str(data)) and not Path(data).exists():
        raise UserError(f"--data {data}: no such file or directory; name a dataset's directory, or text")
    if data is not None:
        _refuse(f"{data} is named, not the run's own data", set=of_set)
    is_dataset = data is None or evaluate_data.is_dataset(Path(data))
    if is_dataset:
        _refuse(f"{data or 'the data'} is a dataset, not raw text", text_key=text_key, on_error=on_error)
    else:
        _refuse(f"{data} is raw text", split=split, max_batches=max_batches, compressors=compressors or None)
    accelerator = accelerator_from(device=device, precision=precision)
    folder = find_checkpoint(checkpoint)
    known = tokenizer_of(folder, tokenizer)
    scorer = Scorer(load_model(folder, str(accelerator.device), weights=weights), accelerator, batch_size)
    check_fits(known, scorer.model.config.vocab_size, folder)
    evaluation = evaluate_data.Evaluation(scorer, known, folder, seq_len, stride, per_document, limit)
    if is_dataset:
        numbers = evaluation.of_dataset(None if data is None else Path(data), split, max_batches, compressors, of_set)
    else:
        numbers = evaluation.of_text(str(data), text_key, on_error or "stop")
    return {"checkpoint": str(folder), **numbers}


def _refuse(why: str, **options: Any) -> None:
    """An option that would be ignored is an error."""
    for name, value in options.items():
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')}: {why}; leave it out")


def tokenizer_of(folder: Path, path: Path | None) -> "Tokenizer":
    """The checkpoint's own tokenizer, or the named one where it has none."""
    from modelzoo.tokenizer import Tokenizer

    own = folder / "tokenizer.json"
    if own.is_file() and path is not None:
        raise UserError(f"--tokenizer {path}: {folder} has its own; leave it out")
    if not own.is_file() and path is None:
        raise UserError(f"{folder}: holds no tokenizer.json; name the tokenizer of this model with --tokenizer PATH")
    return Tokenizer.load(path or own)


def check_fits(tokenizer: "Tokenizer", vocab_size: int, folder: Path) -> None:
    """Refuse a tokenizer whose ids the model does not have."""
    if tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"{tokenizer.path}: has {tokenizer.vocab_size:,} ids, but the model in {folder} was made for "
            f"{vocab_size:,}: it is the tokenizer of another model; use this model's own"
        )


def describe(numbers: dict[str, Any]) -> str:
    """The numbers for a reader."""
    what = f" ({numbers['split']})" if numbers.get("split") else ""
    windows = f", windows of {numbers['seq_len']:,} tokens"
    if numbers["stride"] is not None:
        windows += f" every {numbers['stride']:,}, documents apart"
    documents = "" if numbers["documents"] is None else f"{numbers['documents']:,} documents, "
    ends = numbers["without_ends"]
    lines = [
        f"{numbers['checkpoint']} on {numbers['data']}{what}",
        f"  {documents}{numbers['tokens']:,} tokens, {numbers['bytes']:,} bytes{windows}",
        "                        all tokens  without ends of documents",
    ]
    for label, key, unit in (
        ("loss", "loss", "nats per token"),
        ("perplexity", "perplexity", ""),
        ("bits per byte", "bits_per_byte", ""),
        ("bits per character", "bits_per_character", ""),
    ):
        if key in numbers:
            lines.append(f"  {label:<20} {numbers[key]:>11.4f} {ends[key]:>11.4f} {unit}".rstrip())
    for name in ("gzip", "xz"):
        if (key := f"{name}_bits_per_byte") in numbers:
            lines.append(f"  {name + ' -9':<20} {numbers[key]:>11.4f}  bits per byte, each document alone")
    if numbers.get("left_out"):
        lines.append(f"  left out: {', '.join(f'{n:,} {why}' for why, n in numbers['left_out'].items())}")
    return "\n".join(lines)
