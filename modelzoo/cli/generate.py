"""`modelzoo generate`: text from a checkpoint, streamed as it comes, or many prompts in batches."""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modelzoo.base_config import UserError
from modelzoo.cli import prompts as prompts_of
from modelzoo.cli.arguments import say
from modelzoo.cli.decoding import check_precision, load_batcher
from modelzoo.cli.exit_codes import STOPPED
from modelzoo.cli.progress import counting
from modelzoo.cli.prompts import Prompt

if TYPE_CHECKING:
    from modelzoo.batching import Batcher, Completion

ANSWER = ("text", "finish_reason", "new_tokens", "seed", "seconds")
"""Keys of the JSON beside `prompt`."""


def command(
    checkpoint: Path = typer.Argument(..., help="A checkpoint, or a run's folder (its newest one)."),
    prompt: list[str] = typer.Option(None, help="The text to continue; may be given several times."),
    prompts: Path = typer.Option(
        None, help="A file of them: .txt, one a line, or .jsonl with the key `prompt` (others come back with --json)."
    ),
    max_new_tokens: int = typer.Option(None, min=1, help="Tokens to add at most; 100, or what the context holds."),
    temperature: float = typer.Option(0.8, min=0.0, help="0 is greedy: always the likeliest token."),
    top_k: int = typer.Option(None, min=1, help="Draw from the k likeliest tokens only."),
    top_p: float = typer.Option(
        None, min=0.0, max=1.0, help="Draw from the likeliest tokens of this total mass; 0.95 unless greedy."
    ),
    min_p: float = typer.Option(
        None, min=0.0, max=1.0, help="Draw from tokens at least this fraction as likely as the likeliest."
    ),
    repetition_penalty: float = typer.Option(1.0, help="Above 1 discourages tokens that were there before."),
    stop: list[str] = typer.Option(None, help="End before this text; may be given several times."),
    seed: int = typer.Option(0, min=0, max=2**63 - 1, help="Equal seeds give equal text."),
    num_samples: int = typer.Option(1, min=1, max=1000, help="Continuations of each prompt, with seed, seed + 1, …"),
    batch_size: int = typer.Option(8, min=1, help="Continuations computed at a time."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, mps, xpu."),
    precision: str = typer.Option("fp32", help="Of the weights: fp32, bf16, int8 (CPU)."),
    weights: str = typer.Option("model", help="model, or the name of an `ema` callback: its averaged weights."),
    as_json: bool = typer.Option(False, "--json", help="For programs: an object, or one a line for several prompts."),
) -> None:
    """Continue prompts; stops at the end of a document."""
    if (not prompt) == (prompts is None):
        raise UserError("give --prompt TEXT (several times, if you like) or --prompts FILE")
    given = prompts_of.from_options(prompt) if prompt else prompts_of.from_file(prompts, ANSWER)
    streaming = len(given) == num_samples == 1 and prompts is None and not as_json
    try:
        batcher, completions = prepare(
            checkpoint,
            given,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            stop=stop or (),
            seed=seed,
            num_samples=num_samples,
            batch_size=batch_size,
            device=device,
            precision=precision,
            weights=weights,
        )
        if streaming:
            stream(batcher, given[0], next(completions))
            return
        count = len(given) * num_samples
        alone = count == 1 and prompts is None
        for number, done in enumerate(in_order(batcher, completions, count)):
            answer = _answer(given[number // num_samples], done)
            if as_json:
                print(json.dumps(answer, indent=1 if alone else None), flush=True)
            else:
                print(f"── {number + 1} of {count} ──\n{answer['prompt']}{answer['text']}", flush=True)
    except KeyboardInterrupt:
        if streaming:
            print(flush=True)
        say("stopped")
        raise typer.Exit(STOPPED) from None


def run(checkpoint: Path, prompt: str, **options: Any) -> None:
    """Stream a prompt and its continuation to standard output; `options` as for `prepare`."""
    given = [Prompt(prompt)]
    batcher, completions = prepare(checkpoint, given, **options)
    stream(batcher, given[0], next(completions))


def prepare(
    checkpoint: Path,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int | None = None,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop: Sequence[str] = (),
    seed: int = 0,
    num_samples: int = 1,
    batch_size: int = 8,
    device: str = "auto",
    precision: str = "fp32",
    weights: str = "model",
) -> tuple["Batcher", Iterator["Completion"]]:
    """What computes, and what is to be computed: `num_samples` of each prompt in turn, made as they are taken.

    Raises UserError with every prompt that the model's context does not hold, and for options that mean nothing.
    """
    filters = {"--top-k": top_k, "--top-p": top_p, "--min-p": min_p}
    if temperature == 0 and (without_effect := [name for name, value in filters.items() if value is not None]):
        raise UserError(
            f"{', '.join(without_effect)}: no effect with --temperature 0 (greedy); leave out, or raise the temperature"
        )
    if temperature == 0 and num_samples > 1:
        raise UserError(f"--num-samples {num_samples}: all alike with --temperature 0 (greedy); raise the temperature")
    if not all(stop):
        raise UserError("--stop: is empty; give the text to stop at")
    prompts_of.check_text("--stop", stop)
    check_precision(precision)

    from modelzoo.batching import Completion
    from modelzoo.model.sampling import Sampling
    from modelzoo.saved_models import load_model_config, load_tokenizer
    from modelzoo.trainer.checkpoint import find_checkpoint

    try:
        samplings = [
            Sampling(
                temperature=temperature,
                top_k=top_k,
                top_p=0.95 if top_p is None and temperature > 0 else top_p,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                seed=(seed + sample) % 2**63,
            )
            for sample in range(num_samples)
        ]
    except ValueError as error:  # name=value: …
        name, told = str(error).split("=", 1)
        raise UserError(f"--{name.replace('_', '-')} {told}") from None
    folder = find_checkpoint(checkpoint)
    tokenizer, context = load_tokenizer(folder), load_model_config(folder).max_seq_len
    asked, problems = list[tuple[list[int], int]](), list[str]()  # (ids, limit) of each prompt
    for prompt in prompts:
        ids = tokenizer.encode(prompt.text) or [tokenizer.end_of_document_id]
        room = context - len(ids)
        if room < (max_new_tokens or 1):
            remedy = f"shorten it, or use --max-new-tokens {room}" if room > 0 else "shorten it"
            wanted = f" and --max-new-tokens {max_new_tokens}" if room > 0 else ""
            problems.append(
                f"{prompt.where}: has {len(ids)} tokens{wanted}, and the model's context is {context}; {remedy}"
            )
        limit = min(100, room) if max_new_tokens is None else max_new_tokens
        asked.append((ids, limit))
    prompts_of.refuse_all(problems)
    longest = max(len(ids) + limit for ids, limit in asked)
    max_rows = min(batch_size, len(asked) * num_samples)
    completions = (Completion(ids, sampling, limit, tuple(stop)) for ids, limit in asked for sampling in samplings)
    return load_batcher(folder, tokenizer, device, precision, max_rows, longest, weights), completions


def stream(batcher: "Batcher", prompt: Prompt, completion: "Completion") -> None:
    """Compute one completion, and print it after its prompt as it comes."""
    completion.on_piece = lambda piece: print(piece.text, end="", flush=True)
    print(prompt.text, end="", flush=True)
    for _ in batcher.run([completion]):
        print(flush=True)


def in_order(batcher: "Batcher", completions: Iterable["Completion"], count: int) -> Iterator["Completion"]:
    """Compute `count` completions in batches; each as soon as it and all before it are done. Progress of several on
    stderr."""
    pending = deque["Completion"]()

    def begun() -> Iterator["Completion"]:
        for completion in completions:
            pending.append(completion)
            yield completion

    with nullcontext() if count == 1 else counting("generating", count, "completions") as advance:
        for _ in batcher.run(begun()):
            if advance is not None:
                advance(1)
            while pending and pending[0].finish_reason is not None:
                yield pending.popleft()


def _answer(prompt: Prompt, done: "Completion") -> dict[str, Any]:
    values = (done.text, done.finish_reason, done.num_tokens, done.sampling.seed, round(done.seconds, 3))
    return {"prompt": prompt.text, **dict(zip(ANSWER, values, strict=True)), **prompt.fields}
