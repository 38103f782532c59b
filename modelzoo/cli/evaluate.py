"""`modelzoo evaluate`: loss, perplexity and bits per byte of a checkpoint on a preprocessed split."""

import json
from pathlib import Path
from typing import Any

import typer

from modelzoo.cli.arguments import accelerator_from, say


def command(
    checkpoint: Path = typer.Argument(..., help="A checkpoint, or a run's folder (its newest one)."),
    data: Path = typer.Option(None, help="A dataset's directory; the run's own validation data otherwise."),
    split: str = typer.Option(None, help="The split of it; the run's validation split otherwise."),
    seq_len: int = typer.Option(None, min=1, help="Tokens in a row; the run's own otherwise."),
    batch_size: int = typer.Option(16, min=1, help="Rows per forward pass."),
    max_batches: int = typer.Option(None, min=1, help="Look at the first ones only."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, mps, xpu."),
    precision: str = typer.Option("fp32", help="fp32, bf16, fp16."),
    compressors: bool = typer.Option(
        False, help="Also compress each document alone with gzip -9 and xz -9, for bits per byte to beat."
    ),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Loss, perplexity and bits per byte on held-out text."""
    numbers = run(
        checkpoint,
        data,
        split,
        seq_len=seq_len,
        batch_size=batch_size,
        max_batches=max_batches,
        device=device,
        precision=precision,
        compressors=compressors,
    )
    print(json.dumps(numbers, indent=1) if as_json else describe(numbers))


def run(
    checkpoint: Path,
    data: Path | None = None,
    split: str | None = None,
    *,
    seq_len: int | None = None,
    batch_size: int = 16,
    max_batches: int | None = None,
    device: str = "auto",
    precision: str = "fp32",
    compressors: bool = False,
) -> dict[str, Any]:
    """The numbers that `command` prints. Every token of the split is predicted once, also the first."""
    from modelzoo.base_config import UserError
    from modelzoo.cli.progress import counting
    from modelzoo.data.config import SourceConfig
    from modelzoo.data.sources import is_modelzoos, open_dataset
    from modelzoo.launch import load_model, load_saved_config, load_tokenizer
    from modelzoo.trainer.checkpoint import find_checkpoint
    from modelzoo.trainer.trainer import evaluate_loss, loss_metrics

    if compressors and max_batches is not None:
        raise UserError("--compressors looks at the whole split, and so must the model; leave --max-batches out")
    accelerator = accelerator_from(device=device, precision=precision)
    folder = find_checkpoint(checkpoint)
    config = load_saved_config(folder)
    if data is None:
        if config.data.validation is None:
            raise UserError(f"{folder}: this run had no validation data; name a dataset with --data PATH")
        source = config.data.validation if split is None else config.data.validation.model_copy(update={"split": split})
    else:
        source = SourceConfig(path=str(data), split=split or (None if is_modelzoos(data) else "validation"))
    data, split = Path(source.path), source.split
    length = seq_len or config.data.seq_len
    if length > config.model.max_seq_len:
        raise UserError(f"--seq-len {length}: the model's max_seq_len is {config.model.max_seq_len}; use that or less")
    dataset = open_dataset(source, length, config.data.isolate_documents, config.model.vocab_size)
    dataset.check_against(load_tokenizer(folder), config.model.vocab_size)
    if compressors and dataset.bytes_per_token is None:
        raise UserError(
            f"{data}: not all of its text is predicted (a loss mask), or its text is not known; leave --compressors out"
        )
    for note in dataset.notes:
        say(f"note: {note}")
    model = load_model(folder, str(accelerator.device))
    total = dataset.num_tokens if max_batches is None else min(dataset.num_tokens, max_batches * batch_size * length)
    with counting("evaluating", total, "tokens") as advance:
        batches = dataset.evaluation_batches(batch_size, max_batches)
        result = evaluate_loss(model, batches, accelerator, on_batch=advance)
    assert result is not None
    numbers: dict[str, Any] = {
        "checkpoint": str(folder),
        "data": str(data),
        "split": split,
        "documents": dataset.num_documents,
        "tokens": result[1],
        "bytes_per_token": dataset.bytes_per_token,
        **loss_metrics(*result, dataset.bytes_per_token),
    }
    if compressors:
        numbers |= compressed_bits_per_byte(dataset, load_tokenizer(folder))
    return numbers


def compressed_bits_per_byte(dataset: Any, tokenizer: Any) -> dict[str, float]:
    """Bits per byte of `gzip -9` and `xz -9` over the same documents, each compressed alone."""
    import gzip
    import lzma

    from modelzoo.cli.progress import counting

    sizes = {"gzip": 0, "xz": 0, "text": 0}
    with counting("compressing", dataset.num_documents, "documents") as advance:
        for index in range(dataset.num_documents):
            text = tokenizer.decode_bytes(dataset.document(index))
            sizes["text"] += len(text)
            sizes["gzip"] += len(gzip.compress(text, 9, mtime=0))
            sizes["xz"] += len(lzma.compress(text, preset=9))
            advance(1)
    return {f"{name}_bits_per_byte": 8 * sizes[name] / sizes["text"] for name in ("gzip", "xz")}


def describe(numbers: dict[str, Any]) -> str:
    """The numbers for a reader."""
    split = numbers["split"] or "no splits"
    lines = [
        f"{numbers['checkpoint']} on {numbers['data']} ({split}, {numbers['tokens']:,} tokens)",
        f"  loss           {numbers['loss']:.4f} nats per token",
        f"  perplexity     {numbers['perplexity']:.2f}",
    ]
    if "bits_per_byte" in numbers:
        lines.append(f"  bits per byte  {numbers['bits_per_byte']:.4f}")
    for name in ("gzip", "xz"):
        if (key := f"{name}_bits_per_byte") in numbers:
            lines.append(f"  {name + ' -9':<14} {numbers[key]:.4f} bits per byte, each document alone")
    return "\n".join(lines)
