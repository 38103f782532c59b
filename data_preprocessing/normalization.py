"""Normalization of text before anything else is made of it. Off unless it is named: it changes bytes."""

import unicodedata
from collections.abc import Callable
from typing import Literal, get_args

from modelzoo.base_config import UserError

Normalization = Literal["nfc", "ftfy"]
"""`nfc`: Unicode's canonical composition, so that e and a combining accent are the é of one code point. `ftfy`: what
`ftfy.fix_text` does by its defaults: repairs text that was decoded wrongly (â€™ for ’), HTML entities, ligatures,
curly quotes, control characters and line ends, then nfc; the result may differ between versions of ftfy."""


def normalizer(name: Normalization | None) -> Callable[[str], str]:
    """The function that normalizes one text; None: it stays as it is. The function can be pickled.

    Raises:
        UserError: the name is unknown, or its package is not installed.
    """
    if name is None:
        return _unchanged
    if name == "nfc":
        return _nfc
    if name == "ftfy":
        try:
            from ftfy import fix_text
        except ImportError:
            raise UserError("normalization=ftfy: needs the package ftfy; install it: pip install ftfy") from None
        return fix_text
    raise UserError(f"normalization={name}: expected one of {', '.join(get_args(Normalization))}, or null")


def _unchanged(text: str) -> str:
    return text


def _nfc(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)  # which has its own way for text in NFC
