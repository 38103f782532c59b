"""Changes to text before anything else sees it, by name."""

import unicodedata
from collections.abc import Callable


def normalizer(name: str | None) -> Callable[[str], str]:
    """The function of this name."""
    return (lambda text: unicodedata.normalize("NFC", text)) if name == "nfc" else str
