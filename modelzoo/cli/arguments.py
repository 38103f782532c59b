"""What several verbs do with their arguments, and how they speak."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from modelzoo.base_config import UserError


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names, and hydra overrides: `key=value`, `+key=value`, `~key`."""
    names = [a for a in arguments if Path(a).is_file() or ("=" not in a and not a.startswith("~"))]
    if not names:
        raise UserError("no config is named, only overrides; name one: modelzoo list")
    return names, [a for a in arguments if a not in names]


def say(line: str) -> None:
    """A line for the person at the terminal; standard output is kept for results."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[None]:
    """SIGTERM (of a job queue) and SIGHUP (of a closed terminal) stop the block as Ctrl-C does: what it has begun
    of `out` is removed, and the exit code is 3. A signal that is ignored, as under nohup, stays so."""

    def stop(*_: Any) -> None:
        for number in before:  # a second one must not cut the removal short
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: found for number in numbers if (found := signal.getsignal(number)) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:
        say(f"stopped; nothing of {out} stays")
        raise typer.Exit(3) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def accelerator_from(**options: Any) -> Any:
    """The device of `--device` and `--precision`, checked like the YAML section of the same names."""
    from modelzoo.allocator import keep_freed_memory
    from modelzoo.config_errors import Provenance
    from modelzoo.config_files import Composed, validate
    from modelzoo.trainer.accelerator import choose_accelerator
    from modelzoo.trainer.config import AcceleratorConfig

    composed = Composed(options, Provenance("command line"), {})
    accelerator = choose_accelerator(validate(AcceleratorConfig, composed))
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    for note in accelerator.notes:
        say(f"note: {note}")
    return accelerator
