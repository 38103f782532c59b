"""`modelzoo generate`: text from a checkpoint, streamed as it comes."""

import codecs
import json
import sys
import time
from pathlib import Path

import typer

from modelzoo.cli.arguments import accelerator_from


def command(
    checkpoint: Path = typer.Argument(..., help="A checkpoint, or a run's folder (its newest one)."),
    prompt: str = typer.Option(..., help="The text to continue."),
    max_new_tokens: int = typer.Option(None, min=1, help="Tokens to add at most; 100, or what the context holds."),
    temperature: float = typer.Option(0.8, min=0.0, help="0 is greedy: always the likeliest token."),
    top_k: int = typer.Option(None, min=1, help="Draw from the k likeliest tokens only."),
    top_p: float = typer.Option(
        None, min=0.0, max=1.0, help="Draw from the likeliest tokens of this total mass; 0.95 unless greedy."
    ),
    seed: int = typer.Option(0, min=0, max=2**63 - 1, help="Equal seeds give equal text."),
    device: str = typer.Option("auto", help="auto, cpu, cuda, mps, xpu."),
    as_json: bool = typer.Option(False, "--json", help="For programs: nothing is streamed."),
) -> None:
    """Continue a prompt; stops at the end of a document."""
    started = time.monotonic()
    text, num_tokens = run(
        checkpoint,
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        device=device,
        stream=not as_json,
    )
    if as_json:
        seconds = time.monotonic() - started
        answer = {"prompt": prompt, "text": text, "new_tokens": num_tokens, "seed": seed, "seconds": seconds}
        print(json.dumps(answer, indent=1, ensure_ascii=False))


def run(
    checkpoint: Path,
    prompt: str,
    *,
    max_new_tokens: int | None = None,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    device: str = "auto",
    stream: bool = True,
) -> tuple[str, int]:
    """The continuation, and how many tokens it took. Streams prompt and continuation to standard output."""
    from modelzoo.base_config import UserError
    from modelzoo.launch import load_model, load_tokenizer
    from modelzoo.model.decoder import Token
    from modelzoo.model.generate import generate
    from modelzoo.model.sampling import Sampling
    from modelzoo.trainer.checkpoint import find_checkpoint

    accelerator = accelerator_from(device=device)
    folder = find_checkpoint(checkpoint)
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, str(accelerator.device))
    top_p = 0.95 if top_p is None and temperature > 0 else top_p
    if not prompt.isascii() and prompt.encode(errors="replace").decode() != prompt:
        raise UserError("--prompt: is not UTF-8 text; check the terminal's encoding")
    if 0 < temperature < 1e-3:
        raise UserError(f"--temperature {temperature}: use 0 for greedy, or at least 0.001")
    ids = tokenizer.encode(prompt) or [tokenizer.end_of_document_id]
    room = model.config.max_seq_len - len(ids)
    if room < 1:
        raise UserError(
            f"--prompt: has {len(ids)} tokens, and the model's context is {model.config.max_seq_len}; cut it"
        )
    max_new_tokens = min(100, room) if max_new_tokens is None else max_new_tokens
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces: list[str] = []

    def on_token(_: int, token: Token) -> None:
        if token.token_id != tokenizer.end_of_document_id:
            pieces.append(decoder.decode(tokenizer.decode_bytes([token.token_id])))
            if stream:
                print(pieces[-1], end="", flush=True)

    if stream:
        print(prompt, end="", flush=True)
    try:
        generated = generate(
            model,
            [ids],
            max_new_tokens,
            Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
            stop_ids=[tokenizer.end_of_document_id],
            on_token=on_token,
        )
    except ValueError as error:  # a prompt too long, options that contradict each other
        raise UserError(str(error)) from None
    pieces.append(decoder.decode(b"", final=True))
    if stream:
        print(pieces[-1])
        sys.stdout.flush()
    return "".join(pieces), len(generated[0].token_ids)
