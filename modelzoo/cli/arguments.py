"""What several verbs do with their arguments, and how they speak."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def accelerator_from(**options: Any) -> Any:
    """The device of `--device` and `--precision`, checked like the YAML section of the same names."""
    from modelzoo.config_errors import Provenance
    from modelzoo.config_files import Composed, validate
    from modelzoo.trainer.accelerator import choose_accelerator, keep_freed_memory
    from modelzoo.trainer.config import AcceleratorConfig

    composed = Composed(options, Provenance("command line"), {})
    accelerator = choose_accelerator(validate(AcceleratorConfig, composed))
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    for note in accelerator.notes:
        say(f"note: {note}")
    return accelerator
