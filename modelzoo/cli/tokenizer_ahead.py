"""The tokenizer that `modelzoo preprocess` will need, loaded while the program itself is imported."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from modelzoo import tokenizer_files
from modelzoo.fast_loading import begin_ahead
from modelzoo.user_error import UserError


def begin(arguments: Sequence[str]) -> None:
    """Load what the config among the command's arguments most likely names.

    A guess, for half a second of a short run; what is then used is decided by the config, composed and validated.
    """
    lines: list[str] = []
    with suppress(OSError, UserError, UnicodeDecodeError):
        for argument in arguments:
            if argument.endswith(".yaml") and "=" not in argument:
                lines[:0] = Path(argument).read_text(encoding="utf-8").splitlines()
            else:
                lines.append(argument.replace("=", ": ", 1))
        named = [found[1] for line in lines if (found := re.match(r"tokenizer: +['\"]?([^\s'\"#]+)", line))]
        others = any(re.match(r"tokenizer_backend: +['\"]?tokenizers", line) for line in lines)
        if named and not others and Path(named[-1]).exists():
            begin_ahead(tokenizer_files.read_ahead(tokenizer_files.find(named[-1])))
