"""`modelzoo demo`: the main job from raw text to generated text, in minutes on a CPU, as five commands."""

import time
from pathlib import Path

import typer

from modelzoo.cli.arguments import say
from modelzoo.cli.exit_codes import STOPPED

CONFIG, DATA = "gptj_tiny", "python_stdlib"
PROMPT = 'class Queue:\n    """'


def command() -> None:
    """The main job from end to end on this machine: tokenizer, data, training, evaluation, text."""
    from modelzoo.cli import evaluate, generate, preprocess, tokenizer, train

    started = time.monotonic()
    announce(f"tokenizer train tokenizer/{DATA}")
    if Path("tokenizers", DATA, "tokenizer.json").exists():
        say(f"already done: tokenizers/{DATA}/tokenizer.json")
    else:
        tokenizer.run(f"tokenizer/{DATA}", [])
    announce(f"preprocess preprocess/{DATA}")
    preprocess.run(f"preprocess/{DATA}", [])
    announce(f"train {CONFIG}")
    training = train.run(CONFIG, [])
    if training is None:
        raise typer.Exit(STOPPED)
    folder = Path("runs", CONFIG)
    announce(f"evaluate {folder} --compressors")
    numbers = evaluate.run(folder, compressors=True)
    print(evaluate.describe(numbers))
    announce(f"generate {folder} --temperature 0.6 --max-new-tokens 160 --prompt {PROMPT!r}")
    generate.run(folder, PROMPT, temperature=0.6, max_new_tokens=160)
    ours, gzip, xz = (numbers[key] for key in ("bits_per_byte", "gzip_bits_per_byte", "xz_bits_per_byte"))
    verdict = "ahead of" if ours < gzip else "NOT ahead of"
    print(
        f"""
held-out text     {ours:.3f} bits per byte, {verdict} gzip -9 ({gzip:.3f}); xz -9 has {xz:.3f}
training          {training["tokens_per_second"]:,.0f} tokens/s
files             {folder}/loss.png          the curve
                  {folder}/metrics.jsonl     every number (tensorboard --logdir runs)
                  {folder}/checkpoints       weights, optimizer, tokenizer
                  data/{DATA}             the tokens
time              {time.monotonic() - started:.0f} s

next: the same with GPT-NeoX's block and twice the tokens:
    modelzoo train gpt_neox_tiny trainer.max_tokens=1_000_000
    modelzoo diff gptj_tiny gpt_neox_tiny"""
    )
    if ours >= gzip:
        raise typer.Exit(1)


def announce(arguments: str) -> None:
    """The command that the next lines come from."""
    say(f"\n$ modelzoo {arguments}")
