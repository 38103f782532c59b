"""The command line: one file a verb, and one place where an error becomes a message and an exit code."""

import atexit
import gc
import importlib
import io
import os
import signal
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # whatever takes time to load is loaded by `main`
    import typer

VERBS = {  # in the order of the help -> its file
    "list": "list_configs",
    "show": "show",
    "check": "check",
    "diff": "diff",
    "tokenizer": "tokenizer",
    "preprocess": "preprocess",
    "inspect": "inspect",
    "verify": "verify",
    "train": "train",
    "compare": "compare",
    "compare-job": "compare_job",
    "report": "report",
    "evaluate": "evaluate",
    "generate": "generate",
    "serve": "serve",
    "mup": "mup",
    "import": "import_hf",
    "export": "export_hf",
    "merge": "merge",
    "vocab": "vocab",
    "demo": "demo",
}
HIDDEN = ("compare-job",)
STOPPED_BY_SIGNALS = ("train", "compare-job")
"""Verbs that any signal stops with the same exit code, whatever they are at."""

WITHOUT_TENSORS = ("list", "show", "check", "diff", "tokenizer", "preprocess", "inspect", "verify", "report")
"""Verbs in which what lies in a cycle may wait long for its end: it is small."""
RARE_COLLECTIONS = (50_000, 20, 100)
"""Thresholds of the search for cycles. By default it goes a few hundred times through all that the imports make, nearly
none of which ever ends: 0.07 s of a start."""


def build(verbs: Iterable[str]) -> "typer.Typer":
    """The program with these verbs. Each brings its modules along, so a call asks for no more than it names."""
    import typer

    program = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Pick a YAML, launch. Train GPT-2, GPT-J and GPT-NeoX style language models.",
    )
    program.callback()(lambda: None)  # else a program of one verb would not be told its name
    for verb in verbs:
        module = importlib.import_module(f"modelzoo.cli.{VERBS[verb]}")
        if hasattr(module, "app"):
            program.add_typer(module.app, name=verb)
        else:
            program.command(verb, hidden=verb in HIDDEN)(module.command)
    return program


def __getattr__(name: str) -> "typer.Typer":
    """`app`: the program with all its verbs."""
    if name != "app":
        raise AttributeError(name)
    return build(VERBS)


def main() -> None:
    """Exit codes: 0 done; 2 the user's input is wrong; 3 stopped by a signal, checkpoint saved; 1 else.

    Ctrl-C before another command than `train` has begun ends it by SIGINT: 130 in shells.
    """
    from modelzoo.cli.exit_codes import STOPPED
    from modelzoo.trainer.stop_signals import exit_on_signals

    verb = next(iter(sys.argv[1:]), "")
    interrupts = signal.getsignal(signal.SIGINT)
    if verb in STOPPED_BY_SIGNALS:
        exit_on_signals(STOPPED)
    elif interrupts is signal.default_int_handler:  # whose traceback would come from the middle of an import
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if verb in WITHOUT_TENSORS:
        gc.set_threshold(*RARE_COLLECTIONS)
    atexit.register(gc.freeze)  # what lives to the end needs no search for cycles there: 0.15 s of a command
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that lacks a character shows its code
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy multiplies no matrices here; its threads take 0.04 s
    if verb == "preprocess":
        from modelzoo.cli import tokenizer_ahead

        tokenizer_ahead.begin(sys.argv[2:])
    # to look for plugins, pydantic reads what every installed package says of itself: 0.04 s
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from modelzoo.base_config import UserError
    from modelzoo.files import OUT_OF_SPACE

    program = build([verb] if verb in VERBS else VERBS)
    if interrupts is signal.default_int_handler and verb not in STOPPED_BY_SIGNALS:
        signal.signal(signal.SIGINT, interrupts)
    try:
        program()
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
