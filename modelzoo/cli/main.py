"""The command line: one file a verb, and one place where an error becomes a message and an exit code."""

import atexit
import gc
import io
import os
import sys

import typer

from modelzoo.base_config import UserError
from modelzoo.cli import (
    check,
    compare,
    compare_job,
    demo,
    diff,
    evaluate,
    export_hf,
    generate,
    import_hf,
    inspect,
    list_configs,
    merge,
    mup,
    preprocess,
    report,
    serve,
    show,
    tokenizer,
    train,
    verify,
    vocab,
)
from modelzoo.files import OUT_OF_SPACE

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Pick a YAML, launch. Train GPT-2, GPT-J and GPT-NeoX style language models.",
)
app.command("list")(list_configs.command)
app.command("show")(show.command)
app.command("check")(check.command)
app.command("diff")(diff.command)
app.add_typer(tokenizer.app, name="tokenizer")
app.command("preprocess")(preprocess.command)
app.command("inspect")(inspect.command)
app.command("verify")(verify.command)
app.command("train")(train.command)
app.command("compare")(compare.command)
app.command("compare-job", hidden=True)(compare_job.command)
app.command("report")(report.command)
app.command("evaluate")(evaluate.command)
app.command("generate")(generate.command)
app.command("serve")(serve.command)
app.add_typer(mup.app, name="mup")
app.command("import")(import_hf.command)
app.command("export")(export_hf.command)
app.command("merge")(merge.command)
app.command("vocab")(vocab.command)
app.command("demo")(demo.command)


def main() -> None:
    """Exit codes: 0 done; 2 the user's input is wrong; 3 stopped by a signal, checkpoint saved; 1 else."""
    atexit.register(gc.freeze)  # what lives to the end needs no search for cycles there: 0.15 s of a command
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a character shows its code
    try:
        app()
    except UserError as error:
        fail(str(error))
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno in OUT_OF_SPACE:
            fail(f"{error.filename or 'disk'}: no space left on the device; free some and run the command again")
        if error.filename is None:
            raise
        reason = (error.strerror or type(error).__name__).lower()
        fail(f"{error.filename}: {reason}; choose another path, or change what stands there or its permissions")


def fail(message: str) -> None:
    """Print what is wrong to standard error and exit with 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
